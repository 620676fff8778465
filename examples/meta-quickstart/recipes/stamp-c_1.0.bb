SUMMARY = "A C program with __DATE__ and __TIME__, whose makefile drops SOURCE_DATE_EPOCH"
LICENSE = "MIT"
inherit upstream-release
RELEASE_DATE = "1577934245"

do_compile() {
    make
}

do_install() {
    install -D -m 0755 stamp-c ${D}/usr/bin/stamp-c
}
