# SPDX-License-Identifier: MIT
SUMMARY = "Deterministic builds: epochs, sessions and comparisons"
DESCRIPTION = "The library and the commands of this layer. detbuild runs any command under a fixed clock; \
detbuild-compare says which packages of two builds differ, and which recipe each one comes from."
SECTION = "devel/python"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=46df8365c6e76719b950d1e3da3da846"

# The source is the layer that this recipe is part of, and the version is the library's own.
PV = "${@detbuild.__version__}"
FILESEXTRAPATHS:prepend := "${DETBUILD_LAYERDIR}:"
SRC_URI = "file://pyproject.toml file://README.md file://LICENSE ${@detbuild_files(d)}"
S = "${UNPACKDIR}"

# File by file: whole directories bring bytecode caches along, whose checksums change from one parse to the next.
def detbuild_files(d):
    top = d.getVar("DETBUILD_LAYERDIR")
    found = []
    for root, dirs, files in os.walk(os.path.join(top, "lib", "detbuild")):
        dirs[:] = sorted(name for name in dirs if name != "__pycache__")
        bb.parse.mark_dependency(d, root)
        found += [os.path.relpath(os.path.join(root, name), top) for name in sorted(files) if name[-4:] != ".pyc"]
    bb.parse.mark_dependency(d, os.path.join(top, "lib", "detbuild", "__init__.py"))
    return " ".join("file://" + path for path in found)
# Where the layer lies is nobody's matter.
detbuild_files[vardepsexclude] = "DETBUILD_LAYERDIR"

inherit python_setuptools_build_meta

PACKAGE_BEFORE_PN = "${PN}-compare"
SUMMARY:${PN}-compare = "Comparison of two builds"
FILES:${PN}-compare = " \
    ${bindir}/detbuild-compare \
    ${PYTHON_SITEPACKAGES_DIR}/detbuild/compare \
    ${PYTHON_SITEPACKAGES_DIR}/detbuild/report \
    ${PYTHON_SITEPACKAGES_DIR}/detbuild/cli/compare.py \
    ${PYTHON_SITEPACKAGES_DIR}/detbuild/cli/explain.py \
"

RDEPENDS:${PN} += "python3-ctypes python3-fcntl python3-git python3-io python3-json python3-logging python3-resource"
RDEPENDS:${PN}:append:class-native = " ${COMPARE_RDEPENDS} diffoscope python3-libarchive-c"
RDEPENDS:${PN}-compare = "${PN} ${COMPARE_RDEPENDS}"
COMPARE_RDEPENDS = "python3-asyncio python3-compression python3-crypt python3-jinja2 python3-netclient python3-pyyaml"
# OE-Core has neither for nativesdk, and only meta-python has python3-debian and python3-rich: the comparison names what it misses.
RDEPENDS:${PN}-compare:append:class-target = " \
    diffoscope python3-libarchive-c \
    ${@bb.utils.contains('BBFILE_COLLECTIONS', 'meta-python', 'python3-debian python3-rich', '', d)} \
"

BBCLASSEXTEND = "native nativesdk"
