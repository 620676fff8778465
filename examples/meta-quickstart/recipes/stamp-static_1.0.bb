SUMMARY = "A banner written at build time by a static program that calls time(2)"
LICENSE = "MIT"
inherit upstream-release
RELEASE_DATE = "1609556645"

do_compile() {
    gcc -static -O1 -o banner banner.c
    ./banner > banner.txt
}

do_install() {
    install -D -m 0644 banner.txt ${D}/usr/share/stamp-static/banner.txt
}
