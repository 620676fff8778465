"""The epoch of every kind of recipe that OE-Core has a class for, built with that class by bitbake itself."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
import testbed
from testbed import BuildDirectory

pytestmark = pytest.mark.oe

ARCHIVE, KERNEL, GCC = 1111111113, 1222222223, 1333333337
FALLBACK = 1302044400
SEE = 'printf "%s %s" "$SOURCE_DATE_EPOCH" $(date +%s) > ${T}/seen\n'
COMPILES = f'INHIBIT_DEFAULT_DEPS = "1"\ndo_configure() {{\n\t:\n}}\ndo_compile() {{\n\t{SEE}}}\n'
# As much of Linux's own as kernel.bbclass asks for.
KERNEL_MAKEFILE = """VERSION = 6
PATCHLEVEL = 6
SUBLEVEL = 0
EXTRAVERSION =
olddefconfig:
	cp $(firstword $(MAKEFILE_LIST)) $(O)/Makefile
	echo CONFIG_MODULES=y > $(O)/.config
bzImage:
	mkdir -p include/config include/generated arch/x86/boot
	printf '%s %s' "$$SOURCE_DATE_EPOCH" $$(date +%s) > arch/x86/boot/bzImage
	echo 6.6.0 > include/config/kernel.release
	echo '#define UTS_RELEASE "6.6.0"' > include/generated/utsrelease.h
	touch include/config/auto.conf System.map vmlinux
modules:
	printf '%s %s' "$$SOURCE_DATE_EPOCH" $$(date +%s) > modules
	touch Module.symvers
"""
RECIPES = {
    "classes/tell.bbclass": testbed.TELL,
    "archive_1.0.bb": f'SRC_URI = "file://archive-1.0.tar.gz"\nBBCLASSEXTEND = "native nativesdk"\n{COMPILES}',
    "linux-small_6.6.bb": 'inherit kernel\nSRC_URI = "file://linux-small-6.6.tar.gz"\nS = "${UNPACKDIR}/${BP}"\n',
    # perf, and what else is built of the kernel's source.
    "kernel-user_1.0.bb": f"inherit kernelsrc\n{COMPILES}",
    "gcc-source_1.0.bb": "require recipes-devtools/gcc/gcc-source.inc\n"
    'SRC_URI = "file://gcc-1.0.tar.gz"\nS = "${UNPACKDIR}/gcc-1.0"\n'
    "python do_preconfigure() {\n    with open(d.expand('${S}/configured'), 'w'):\n        pass\n}\n",
    "gcc-user_1.0.bb": "require recipes-devtools/gcc/gcc-shared-source.inc\n"
    'UNPACKDIR = "${TMPDIR}/work-shared/gcc-1.0-r0/sources"\nS = "${UNPACKDIR}/gcc-1.0"\nB = "${WORKDIR}/build"\n'
    f"{COMPILES}",
    "packagegroup-small.bb": "inherit packagegroup\n",
    # The testbed has no package manager to fill a root file system with, and nothing to make an SDK of.
    "image-small.bb": 'IMAGE_FSTYPES = "tar"\nIMAGE_LINGUAS = ""\nKERNELDEPMODDEPEND = ""\nKERNEL_DEPLOY_DEPEND = ""\n'
    'PACKAGE_INSTALL = ""\ninherit image\n'
    "python() {\n    for task in ('do_populate_sdk', 'do_populate_sdk_ext', 'do_sdk_depends'):\n"
    "        bb.build.deltask(task, d)\n}\n"
    "fakeroot python do_rootfs() {\n    bb.utils.mkdirhier(d.expand('${IMAGE_ROOTFS}/etc'))\n}\n",
}
ARCHIVES = {
    "archive-1.0": (ARCHIVE, {"main.c": ""}),
    "linux-small-6.6": (KERNEL, {"Makefile": KERNEL_MAKEFILE, "Kconfig": ""}),
    "gcc-1.0": (GCC, {"configure": ""}),
}
CONF = """
INHERIT += "tell"
PREFERRED_PROVIDER_virtual/kernel = "linux-small"
BBMULTICONFIG = "other"
require conf/multilib.conf
MULTILIBS = "multilib:lib32"
DEFAULTTUNE:virtclass-multilib-lib32 = "x86"
ASSUME_PROVIDED += "^(?!archive|pseudo|virtual/fakeroot).*-native$ ^gcc-cross.* ^.*-crosssdk-.* \
    depmodwrapper-cross make-mod-scripts meta-extsdk-toolchain buildtools-tarball \
    ^nativesdk-(?!archive).* ^virtual/nativesdk-.* ^lib32-(?!archive).* ^virtual/lib32-.*"
