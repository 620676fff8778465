SUMMARY = "A release file written by a shell script that calls date"
LICENSE = "MIT"
SRC_URI = "file://release.sh file://__source-date-epoch.txt"
S = "${UNPACKDIR}"

do_compile() {
    sh ./release.sh > release
}

do_install() {
    install -D -m 0644 release ${D}/etc/stamp-release
}
