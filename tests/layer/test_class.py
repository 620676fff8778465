"""The class in real BitBake without OE-Core: what it hashes, which tasks it takes, and how it degrades."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embedded import Build, Refused, Result

import detbuild
from detbuild import audits, epoch, policy, session, surroundings
from detbuild.audit import FIXED, HEAP_KEY, LEAKED, PASSED, TASK, Audit, Gap, Read
from detbuild.errors import EngineDied
from detbuild.exposure import LIBC, OWN, Exposure, kind
from detbuild.marks import Marks

TOP = Path(__file__).resolve().parents[2]
CORE = TOP / "examples" / "meta-quickstart"
EPOCH = 1234567890
CLOCK = "do_compile() {\n    date +%s > ${T}/seen\n}\n"

pytestmark = pytest.mark.bitbake


class Layer:
    """A layer of small recipes, and builds with the class over it."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "meta-cases"
        self.write(
            "conf/layer.conf",
            'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/*.bb"\nBBFILE_COLLECTIONS += "cases"\n'
            'BBFILE_PATTERN_cases = "^${LAYERDIR}/"\nLAYERSERIES_COMPAT_cases = "wrynose"\n',
        )

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def recipe(self, name: str, body: str = CLOCK) -> None:
        head = f'LICENSE = "MIT"\nSRC_URI = ""\nS = "${{UNPACKDIR}}"\nSOURCE_DATE_EPOCH = "{EPOCH}"\n'
        self.write(f"{name}_1.0.bb", head + body)

    def build(self, conf: str = "", layer: Path = TOP) -> Build:
        return Build(
            self.root / "build",
            [CORE, layer, self.path],
            f'INHERIT += "detbuild"\nBBMASK = "/recipes-devtools/"\n{conf}',
        )

    def run(self, *targets: str, conf: str = "", jobs: int = 1) -> Result:
        return self.build(conf).run(*targets, task="do_compile", jobs=jobs)

    def logs(self, recipe: str) -> Path:
        return self.root / f"build/tmp/work/{recipe}/1.0/temp"

    def seen(self, recipe: str) -> int:
        return int((self.logs(recipe) / "seen").read_text())

    def record(self, recipe: str, task: str = "do_compile") -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.logs(recipe) / f"detbuild.{task}.json").read_text())
        return data


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path)


def warnings(result: Result) -> list[str]:
    said = [*result.messages, *(message for task in result.tasks for message in task.messages)]
    return [line for line in said if line.startswith("WARNING: ")]


def test_what_a_compile_starts_lives_at_the_recipes_epoch_and_install_does_not(layer: Layer) -> None:
    layer.recipe("x", CLOCK + "do_install() {\n    date +%s > ${T}/installed\n}\n")
    assert layer.build().run("x:do_install").exit_code == 0
    assert layer.seen("x") == EPOCH
    assert abs(int((layer.logs("x") / "installed").read_text()) - time.time()) < 600
    assert not (layer.logs("x") / "detbuild.do_install.json").exists()


def test_the_audit_lies_beside_the_log_and_names_program_and_clock(layer: Layer) -> None:
    layer.recipe("x")
    layer.run("x")
    record = layer.record("x")
    assert (record["epoch"], record["policy"], record["degraded"]) == (EPOCH, "time", False)
    assert "date" in {Path(read["program"]).name for read in record["reads"] if read["outcome"] == "fixed"}


def test_the_audit_of_a_task_that_failed_is_there_too(layer: Layer) -> None:
    layer.recipe("x", "do_compile() {\n    date +%s\n    false\n}\n")
    assert layer.run("x").exit_code == 1
    assert "date" in {Path(read["program"]).name for read in layer.record("x")["reads"]}


def collected(layer: Layer) -> dict[str, Audit]:
    top = layer.root / "build/tmp/deploy/detbuild-audit"
    files = [path for path in top.rglob("*") if path.is_file()]
    return {str(path.relative_to(top)): Audit.from_json(path.read_text()) for path in files}


def test_the_audits_of_all_tasks_are_collected_also_of_one_that_failed(layer: Layer) -> None:
    layer.recipe("x")
    layer.recipe("y", "do_compile() {\n    date +%s\n    false\n}\n")
    assert layer.run("x").exit_code == 0
    assert layer.run("y").exit_code == 1
    found = collected(layer)
    assert sorted(found) == ["x.do_compile.json", "y.do_compile.json"]
    for name, audit in found.items():
        assert audit.to_dict() == layer.record(name[0])
        (parents,) = {read.parents for read in audit.reads if read.name == "date"}
        assert parents[0] == "run.do_compile"


