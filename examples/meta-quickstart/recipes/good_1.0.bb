SUMMARY = "A control: this one respects SOURCE_DATE_EPOCH, so it is the same with and without"
LICENSE = "MIT"
inherit upstream-release
RELEASE_DATE = "1704251045"

do_compile() {
    gcc -O1 -o good good.c
    date -u -d "@$SOURCE_DATE_EPOCH" > released
}

do_install() {
    install -D -m 0755 good ${D}/usr/bin/good
    install -D -m 0644 released ${D}/usr/share/good/released
}
