"""The embedded BitBake behaves around a task as bitbake and bitbake-worker do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from embedded import Build, Refused, Result

TOP = Path(__file__).resolve().parents[1]
CORE = TOP / "examples" / "meta-quickstart"

pytestmark = pytest.mark.bitbake


class Layer:
    """An extra layer in a temporary directory, and builds over it."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "meta-extra"
        self.write(
            "conf/layer.conf",
            'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/*.bb ${LAYERDIR}/*.bbappend"\n'
            'BBFILE_COLLECTIONS += "extra"\nBBFILE_PATTERN_extra = "^${LAYERDIR}/"\n'
            'LAYERSERIES_COMPAT_extra = "wrynose"\naddpylib ${LAYERDIR}/lib extralib\n',
        )
        self.write("lib/extralib/__init__.py", "def answer():\n    return 'forty-two'\n")

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def recipe(self, name: str, body: str) -> None:
        self.write(f"{name}_1.0.bb", f'LICENSE = "MIT"\nSRC_URI = ""\nS = "${{UNPACKDIR}}"\n{body}\n')

    def build(self, conf: str = "") -> Build:
        return Build(self.root / "build", [CORE, self.path], conf)

    def run(self, *targets: str, conf: str = "", jobs: int = 1) -> Result:
        return self.build(conf).run(*targets, jobs=jobs)


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path)


def test_a_task_leads_a_session_of_its_own_without_our_environment(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "leaked")
    layer.recipe("x", 'do_compile() {\n    echo "sid $(ps -o sid= -p $PPID) ppid $PPID"\n    env\n}')
    log = layer.run("x")["x:do_compile"].log
    sid, ppid = next(line.split()[1::2] for line in log.splitlines() if line.startswith("sid "))
    assert sid == ppid
    assert int(ppid) != os.getpid()
    assert "SECRET" not in log


def test_a_library_of_a_layer_can_be_imported_in_a_task(layer: Layer) -> None:
    layer.recipe("x", "python do_compile() {\n    bb.plain(extralib.answer())\n}")
    assert any("forty-two" in text for text in layer.run("x")["x:do_compile"].messages)


def test_tasks_run_in_the_order_of_their_dependencies_across_recipes(layer: Layer) -> None:
    layer.recipe("app", 'do_compile[depends] = "tool:do_install"')
    layer.recipe("tool", "")
    names = [task.name for task in layer.run("app", jobs=2).tasks]
    assert names.index("tool:do_install") < names.index("app:do_compile")
    assert "tool:do_package_write_deb" not in names


def test_a_changed_dependency_changes_the_hash_of_what_depends_on_it_and_nothing_else(layer: Layer) -> None:
    layer.recipe("app", 'do_compile[depends] = "tool:do_install"')
    layer.recipe("tool", "do_install() {\n    echo one\n}")
    before = layer.build().hashes("app")
    layer.recipe("tool", "do_install() {\n    echo two\n}")
    after = layer.build().hashes("app")
    changed = {name for name in before if before[name] != after[name]}
    assert {"tool:do_install", "app:do_compile", "app:do_install"} <= changed
    assert not {"tool:do_compile", "app:do_unpack"} & changed


def test_hashes_are_the_same_in_another_directory(layer: Layer, tmp_path: Path) -> None:
    layer.recipe("x", "")
    here = layer.build().hashes("x")
    assert here == Build(tmp_path / "somewhere" / "else", [CORE, layer.path]).hashes("x")


def test_a_second_run_finds_the_stamps_and_a_changed_task_runs_again(layer: Layer) -> None:
    layer.recipe("x", "do_compile() {\n    echo one\n}")
    assert layer.run("x").exit_code == 0
    assert layer.run("x").tasks == ()
    layer.recipe("x", "do_compile() {\n    echo two\n}")
    names = [task.name for task in layer.run("x").tasks]
    assert names[0] == "x:do_compile"
    assert "x:do_unpack" not in names