def test_a_later_run_replaces_the_audit_and_one_outside_a_session_removes_it(layer: Layer) -> None:
    layer.recipe("x")
    layer.run("x")
    layer.recipe("x", CLOCK.replace("date", "env LC_ALL=C date"))
    layer.run("x")
    (first,) = collected(layer).values()
    layer.recipe("x", CLOCK.replace("date", "perl -e 'print time' > /dev/null; date"))
    layer.run("x")
    (second,) = collected(layer).values()
    assert "perl" not in {read.name for read in first.reads}
    assert "perl" in {read.name for read in second.reads}
    layer.recipe("x", CLOCK + 'DETBUILD_ENABLED = "0"\n')
    layer.run("x")
    assert not collected(layer)


def test_the_audits_of_two_multiconfigs_do_not_collide(layer: Layer) -> None:
    layer.recipe("x", 'do_compile() {\n    date "+${WHERE}" > ${T}/seen\n}\n')
    conf = (
        "BBMULTICONFIG = \"other\"\nWHERE = \"${@d.getVar('BB_CURRENT_MC') or 'here'}\"\n"
        'WORKDIR:append = "-${WHERE}"\nSTAMP:append = "-${WHERE}"\n'
    )
    result = layer.build(conf).run("x:do_compile", "mc:other:x:do_compile")
    assert result.exit_code == 0
    found = collected(layer)
    arguments = {name: {read.arguments for read in audit.reads if read.name == "date"} for name, audit in found.items()}
    assert arguments == {"x.do_compile.json": {"+here"}, "mc/other/x.do_compile.json": {"+other"}}


def test_the_audits_of_a_multiconfig_with_a_tmpdir_of_its_own_are_found_too(layer: Layer) -> None:
    layer.recipe("x")
    conf = "BBMULTICONFIG = \"other\"\nTMPDIR = \"${TOPDIR}/tmp${@'-other' if d.getVar('BB_CURRENT_MC') else ''}\"\n"
    assert layer.build(conf).run("x:do_compile", "mc:other:x:do_compile").exit_code == 0
    found = {where.target: where.path for where in audits.find(layer.root / "build")}
    top = layer.root / "build"
    assert {name: str(path.relative_to(top)) for name, path in found.items()} == {
        "x": "tmp/deploy/detbuild-audit/x.do_compile.json",
        "mc:other:x": "tmp-other/deploy/detbuild-audit/mc/other/x.do_compile.json",
    }


def test_the_audits_of_a_recipes_variants_do_not_collide(layer: Layer) -> None:
    layer.write("classes/lib32.bbclass", 'PN = "lib32-x"\n')
    layer.recipe("x", CLOCK + 'BBCLASSEXTEND = "lib32"\n')
    assert layer.run("x", "lib32-x").exit_code == 0
    assert sorted(collected(layer)) == ["lib32-x.do_compile.json", "x.do_compile.json"]


def test_audits_can_be_collected_elsewhere(layer: Layer) -> None:
    layer.recipe("x")
    layer.run("x", conf='DETBUILD_AUDIT_DIR = "${TOPDIR}/audits/of-all"')
    assert [path.name for path in (layer.root / "build/audits/of-all").iterdir()] == ["x.do_compile.json"]


def test_an_audit_that_cannot_be_collected_is_a_warning(layer: Layer) -> None:
    layer.recipe("x")
    result = layer.run("x", conf='DETBUILD_AUDIT_DIR = "/proc/nowhere"')
    assert result.exit_code == 0
    assert [line for line in warnings(result) if "its audit is not in DETBUILD_AUDIT_DIR" in line]
    assert layer.record("x")["reads"]


def test_a_record_and_a_summary_that_cannot_be_written_are_warnings_and_leave_nothing(layer: Layer) -> None:
    layer.recipe(
        "x",
        'python do_compile() {\n    os.mkdir(d.expand("${T}/detbuild.do_compile.json"))\n'
        '    log = d.getVar("BB_LOGFILE")\n    os.unlink(log)\n'
        '    os.symlink("/sys/devices/system/cpu/online", log)\n}\n',
    )
    result = layer.run("x")
    assert result.exit_code == 0
    names = [type(event).__name__ for event in result["x:do_compile"].events]
    assert "TaskSucceeded" in names
    assert [line.partition(": do_compile: ")[2].partition(":")[0] for line in warnings(result)] == [
        "its audit is not beside its log",
        "its log does not sum its audit up",
    ]
    assert not list(layer.logs("x").glob(".detbuild.*"))
    assert sorted(collected(layer)) == ["x.do_compile.json"]