"""


def _pack(place: Path, name: str, date: int, files: dict[str, str]) -> None:
    source = place / name
    source.mkdir(parents=True)
    for file, text in files.items():
        (source / file).write_text(text)
        os.utime(source / file, (date, date))
    with tarfile.open(place / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(source, name)


@pytest.fixture(scope="module")
def kinds() -> BuildDirectory:
    """All of them, built at once."""
    testbed.builder()
    build = BuildDirectory(testbed.PLACE / "kinds", CONF, RECIPES)
    for name, (date, files) in ARCHIVES.items():
        _pack(build.path / "meta-cases/files", name, date, files)
    (build.path / "conf/multiconfig").mkdir()
    (build.path / "conf/multiconfig/other.conf").write_text('TMPDIR = "${TOPDIR}/tmp-other"\n')
    testbed.give(build.path)
    variants = ("archive", "archive-native", "nativesdk-archive", "lib32-archive", "mc:other:archive")
    users = ("kernel-user", "linux-small", "gcc-user")
    compiled = [f"{name}:do_compile" for name in (*variants, *users)]
    build.bitbake(*compiled, "linux-small:do_compile_kernelmodules", "packagegroup-small")
    return build


def told(build: BuildDirectory, task: str, place: str = "tmp") -> int:
    """SOURCE_DATE_EPOCH, in seconds, as ``RECIPE.do_TASK`` had it before anything of it ran."""
    return int((build.path / place / "told" / task).read_text())


def check(build: BuildDirectory, recipe: str, epoch: int, seen: Path | None = None, place: str = "tmp") -> None:
    """What a recipe's compile had for an epoch: for BitBake, in the environment, by the clock, and in WORKDIR."""
    assert told(build, f"{recipe}.do_compile", place) == epoch
    work = next((build.path / place / "work").glob(f"*/{recipe}/*"))
    environment, clock = (seen or work / "temp/seen").read_text().split()
    assert int(environment) == epoch
    assert int(clock) - epoch in range(5)
    assert (work / "__source-date-epoch.txt").read_text() == f"{epoch}\n"


@pytest.mark.parametrize("recipe", ["archive", "archive-native", "nativesdk-archive", "lib32-archive"])
def test_every_variant_of_a_recipe_has_the_epoch_of_its_source(kinds: BuildDirectory, recipe: str) -> None:
    check(kinds, recipe, ARCHIVE)


def test_a_multiconfig_has_it_in_a_tmpdir_of_its_own(kinds: BuildDirectory) -> None:
    check(kinds, "archive", ARCHIVE, place="tmp-other")


def test_a_kernel_has_the_epoch_of_its_source_although_the_class_moves_it_away(kinds: BuildDirectory) -> None:
    build = next((kinds.path / "tmp/work").glob("*/linux-small/*")) / "build"
    check(kinds, "linux-small", KERNEL, seen=build / "arch/x86/boot/bzImage")
    assert told(kinds, "linux-small.do_compile_kernelmodules") == KERNEL
    environment, clock = (build / "modules").read_text().split()
    assert (int(environment), int(clock) - KERNEL in range(5)) == (KERNEL, True)


def test_a_user_of_the_kernels_source_has_the_kernels_epoch(kinds: BuildDirectory) -> None:
    check(kinds, "kernel-user", KERNEL)


def test_a_user_of_gccs_shared_source_has_the_epoch_of_who_unpacked_it(kinds: BuildDirectory) -> None:
    shared = kinds.path / "tmp/work-shared/gcc-1.0-r0"
    assert told(kinds, "gcc-source-1.0.do_preconfigure") == GCC
    assert (shared / "__source-date-epoch.txt").read_text() == f"{GCC}\n"
    check(kinds, "gcc-user", GCC)


@pytest.mark.parametrize("task", ["package", "packagedata", "package_qa", "package_write_deb"])
def test_a_packagegroup_which_has_no_source_has_the_fallback(kinds: BuildDirectory, task: str) -> None:
    assert told(kinds, f"packagegroup-small.do_{task}") == FALLBACK
    work = next((kinds.path / "tmp/work").glob("*/packagegroup-small/*"))
    assert (work / "__source-date-epoch.txt").read_text() == f"{FALLBACK}\n"


@pytest.fixture(scope="module")
def image(kinds: BuildDirectory) -> BuildDirectory:
    """Its do_build would ask for the licences of what is in it."""
    kinds.bitbake("image-small:do_image_complete")
    return kinds


@pytest.mark.parametrize("task", ["rootfs", "image", "image_tar", "image_complete"])
def test_an_image_which_unpacks_nothing_has_the_fallback_and_keeps_no_file(image: BuildDirectory, task: str) -> None:
    assert told(image, f"image-small.do_{task}") == FALLBACK
    work = next((image.path / "tmp/work").glob("*/image-small/*"))
    assert not (work / "__source-date-epoch.txt").exists()
    assert [path for path in (image.path / "tmp/deploy/images").glob("*/image-small-*.tar") if not path.is_symlink()]
