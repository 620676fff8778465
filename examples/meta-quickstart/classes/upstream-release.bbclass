# Plays upstream: packs the directory beside the recipe into ${BP}.tar.gz, dated RELEASE_DATE, and takes it as
# the source. So the layer holds text alone, and its recipes still begin with an archive that carries times.
#
#   RELEASE_DATE = "1700000000"     seconds since 1970 that every file in the archive bears

SRC_URI = "file://${DL_DIR}/${BP}.tar.gz"
do_fetch[prefuncs] += "make_release"
do_fetch[vardeps] += "RELEASE_DATE"
do_fetch[file-checksums] += "${FILE_DIRNAME}/${BPN}:True"

make_release[dirs] = "${DL_DIR}"
python make_release() {
    import tarfile

    def dated(member):
        member.mtime, member.uid, member.gid, member.uname, member.gname = int(d.getVar("RELEASE_DATE")), 0, 0, "", ""
        return member

    with tarfile.open(d.expand("${DL_DIR}/${BP}.tar.gz"), "w:gz") as archive:
        archive.add(d.expand("${FILE_DIRNAME}/${BPN}"), d.getVar("BP"), filter=dated)
}