def test_a_degraded_session_that_cannot_be_marked_fails_its_task(
    layer: Layer, ends: Callable[[Audit | EngineDied], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Marks, "degrade", full)
    ends(GAP)
    layer.recipe("x")
    result = layer.run("x")
    assert result.exit_code == 1
    _failed_at_its_end(result, "nothing would keep it out of sstate: [Errno 28] no space left")


def test_the_tasks_own_python_sees_the_real_time_and_is_reported(layer: Layer) -> None:
    layer.recipe(
        "x",
        "python do_compile() {\n    import time\n"
        '    with open(d.expand("${T}/seen"), "w") as file:\n        file.write(str(int(time.time())))\n}\n',
    )
    layer.run("x")
    assert abs(layer.seen("x") - time.time()) < 600
    leaked = [read for read in layer.record("x")["reads"] if read["outcome"] == "leaked"]
    assert leaked
    assert not layer.record("x")["degraded"]


@pytest.mark.parametrize(("level", "lines"), [("summary", 0), ("reads", 1)])
def test_the_log_ends_with_the_sessions_summary(layer: Layer, level: str, lines: int) -> None:
    layer.recipe("x")
    layer.run("x", conf=f'DETBUILD_LOG_LEVEL = "{level}"')
    log = (layer.logs("x") / "log.do_compile").read_text()
    assert re.search(r"detbuild: [1-9]\d* reads fixed, \d+ leaked", log)
    assert len(re.findall(r"^fixed: \S*/date <- run.do_compile read ", log, re.M)) == lines


MIXED = Audit("tracer", EPOCH, "time", reads={
    Read("/bin/date", "time", FIXED): 3, Read("/bin/sh", "getpid", PASSED): 5, Read("/bin/sh", "uname", LEAKED): 7,
    Read("/bin/sh", HEAP_KEY, LEAKED): 11, Read("/usr/bin/python3", "clock_gettime", LEAKED, TASK): 13,
})  # fmt: skip


def test_the_log_counts_as_fixed_and_as_leaked_what_the_audit_does(
    layer: Layer, ends: Callable[[Audit | EngineDied], None]
) -> None:
    ends(MIXED)
    layer.recipe("x")
    layer.run("x")
    assert "detbuild: 3 reads fixed, 7 leaked\n" in (layer.logs("x") / "log.do_compile").read_text()


def test_under_observe_the_log_counts_nothing_as_fixed(layer: Layer) -> None:
    layer.recipe("x", CLOCK.replace("date", "echo $$; date"))
    layer.run("x", conf='DETBUILD_POLICY = "observe"')
    reads = Audit.from_dict(layer.record("x")).reads
    assert PASSED in {read.outcome for read in reads}
    assert {OWN, LIBC} & set(map(kind, reads))
    leaked = sum(count for read, count in reads.items() if kind(read) == LEAKED)
    log = (layer.logs("x") / "log.do_compile").read_text()
    assert f"detbuild: 0 reads fixed, {leaked} leaked\n" in log


@pytest.mark.parametrize("level", ["summary", "reads"])
def test_the_log_names_what_a_task_leaves_running(layer: Layer, level: str) -> None:
    layer.recipe("x", "do_compile() {\n    sleep 300 > /dev/null 2>&1 < /dev/null &\n    echo $! > ${T}/left\n}\n")
    try:
        layer.run("x", conf=f'DETBUILD_LOG_LEVEL = "{level}"')
    finally:
        os.kill(int((layer.logs("x") / "left").read_text()), signal.SIGKILL)
    program = os.path.realpath(shutil.which("sleep") or "")
    assert layer.record("x")["survivors"] == [program]
    note = f"NOTE: detbuild: {program} still ran at the session's end, and what it read later is not on record\n"
    assert (layer.logs("x") / "log.do_compile").read_text().count(note) == 1


def test_tasks_can_be_added(layer: Layer) -> None:
    layer.recipe("x", "do_install() {\n    date +%s > ${T}/seen\n}\n" + 'DETBUILD_TASKS += "do_install"\n')
    layer.build().run("x:do_install")
    assert layer.seen("x") == EPOCH


def test_a_task_that_is_added_in_local_conf_leaves_the_others_in_their_sessions(layer: Layer) -> None:
    layer.recipe("x")
    layer.run("x", conf='DETBUILD_TASKS:append = " do_install"')
    assert layer.seen("x") == EPOCH


@pytest.mark.parametrize("conf", ["", 'SSTATETASKS += "do_install"\n', 'do_install[network] = "1"\n'])
def test_an_observed_task_sees_the_real_world_and_is_told_to_join(layer: Layer, conf: str) -> None:
    layer.recipe("x", f"do_install() {{\n    date +%s > ${{T}}/seen\n}}\n{conf}")
    result = layer.build('DETBUILD_OBSERVED_TASKS = "do_install"').run("x:do_install")
    assert abs(layer.seen("x") - time.time()) < 600
    assert not warnings(result)
    found = Exposure()
    for where in audits.find(layer.root / "build"):
        found.add(where, audits.load(where.path))
    lines = [f"{finding.saying} ({finding.verdict})" for finding in found.by_source([LEAKED])]
    assert [
        line
        for line in lines
        if re.fullmatch(r"date read clock_gettime \(leaked.*: add do_install to DETBUILD_TASKS\)", line)
    ]
    assert found.exposed == ["x"]


def test_a_task_of_detbuild_tasks_is_held_though_it_is_to_be_observed_too(layer: Layer) -> None:
    layer.recipe("x")
    layer.run("x", conf='DETBUILD_OBSERVED_TASKS = "do_compile"')
    assert layer.seen("x") == EPOCH
    assert not layer.record("x")["observed"]


def test_a_task_that_cannot_be_observed_runs_all_the_same_and_is_not_degraded(layer: Layer) -> None:
    layer.recipe("x", "do_install() {\n    date +%s > ${T}/seen\n}\n")
    conf = 'DETBUILD_OBSERVED_TASKS = "do_install"\nDETBUILD_ENGINE = "nosuch"\nDETBUILD_TASKS = ""\n'
    result = layer.build(conf + 'DETBUILD_REQUIRE = "1"').run("x:do_install")
    assert abs(layer.seen("x") - time.time()) < 600
    assert [line for line in warnings(result) if "not observed: there is no engine 'nosuch'" in line]


def test_a_task_with_network_is_refused_with_the_reason(layer: Layer) -> None:
    layer.recipe("x", CLOCK + 'do_compile[network] = "1"\n')
    result = layer.run("x")
    assert abs(layer.seen("x") - time.time()) < 600
    assert [line for line in warnings(result) if "certificates need the real time" in line and "do_compile" in line]


def test_a_task_with_network_can_be_forced(layer: Layer) -> None:
    layer.recipe("x", CLOCK + 'do_compile[network] = "1"\nDETBUILD_NETWORK_TASKS = "do_compile"\n')
    assert not warnings(layer.run("x"))
    assert layer.seen("x") == EPOCH


def test_a_task_of_sstate_is_refused_although_forced(layer: Layer) -> None:
    layer.recipe("x", CLOCK + 'SSTATETASKS = "do_compile"\nDETBUILD_NETWORK_TASKS = "do_compile"\n')
    assert [line for line in warnings(layer.run("x")) if "SSTATETASKS" in line]
    assert not (layer.logs("x") / "detbuild.do_compile.json").exists()


def test_a_recipe_can_leave(layer: Layer) -> None:
    layer.recipe("x", CLOCK + 'DETBUILD_ENABLED = "0"\n')
    layer.run("x")
    assert abs(layer.seen("x") - time.time()) < 600


def test_a_recipe_that_left_restores_nothing_and_takes_its_epoch_as_without_the_class(layer: Layer) -> None:
    layer.recipe("x")
    layer.recipe("y", CLOCK + 'DETBUILD_ENABLED = "0"\n')
    build = layer.build()
    for name, ours in (("x", True), ("y", False)):
        d = build.parse(name)
        assert ("detbuild.recipe.stamp" in d.getVar("create_source_date_epoch_stamp", False)) == ours
        assert ("detbuild.recipe" in d.getVar("detbuild_restore_epoch", False)) == ours


def test_an_epoch_that_is_no_number_fails_the_task_with_a_sentence(layer: Layer) -> None:
    layer.recipe("x", 'SOURCE_DATE_EPOCH = "yesterday"\ndo_unpack[postfuncs] = ""\n' + CLOCK)
    result = layer.run("x")
    assert [line for line in result["x:do_compile"].messages if "SOURCE_DATE_EPOCH is 'yesterday'" in line]


def test_two_recipes_at_once_have_two_epochs(layer: Layer) -> None:
    for name, other, moment in (("x", "y", 1111111111), ("y", "x", 1222222222)):
        layer.recipe(
            name,
            f'SOURCE_DATE_EPOCH = "{moment}"\ndo_compile() {{\n    touch ${{TOPDIR}}/{name}.up\n'
            f"    while [ ! -e ${{TOPDIR}}/{other}.up ]; do sleep 0.05; done\n    date +%s > ${{T}}/seen\n}}\n",
        )
    assert layer.run("x", "y", jobs=2).exit_code == 0
    assert (layer.seen("x"), layer.seen("y")) == (1111111111, 1222222222)


def postfuncs(build: Build, recipe: str, task: str, when: str = "postfuncs") -> Counter[str]:
    return Counter((build.parse(recipe).getVarFlag(task, when) or "").split())


def test_the_stamp_is_taken_once_after_unpack(layer: Layer) -> None:
    layer.recipe("x")
    assert postfuncs(layer.build(), "x", "do_unpack")["create_source_date_epoch_stamp"] == 1


# What OE-Core's base.bbclass, sstate.bbclass and a recipe on somebody else's source say about these tasks.
PUBLISHES = (
    'SSTATETASKS = "do_deploy_source_date_epoch do_package"\n'
    "addtask deploy_source_date_epoch before do_configure after do_patch\ndo_deploy_source_date_epoch() {\n    :\n}\n"
    "addtask package after do_install before do_build\ndo_package() {\n    :\n}\n"
    "addtask package_qa after do_package before do_build\ndo_package_qa() {\n    :\n}\n"
)


def test_a_recipe_without_unpack_takes_its_stamp_where_externalsrc_would(layer: Layer) -> None:
    layer.recipe("x", PUBLISHES + "deltask do_unpack\n")
    moved = 'do_deploy_source_date_epoch[prefuncs] =+ "create_source_date_epoch_stamp "\n'
    layer.recipe("y", PUBLISHES + "deltask do_unpack\n" + moved)
    build = layer.build()
    for name in ("x", "y"):
        stamps = postfuncs(build, name, "do_deploy_source_date_epoch", "prefuncs")
        assert stamps["create_source_date_epoch_stamp"] == 1


def test_without_a_patch_task_the_epoch_still_waits_for_the_unpack(layer: Layer) -> None:
    layer.recipe("x", PUBLISHES + "deltask do_patch\n")
    assert layer.build().parse("x").getVarFlag("do_deploy_source_date_epoch", "deps") == ["do_unpack"]


def test_a_recipe_on_shared_sources_waits_for_the_epoch_of_who_unpacks_them(layer: Layer) -> None:
    layer.recipe("shared", PUBLISHES)
    layer.recipe("x", PUBLISHES + 'deltask do_unpack\ndo_configure[depends] = "shared:do_patch"\n')
    d = layer.build().parse("x")
    assert "shared:do_deploy_source_date_epoch" in d.getVarFlag("do_deploy_source_date_epoch", "depends").split()


def test_only_tasks_behind_what_sstate_replaces_ask_for_the_epoch_themselves(layer: Layer) -> None:
    layer.recipe("x", PUBLISHES)
    d = layer.build().parse("x")
    asking = {
        task
        for task in d.getVar("__BBTASKS", False)
        if "do_deploy_source_date_epoch" in (d.getVarFlag(task, "deps", False) or [])
    }
    assert asking == {"do_configure", "do_package_qa"}


UNHASHED = (
    'DETBUILD_ENGINE = "tracer"',
    'DETBUILD_SOCKET = "/elsewhere/socket"',
    'DETBUILD_LOG_LEVEL = "reads"',
    'DETBUILD_REQUIRE = "1"',
    'DETBUILD_STATE = "${TOPDIR}/elsewhere"',
    'DETBUILD_AUDIT_DIR = "${TOPDIR}/audits"',
    'BB_NUMBER_THREADS = "7"\nPARALLEL_MAKE = "-j 7"',
)


@pytest.mark.parametrize("conf", UNHASHED)
def test_what_changes_no_output_leaves_every_hash_alone(layer: Layer, conf: str) -> None:
    layer.recipe("x")
    before = layer.build()
    hashes, config = before.hashes("x"), before.data.get_hash()
    after = layer.build(conf)
    assert after.hashes("x") == hashes
    # BitBake parses every recipe again where this one changes.
    if "THREADS" not in conf:
        assert after.data.get_hash() == config


def changed(layer: Layer, conf: str) -> set[str]:
    layer.recipe("x")
    before, after = layer.build().basehashes("x"), layer.build(conf).basehashes("x")
    return {task for task in before if before[task] != after[task]}


INSTALLS = "do_install() {\n    date +%s > ${T}/seen\n}\n"
JOINS = 'DETBUILD_TASKS:append = " do_install"'


def test_a_task_that_joins_is_the_only_one_to_change_and_is_then_hashed_with_the_policy(layer: Layer) -> None:
    layer.recipe("x", CLOCK + INSTALLS)
    before = layer.build()
    hashes, config = before.basehashes("x"), before.data.get_hash()
    joined = layer.build(JOINS)
    # BitBake's cache of parsed recipes holds the hashes: it must be another one.
    assert joined.data.get_hash() != config
    after = joined.basehashes("x")
    assert {task for task in hashes if hashes[task] != after[task]} == {"do_install"}
    stricter = layer.build(f'{JOINS}\nDETBUILD_POLICY = "strict"').basehashes("x")
    assert {task for task in hashes if after[task] != stricter[task]} == {"do_compile", "do_install"}


@pytest.mark.parametrize("why", ['do_install[network] = "1"\n', 'SSTATETASKS = "do_install"\n'])
def test_a_task_that_is_left_out_is_hashed_like_one_that_never_joined(layer: Layer, why: str) -> None:
    layer.recipe("x", CLOCK + INSTALLS + why)
    before = layer.build()
    outside, config = before.basehashes("x"), before.data.get_hash()
    assert layer.build(JOINS).basehashes("x") == outside
    forced = layer.build(f'{JOINS}\nDETBUILD_NETWORK_TASKS = "do_install"')
    assert forced.data.get_hash() != config
    after = forced.basehashes("x")
    expected = {"do_install"} if "network" in why else set()
    assert {task for task in outside if outside[task] != after[task]} == expected


def test_naming_a_task_that_a_recipe_has_not_changes_nothing(layer: Layer) -> None:
    layer.recipe("x")
    assert layer.build('DETBUILD_TASKS:append = " do_sign"').hashes("x") == layer.build().hashes("x")


def test_a_task_that_joins_runs_again_and_in_a_session(layer: Layer) -> None:
    layer.recipe("x", CLOCK + INSTALLS)
    assert layer.build().run("x:do_install").exit_code == 0
    assert abs(layer.seen("x") - time.time()) < 600
    assert layer.build(JOINS).run("x:do_install").exit_code == 0
    assert layer.seen("x") == EPOCH
    assert layer.record("x", "do_install")["epoch"] == EPOCH


def test_no_function_of_the_library_enters_a_hash(layer: Layer) -> None:
    import bb.codeparser  # what embedded imports makes it importable

    layer.build()
    hashed = set(bb.codeparser.modulecode_deps)
    assert {name for name in hashed if name.startswith("oe.")}
    assert not {name for name in hashed if name.startswith("detbuild")}
    assert not detbuild.BBIMPORTS


def test_another_policy_changes_the_tasks_with_a_session_alone(layer: Layer) -> None:
    assert changed(layer, 'DETBUILD_POLICY = "strict"') == {"do_compile"}


def test_all_spellings_of_one_policy_are_one_in_the_signatures(layer: Layer) -> None:
    layer.recipe("x")
    spellings = ("strict -order -random", "strict   -random -order", "time +identity +layout +pid")
    hashes = [layer.build(f'DETBUILD_POLICY = "{text}"').basehashes("x") for text in spellings]
    assert hashes[0] == hashes[1] == hashes[2]


def test_a_policy_that_does_not_exist_is_refused(layer: Layer) -> None:
    layer.recipe("x")
    with pytest.raises(Refused, match="time, strict, observe"):
        layer.build('DETBUILD_POLICY = "strickt"').hashes("x")


def test_a_task_under_strict_sees_one_host_and_streams_of_its_recipe(layer: Layer) -> None:
    body = "do_compile() {\n    uname -n > ${T}/seen\n    mktemp -u XXXXXXXX >> ${T}/seen\n}\n"
    layer.recipe("x", body)
    layer.recipe("y", body)
    assert layer.run("x", "y", conf='DETBUILD_POLICY = "strict"').exit_code == 0
    (host, name), (_, other) = ((layer.logs(recipe) / "seen").read_text().split() for recipe in "xy")
    assert host == "localhost"
    assert name != other


def test_a_task_under_strict_has_the_name_of_no_user_of_bitbake(layer: Layer) -> None:
    layer.recipe("x", 'export USER = "ada"\ndo_compile() {\n    echo $USER > ${T}/seen\n}\n')
    for rules, name in (("strict", surroundings.user()), ("strict -identity", "ada")):
        assert layer.run("x", conf=f'DETBUILD_POLICY = "{rules}"').exit_code == 0
        assert (layer.logs("x") / "seen").read_text() == f"{name}\n"


def test_rules_of_the_users_own_change_the_tasks_with_a_session_alone(layer: Layer) -> None:
    assert changed(layer, 'DETBUILD_RULES = \'{"names": "mkversion"}\'') == {"do_compile"}


def test_a_changed_file_of_rules_changes_the_tasks_with_a_session(layer: Layer) -> None:
    file = layer.root / "rules.json"
    layer.recipe("x")
    hashes = []
    for name in ("one", "two"):
        file.write_text(f'[{{"names": "{name}"}}]')
        build = layer.build(f'DETBUILD_RULES = "{file}"')
        hashes.append(build.basehashes("x"))
        # By this BitBake knows that it has to parse the recipe again.
        assert str(file) in {path for path, _ in build.parse("x").getVar("__depends", False)}
    assert {task for task in hashes[0] if hashes[0][task] != hashes[1][task]} == {"do_compile"}


def test_a_rule_of_the_users_own_decides_in_a_task(layer: Layer) -> None:
    layer.recipe("x", "do_compile() {\n    date +%s > ${T}/date\n}\n")
    assert layer.run("x", conf='DETBUILD_RULES = \'{"names": "date", "clock": "real"}\'').exit_code == 0
    assert abs(int((layer.logs("x") / "date").read_text()) - time.time()) < 60


def test_rules_that_cannot_be_understood_are_refused(layer: Layer) -> None:
    layer.recipe("x")
    with pytest.raises(Refused, match="nonsense"):
        layer.build("DETBUILD_RULES = '{\"nonsense\": 1}'").hashes("x")


def test_another_version_of_the_rules_changes_the_tasks_with_a_session_alone(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer.recipe("x")
    before = layer.build().basehashes("x")
    monkeypatch.setattr(policy, "VERSION", policy.VERSION + 1)
    after = layer.build().basehashes("x")
    assert {task for task in before if before[task] != after[task]} == {"do_compile"}


def test_other_sources_of_the_epoch_change_the_unpack_alone(layer: Layer) -> None:
    assert changed(layer, 'DETBUILD_EPOCH_SOURCES = "git fallback"') == {"do_unpack"}


@pytest.mark.parametrize(
    ("conf", "tasks"),
    [
        ('SOURCE_DATE_EPOCH_FALLBACK = "1400000000"', {"do_unpack"}),
        ('SOURCE_DATE_EPOCH:pn-x = "1400000000"', {"do_unpack", "do_compile"}),
    ],
)
def test_another_epoch_of_the_configuration_changes_whom_it_is_for(layer: Layer, conf: str, tasks: set[str]) -> None:
    assert changed(layer, conf) == tasks


def test_another_way_to_find_the_epoch_changes_the_unpack_alone(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer.recipe("x")
    before = layer.build().basehashes("x")
    monkeypatch.setattr(epoch, "VERSION", epoch.VERSION + 1)
    after = layer.build().basehashes("x")
    assert {task for task in before if before[task] != after[task]} == {"do_unpack"}


def test_leaving_changes_both(layer: Layer) -> None:
    assert changed(layer, 'DETBUILD_ENABLED = "0"') == {"do_unpack", "do_compile"}


def test_nothing_is_exported_to_the_tasks(layer: Layer) -> None:
    layer.recipe("x", "do_compile() {\n    env > ${T}/environment\n}\n")
    layer.run("x")
    assert "DETBUILD" not in (layer.logs("x") / "environment").read_text()


def test_a_library_that_is_not_the_layers_own_is_refused(layer: Layer) -> None:
    copy = layer.root / "meta-detbuild"
    for name in ("conf", "classes", "lib", "recipes-devtools"):
        shutil.copytree(TOP / name, copy / name)
    with pytest.raises(Refused) as refusal:
        layer.build(layer=copy)
    assert f"BitBake imports detbuild from {TOP}/lib/detbuild, but this layer's library is {copy}/lib" in str(
        refusal.value
    )


def test_a_missing_engine_degrades_with_one_warning(layer: Layer) -> None:
    layer.recipe("x")
    layer.recipe("y")
    result = layer.run("x", "y", conf='DETBUILD_ENGINE = "nosuch"')
    assert result.exit_code == 0
    assert len(warnings(result)) == 1
    assert "2 degraded sessions, of x-1.0, y-1.0: " in warnings(result)[0]
    assert f"`{TOP}/scripts/detbuild doctor`; then `bitbake -C compile RECIPE`" in warnings(result)[0]


def test_a_later_build_tells_of_what_is_degraded_still(layer: Layer) -> None:
    layer.recipe("x", CLOCK + INSTALLS)
    layer.run("x", conf='DETBUILD_ENGINE = "nosuch"')
    time.sleep(1.1)  # BitBake names a build by its second
    later = layer.build().run("x:do_install")
    assert "1 degraded session, of x-1.0 (1 in an earlier build): " in warnings(later)[0]
    assert not warnings(layer.build().run("x:do_compile", force=True))


def test_a_missing_engine_fails_where_sessions_are_required(layer: Layer) -> None:
    layer.recipe("x")
    result = layer.run("x", conf='DETBUILD_ENGINE = "nosuch"\nDETBUILD_REQUIRE = "1"')
    assert result.exit_code == 1
    assert [line for line in result["x:do_compile"].messages if line.startswith("CRITICAL") and "no engine" in line]
    # The user interface loses count where a task fails that never started.
    names = [type(event).__name__ for event in result["x:do_compile"].events]
    assert names.index("TaskStarted") < names.index("TaskFailed")


class Broken:
    """Stands in for a session whose engine reports ``end``."""

    engine, engine_pid = "tracer", 1

    def __init__(self, end: Audit | EngineDied) -> None:
        self._end = end

    def close(self) -> Audit:
        if isinstance(self._end, EngineDied):
            raise self._end
        return self._end


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[Audit | EngineDied], None]:
    def set_end(end: Audit | EngineDied) -> None:
        monkeypatch.setattr(session, "attach", lambda *_args, **_options: Broken(end))

    return set_end


GAP = Audit("tracer", EPOCH, "time", gaps=Counter({Gap("escaped", "make left the session"): 1}))


def test_the_daemon_is_looked_for_where_the_variable_says_and_programs_do_not_see_it(layer: Layer) -> None:
    layer.recipe("x", CLOCK + "do_compile:append() {\n    env > ${T}/environment\n}\n")
    result = layer.run("x", conf='DETBUILD_ENGINE = "ebpf"\nDETBUILD_SOCKET = "/nowhere/sock"\nDETBUILD_REQUIRE = "0"')
    assert "no daemon listens: there is no /nowhere/sock" in warnings(result)[0]
    assert "DETBUILD" not in (layer.logs("x") / "environment").read_text()


def test_a_gap_degrades_and_is_named(layer: Layer, ends: Callable[[Audit | EngineDied], None]) -> None:
    ends(GAP)
    layer.recipe("x")
    result = layer.run("x")
    assert result.exit_code == 0
    assert [line for line in warnings(result) if "escaped: make left the session" in line]
    assert layer.record("x")["degraded"]


def _failed_at_its_end(result: Result, why: str) -> None:
    """As BitBake's user interface wants it: the reason and the event, and no traceback."""
    task = result["x:do_compile"]
    assert why in "\n".join(task.messages)
    assert "Traceback" not in "\n".join(task.messages)
    names = [type(event).__name__ for event in task.events]
    assert names.count("TaskFailed") == 1
    assert "TaskSucceeded" not in names


def test_a_gap_fails_where_sessions_are_required(layer: Layer, ends: Callable[[Audit | EngineDied], None]) -> None:
    ends(GAP)
    layer.recipe("x")
    result = layer.run("x", conf='DETBUILD_REQUIRE = "1"')
    assert result.exit_code == 1
    _failed_at_its_end(result, "escaped: make left the session")
    assert not list((layer.root / "build/tmp/stamps").rglob("*do_compile*"))


def test_an_engine_that_died_fails_the_task_always(layer: Layer, ends: Callable[[Audit | EngineDied], None]) -> None:
    ends(EngineDied("the session's engine died"))
    layer.recipe("x")
    result = layer.run("x")
    assert result.exit_code == 1
    _failed_at_its_end(result, "the session's engine died")
    (audit,) = collected(layer).values()
    assert audit.to_dict() == layer.record("x")
    assert [gap.kind for gap in audit.gaps] == ["engine died"]
    assert not list((layer.root / "build/cache/detbuild/open").iterdir())


@pytest.mark.parametrize("dependency", ["", 'do_compile[depends] = "x:do_compile"\n'])
def test_what_depends_on_a_degraded_session_is_kept_out_of_sstate(layer: Layer, dependency: str) -> None:
    layer.recipe("x", CLOCK + 'DETBUILD_ENGINE = "nosuch"\n')
    package = "do_package() {\n    echo skip=${SSTATE_SKIP_CREATION}\n}\n"
    layer.recipe("y", CLOCK + dependency + PUBLISHES + 'SSTATE_SKIP_CREATION ?= "0"\n' + package)
    result = layer.build().run("x:do_compile", "y:do_package")
    assert f"skip={'1' if dependency else '0'}" in result["y:do_package"].log


def test_a_killed_task_is_explained_by_the_server(layer: Layer) -> None:
    layer.recipe("x", "do_compile() {\n    kill -9 $PPID\n    sleep 3\n}\n")
    result = layer.run("x")
    assert result["x:do_compile"].exit_code == 128 + signal.SIGKILL
    errors = [line for line in result.messages if line.startswith("ERROR: x-1.0: do_compile ended with exit code 137")]
    assert len(errors) == 1
    assert not os.listdir(layer.root / "build/cache/detbuild/open")


def test_a_multiconfig_build_warns_once(layer: Layer) -> None:
    layer.recipe("x")
    conf = 'BBMULTICONFIG = "one two"\nTMPDIR = "${TOPDIR}/tmp-${BB_CURRENT_MC}"\nDETBUILD_ENGINE = "nosuch"'
    result = layer.run("mc:one:x", "mc:two:x", conf=conf)
    assert len(warnings(result)) == 1
    assert "2 degraded sessions" in warnings(result)[0]
