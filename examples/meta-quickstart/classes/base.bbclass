# Unpack, compile, install and a .deb: the tasks of OE-Core under their own names, and its hook for the epoch.

addtask fetch
do_fetch[dirs] = "${DL_DIR}"
do_fetch[network] = "1"
python do_fetch() {
    bb.fetch2.Fetch((d.getVar("SRC_URI") or "").split(), d).download()
}

addtask unpack after do_fetch
do_unpack[cleandirs] = "${UNPACKDIR}"
do_unpack[postfuncs] += "create_source_date_epoch_stamp"
python do_unpack() {
    bb.fetch2.Fetch((d.getVar("SRC_URI") or "").split(), d).unpack(d.getVar("UNPACKDIR"))
}

python create_source_date_epoch_stamp() {
    source_date_epoch = oe.reproducible.get_source_date_epoch(d, d.getVar("S"))
    oe.reproducible.epochfile_write(source_date_epoch, d.getVar("SDE_FILE"), d)
}

def get_source_date_epoch_value(d):
    return oe.reproducible.epochfile_read(d.getVar("SDE_FILE"), d)

addtask patch after do_unpack
do_patch[noexec] = "1"
do_patch() {
    :
}

addtask configure after do_patch
do_configure[dirs] = "${B}"
do_configure() {
    :
}

addtask compile after do_configure
do_compile[dirs] = "${B}"
do_compile() {
    :
}

addtask install after do_compile
do_install[dirs] = "${B}"
do_install[cleandirs] = "${D}"
do_install() {
    :
}

addtask package_write_deb after do_install
do_package_write_deb[dirs] = "${DEPLOY_DIR_DEB}"
do_package_write_deb() {
    mkdir -p ${D}/DEBIAN
    cat > ${D}/DEBIAN/control <<-EOF
	Package: ${PN}
	Version: ${PV}-${PR}
	Architecture: all
	Maintainer: nobody <nobody@localhost>
	Description: ${SUMMARY}
	OE: ${PN}
	EOF
    dpkg-deb --root-owner-group -Zgzip --build ${D} ${DEPLOY_DIR_DEB}/${PN}_${PV}-${PR}_all.deb
}

addtask build after do_package_write_deb
do_build[noexec] = "1"
do_build() {
    :
}
