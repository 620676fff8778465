"""Policy strict under bitbake itself: two users, hosts, directories and orders of files; and what the audit names."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence

import pytest
import testbed
from testbed import BuildDirectory

from detbuild import audits
from detbuild.audit import FIXED, LEAKED, Read
from detbuild.engine.identity import NODE
from detbuild.engine.outside import USER
from detbuild.exposure import GAP, Exposure, Finding

pytestmark = pytest.mark.oe

# Files that a task outside every session makes, in one order or the other; what do_compile is told of them.
LISTING = """
INHIBIT_DEFAULT_DEPS = "1"
S = "${UNPACKDIR}"
FILES:${PN} = "${datadir}"
do_configure() {
	mkdir -p ${B}/made
	for n in $(seq 97 | sort ${ORDER}); do
		echo $n > ${B}/made/$n
	done
}
do_compile() {
	cd ${B}/made
	ls -U > ${B}/listing
	find . -type f >> ${B}/listing
	tar --owner=0 --group=0 --numeric-owner -cf - . | sha256sum >> ${B}/listing
	python3 -c 'import os, uuid; print(os.listdir("."), uuid.uuid4())' >> ${B}/listing
	mktemp -u >> ${B}/listing
	id -gn >> ${B}/listing
}
do_install() {
	install -D -m 0644 ${B}/listing ${D}${datadir}/listing
}
"""
OBSERVED = 'DETBUILD_OBSERVED_TASKS = "do_configure"\n'
# Nothing of it is downloaded, and one of the users may not write to the testbed's own directory.
STRICT = (
    'DETBUILD_POLICY = "strict"\nDL_DIR = "${TOPDIR}/downloads"\nBB_BASEHASH_IGNORE_VARS:append = " ORDER"\n' + OBSERVED
)


@functools.cache
def builds() -> tuple[BuildDirectory, BuildDirectory]:
    """The same in two directories, by two users, on two hosts, and of files that were made in two orders."""
    testbed.builder()
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can build as two users on two hosts")
    made = []
    for name, user, host, order in (
        ("strict-one", "", "one.example", "-n"),
        ("strict-another-longer-name", "nobody", "two", "-r"),
    ):
        conf = f'{STRICT}ORDER = "{order}"\n'
        build = BuildDirectory(testbed.PLACE / name, conf, {"listing_1.bb": LISTING}, user=user, host=host)
        build.bitbake("-c", "install", "tb-hostinfo", "listing")
        made.append(build)
    return made[0], made[1]


def installed(build: BuildDirectory, recipe: str, name: str) -> list[str]:
    (path,) = (build.path / "tmp/work").glob(f"*/{recipe}/*/image/usr/share/{name}")
    return path.read_text().splitlines()


def test_what_tells_of_the_host_the_user_the_process_and_chance_is_the_same() -> None:
    first, second = (installed(build, "tb-hostinfo", "tb-hostinfo/hostinfo") for build in builds())
    assert len(first) == 9
    assert first == second
    # OE-Core exports OMP_NUM_THREADS, which nproc prefers to what the kernel tells.
    assert {f"host={NODE}", f"user={USER.decode()}", "nproc=2", "uptime=86400.00"} <= set(first)


def test_files_made_in_another_order_are_listed_in_one() -> None:
    first, second = (installed(build, "listing", "listing") for build in builds())
    assert first == second
    assert first[:3] == ["1", "10", "11"]


def findings(build: BuildDirectory, recipe: str, kinds: Sequence[str] = (GAP, LEAKED)) -> list[Finding]:
    found = Exposure()
    for where in audits.find(build.path):
        if where.recipe == recipe:
            found.add(where, audits.load(where.path))
    return found.of(kinds, arguments=False)


def lines(build: BuildDirectory, recipe: str) -> list[str]:
    return [f"{one.task}: {one.saying} ({one.verdict})" for one in findings(build, recipe)]


def test_the_audit_of_a_strict_build_names_nothing_but_what_no_policy_holds() -> None:
    found = [one for one in findings(builds()[0], "tb-hostinfo", (GAP, LEAKED, FIXED)) if one.task == "do_compile"]
    fixed = {one.what.source for one in found if isinstance(one.what, Read) and one.kind == FIXED}
    assert {"uname", "/proc/uptime", "/dev/urandom"} <= fixed
    # Where hostname(1) or id(1) ask the network, these are real under every policy.
    network = (" read /etc/hosts", " read /etc/resolv.conf")
    assert not [one.saying for one in found if one.kind != FIXED and not one.saying.endswith(network)]


@pytest.fixture(scope="module")
def observed() -> BuildDirectory:
    testbed.builder()
    build = BuildDirectory(testbed.PLACE / "observed", f'DETBUILD_POLICY = "observe"\n{OBSERVED}')
    build.bitbake("-c", "compile", "gzip", "tb-parallel", "tb-buildpath")
    return build


def test_the_audit_names_who_puts_the_path_of_the_build_into_zgrep(observed: BuildDirectory) -> None:
    paths = [line for line in lines(observed, "gzip") if " read build path (" in line]
    assert [line for line in paths if line.startswith("do_compile: sed <- ")]
    assert all("no policy changes a path" in line for line in paths)


def test_the_audit_names_the_compiler_that_is_given_the_path_of_the_build(observed: BuildDirectory) -> None:
    paths = [line for line in lines(observed, "tb-buildpath") if " read build path (" in line]
    assert {line.split()[1] for line in paths} >= {"cc1"}


def test_the_audit_names_the_random_numbers_that_decide_the_race_of_tb_parallel(observed: BuildDirectory) -> None:
    random = [line for line in lines(observed, "tb-parallel") if " read /dev/urandom (" in line]
    assert random == ["do_compile: od <- race.sh read /dev/urandom (leaked 12 times: policy strict fixes it)"]


def test_the_audit_names_who_reads_the_hosts_name_in_a_task_that_is_not_held(observed: BuildDirectory) -> None:
    expected = (
        "do_configure: hostname <- config.status <- configure read uname "
        "(leaked: add do_configure to DETBUILD_TASKS, with policy strict)"
    )
    assert expected in lines(observed, "gzip")


def test_what_bitbake_read_in_every_recipe_is_no_finding(observed: BuildDirectory) -> None:
    output = observed.run(f"PYTHONPATH={testbed.layer()}/lib python3 -m detbuild audit || test $? = 1")
    assert "the task read" not in output
    assert "BitBake's own process read " in output.splitlines()[-3]
