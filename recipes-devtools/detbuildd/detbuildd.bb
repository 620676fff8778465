# SPDX-License-Identifier: MIT
SUMMARY = "Daemon for deterministic builds"
DESCRIPTION = "detbuildd, the root daemon of detbuild's eBPF engine, as a systemd service that starts when a build \
first asks for it. Its programs are compiled on the machine, by BCC."
SECTION = "devel"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=46df8365c6e76719b950d1e3da3da846"

PV = "${@detbuild.__version__}"
FILESEXTRAPATHS:prepend := "${DETBUILD_LAYERDIR}:"
SRC_URI = " \
    file://LICENSE \
    file://detbuildd.service \
    file://detbuildd.socket \
    file://detbuildd.yaml \
"
S = "${UNPACKDIR}"

inherit features_check systemd useradd

REQUIRED_DISTRO_FEATURES = "systemd"
COMPATIBLE_HOST = "x86_64.*-linux"

# The socket starts the service.
SYSTEMD_SERVICE:${PN} = "detbuildd.socket"

USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system detbuild"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${systemd_system_unitdir} ${D}${sysconfdir}/detbuild
    install -m 0644 ${S}/detbuildd.service ${S}/detbuildd.socket ${D}${systemd_system_unitdir}
    sed -i -e 's,/usr/bin/,${bindir}/,' ${D}${systemd_system_unitdir}/detbuildd.service
    install -m 0644 ${S}/detbuildd.yaml ${D}${sysconfdir}/detbuild
}

CONFFILES:${PN} = "${sysconfdir}/detbuild/detbuildd.yaml"

RDEPENDS:${PN} = "python3-crypt python3-detbuild python3-math python3-netclient python3-pyyaml python3-syslog"
# Only meta-clang has it. Without it the daemon says what it misses.
RRECOMMENDS:${PN} = "${@bb.utils.contains('BBFILE_COLLECTIONS', 'clang-layer', 'bcc', '', d)}"
