"""The layer among OE-Core's own recipes: parsing, task hashes, the library's recipe, and OE-Core's checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import testbed
from testbed import BuildDirectory

pytestmark = pytest.mark.oe

STAND_INS = 'ASSUME_PROVIDED:append = " python3 ^python3-(?!detbuild).* diffoscope base-passwd"\n'
NO_SYSTEMD = 'ASSUME_PROVIDED:append = " ^systemd.*"\nASSUME_PROVIDED:remove = "base-passwd"\n'


@pytest.fixture(scope="module")
def everything() -> BuildDirectory:
    testbed.builder()
    # No python3-native here to run setuptools: the host's takes its place. What it depends on is somebody else's.
    append = (
        "do_compile() {\n\tunset _PYTHON_SYSCONFIGDATA_NAME\n"
        "\t/usr/bin/python3 -m pip wheel -q --no-build-isolation --no-deps --no-index -w dist ${S}\n}\n"
        "do_install() {\n\tinstall -d ${D}${PYTHON_SITEPACKAGES_DIR} ${D}${bindir}\n"
        "\t/usr/bin/python3 -m zipfile -e dist/*.whl ${D}${PYTHON_SITEPACKAGES_DIR}\n"
        "\trm ${D}${PYTHON_SITEPACKAGES_DIR}/*.dist-info/RECORD\n"
        "\tfor name in detbuild detbuild-compare; do\n\t\techo '#!/usr/bin/env python3' > ${D}${bindir}/$name\n"
        "\t\tchmod 755 ${D}${bindir}/$name\n\tdone\n}\n"
    )
    build = BuildDirectory(testbed.PLACE / "everything", STAND_INS, {"python3-detbuild.bbappend": append})
    # With its cache of Python code new, BitBake's second start parses all again: let the first have little to parse.
    build.bitbake("-p")
    build.everything = True
    build.configure(STAND_INS)
    return build


def test_all_of_oe_core_parses_without_a_word(everything: BuildDirectory) -> None:
    output = everything.bitbake("-p")
    assert "0 errors" in output
    assert "WARNING" not in output


def test_the_tasks_of_all_kinds_of_recipe_have_no_circle(everything: BuildDirectory) -> None:
    targets = "core-image-minimal perf rust clang u-boot gcc linux-yocto packagegroup-core-boot nativesdk-zlib"
    everything.bitbake("-g", *targets.split())


def test_the_librarys_recipe_passes_the_quality_checks(everything: BuildDirectory) -> None:
    output = everything.bitbake("-c", "package_qa", "python3-detbuild")
    assert "QA Issue" not in output
    split = next((everything.path / "tmp/work").glob("*/python3-detbuild/*/packages-split"))
    assert list(split.glob("python3-detbuild-compare/usr/lib/python3*/site-packages/detbuild/compare/match.py"))
    assert list(split.glob("python3-detbuild/usr/lib/python3*/site-packages/detbuild/session.py"))


@pytest.mark.parametrize("recipe", ["python3-detbuild-native", "nativesdk-python3-detbuild"])
def test_the_librarys_recipe_exists_for_build_hosts_and_sdks(everything: BuildDirectory, recipe: str) -> None:
    everything.bitbake("-g", recipe)


@pytest.fixture
def small() -> Iterator[BuildDirectory]:
    testbed.builder()
    build = BuildDirectory(testbed.PLACE / "signatures")
    yield build
    # Another test may have it changed.
    testbed.layer.cache_clear()


def hashes(build: BuildDirectory, conf: str = "") -> set[tuple[str, str]]:
    """Recipe, and signature file of a task, whose name ends in the task's hash: of two recipes and what they need."""
    build.configure(conf)
    shutil.rmtree(build.path / "tmp/stamps", ignore_errors=True)
    build.bitbake("-S", "none", "tb-usezlib", "tb-shelldate")
    return {(path.parent.name, path.name) for path in (build.path / "tmp/stamps").rglob("*.sigdata.*")}


def tasks(names: set[tuple[str, str]], recipe: str) -> set[str]:
    return {name.split(".sigdata.")[0].rpartition(".")[2] for owner, name in names if owner == recipe}


def test_only_what_changes_outputs_changes_task_hashes(small: BuildDirectory) -> None:
    before = hashes(small)
    assert len(before) > 50
    unhashed = (
        'DETBUILD_ENGINE = "tracer"\nDETBUILD_SOCKET = "/elsewhere/socket"\nDETBUILD_LOG_LEVEL = "reads"\n'
        'DETBUILD_REQUIRE = "1"\nDETBUILD_STATE = "${TOPDIR}/elsewhere"\nBB_NUMBER_THREADS = "3"\n'
        'PARALLEL_MAKE = "-j 3"\n'
    )
    assert hashes(small, unhashed) == before
    for module in ("recipe", "task", "session", "policy"):
        with (testbed.layer() / f"lib/detbuild/{module}.py").open("a") as file:
            file.write("# one more comment\n")
    assert hashes(small) == before
    # It depends on nothing, so what changes in it is its own.
    policy = tasks(before - hashes(small, 'DETBUILD_POLICY = "strict"'), "pseudo-native")
    assert {"do_compile", "do_install"} <= policy
    assert not policy & {"do_fetch", "do_unpack", "do_patch", "do_configure"}
    sources = tasks(before - hashes(small, 'DETBUILD_EPOCH_SOURCES = "git fallback"'), "zlib")
    assert {"do_unpack", "do_compile"} <= sources
    assert "do_fetch" not in sources


def test_yocto_check_layer_passes() -> None:
    testbed.builder()
    # With OE-Core's own recipes instead of stand-ins it passes as well, and takes ten minutes. useradd.bbclass waits
    # for setscene tasks of these, which only a recipe has.
    recipes = {f"{name}.bb": "" for name in ("base-files", "base-passwd", "shadow", "shadow-sysroot")}
    recipes["shadow-native.bb"] = "inherit native\n"
    build = BuildDirectory(testbed.PLACE / "check-layer", STAND_INS + NO_SYSTEMD, recipes, inherit=False)
    script = testbed.ROOT / "openembedded-core/scripts/yocto-check-layer"
    output = build.run(f"{script} --no-auto-dependency {testbed.layer()}", seconds=900)
    assert "meta-detbuild ... PASS" in output, output