def test_a_failed_task_ends_the_build_and_class_handlers_of_the_cooker_hear_it(layer: Layer, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    layer.write(
        "classes/listen.bbclass",
        "addhandler listen\n"
        'listen[eventmask] = "bb.event.BuildStarted bb.runqueue.runQueueTaskFailed bb.event.BuildCompleted"\n'
        "python listen() {\n"
        f"    with open('{heard}', 'a') as file:\n"
        "        file.write('%s %s %s\\n' % (type(e).__name__, os.getpid(), getattr(e, 'exitcode', '')))\n"
        "}\n",
    )
    layer.recipe("x", "do_compile() {\n    exit 3\n}")
    result = layer.run("x", conf='INHERIT += "listen"')
    assert result.exit_code == 1
    assert [task.name for task in result.failed] == ["x:do_compile"]
    assert result.tasks[-1].name == "x:do_compile"
    lines = [line.split() for line in heard.read_text().splitlines()]
    assert [line[0] for line in lines] == ["BuildStarted", "runQueueTaskFailed", "BuildCompleted"]
    assert {int(line[1]) for line in lines} == {os.getpid()}
    assert lines[1][2] == "1"


def test_task_events_fire_in_the_process_of_the_task(layer: Layer) -> None:
    layer.write(
        "classes/listen.bbclass",
        'addhandler listen\nlisten[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded"\n'
        "python listen() {\n    bb.plain('%s in %s' % (type(e).__name__, os.getpid()))\n}\n",
    )
    layer.recipe("x", "python do_compile() {\n    bb.plain('body in %s' % os.getpid())\n}")
    messages = layer.run("x", conf='INHERIT += "listen"')["x:do_compile"].messages
    said = [text.rpartition(": ")[2].split(" in ") for text in messages if " in " in text]
    assert [name for name, _ in said] == ["TaskStarted", "body", "TaskSucceeded"]
    assert len({pid for _, pid in said}) == 1
    assert said[0][1] != str(os.getpid())


def test_death_by_a_signal_is_128_and_its_number(layer: Layer) -> None:
    layer.recipe("x", "python do_compile() {\n    os.kill(os.getpid(), 9)\n}")
    assert layer.run("x")["x:do_compile"].exit_code == 128 + 9


def test_a_daemon_that_a_task_leaves_behind_does_not_hold_the_build(layer: Layer) -> None:
    # It keeps every descriptor that it was forked with, the pipe to us among them.
    layer.recipe(
        "x",
        "python do_compile() {\n    import time\n    pid = os.fork()\n    if pid == 0:\n"
        "        os.setsid()\n        time.sleep(300)\n        os._exit(0)\n"
        "    with open(d.expand('${TOPDIR}/daemon'), 'w') as file:\n        file.write(str(pid))\n}",
    )
    started = time.monotonic()
    try:
        assert layer.run("x").exit_code == 0
        assert time.monotonic() - started < 60
    finally:
        os.kill(int((layer.root / "build/daemon").read_text()), signal.SIGKILL)


def test_independent_tasks_run_at_once(layer: Layer) -> None:
    # Each waits for the other's file; one after the other, the first would wait in vain.
    for mine, other in (("x", "y"), ("y", "x")):
        layer.recipe(
            mine,
            f"do_compile() {{\n    touch ${{TOPDIR}}/{mine}\n    for i in $(seq 200); do\n"
            f"        if [ -e ${{TOPDIR}}/{other} ]; then exit 0; fi\n        sleep 0.05\n    done\n    exit 1\n}}",
        )
    assert layer.run("x", "y", jobs=2).exit_code == 0


def test_appends_and_class_extensions_are_read(layer: Layer) -> None:
    layer.write("classes/native.bbclass", 'PN = "x-native"\n')
    layer.recipe("x", 'BBCLASSEXTEND = "native"\nGREETING = "plain"')
    layer.write("x_%.bbappend", 'GREETING = "appended"\n')
    build = layer.build()
    assert build.parse("x").getVar("GREETING") == "appended"
    assert build.recipes["x-native"].startswith("virtual:native:")


def test_metadata_that_bitbake_refuses_is_refused_with_its_words(layer: Layer) -> None:
    layer.recipe("x", "inherit nothing-of-the-kind")
    with pytest.raises(Refused, match="nothing-of-the-kind"):
        layer.build()


def test_a_task_that_wants_pseudo_is_refused_and_not_run_without(layer: Layer) -> None:
    layer.recipe("x", 'do_install[fakeroot] = "1"')
    with pytest.raises(RuntimeError, match="x:do_install wants pseudo"):
        layer.run("x")


def test_a_new_build_takes_bitbake_over_from_the_one_before(layer: Layer, tmp_path: Path) -> None:
    layer.recipe("x", "")
    first = layer.build()
    Build(tmp_path / "other", [CORE])
    with pytest.raises(RuntimeError, match="taken BitBake's modules over"):
        first.run("x")
