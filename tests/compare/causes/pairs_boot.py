"""What a board boots: pairs of FIT and legacy images, and of initramfs. Of 8, 7 were named right at the first try."""

from __future__ import annotations

from making_pairs import Side, pair

FIT = """\
/dts-v1/;
/ {
    description = "boot";
    #address-cells = <1>;
    images {
        kernel-1 {
            data = /incbin/("kernel");
            type = "kernel"; arch = "arm64"; os = "linux"; compression = "none"; load = <0x80000>; entry = <0x80000>;
            hash-1 { algo = "sha256"; };
        };
        ramdisk-1 {
            data = /incbin/("initramfs");
            type = "ramdisk"; arch = "arm64"; os = "linux"; compression = "none";
            hash-1 { algo = "sha256"; };
        };
    };
    configurations {
        default = "conf-1";
        conf-1 {
            kernel = "kernel-1"; ramdisk = "ramdisk-1";
            signature-1 { algo = "sha256,rsa2048"; key-name-hint = "dev"; sign-images = "kernel", "ramdisk"; };
        };
    };
};
"""
PACK = "find . | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible"


def fit(side: Side, *options: str, moment: str = "1700000000") -> None:
    """From ``initramfs`` and one kernel."""
    side.write("kernel", "a kernel\n" * 999)
    side.write("fit.its", FIT)
    side.run("mkimage", "-f", "fit.its", *options, "out", SOURCE_DATE_EPOCH=moment)


def initramfs(side: Side, text: str, name: str = "initramfs") -> None:
    side.write(f"root-{name}/etc/info", text)
    side.age(f"root-{name}")
    side.sh(f"cd root-{name}; {PACK} > ../{name}")


@pair("timestamp", "mkimage", "dtc", "cpio")
def the_time_of_a_fit(side: Side) -> None:
    initramfs(side, "the same\n")
    fit(side, moment=str(side.moment))


@pair("timestamp", "mkimage")
def the_time_of_a_legacy_image(side: Side) -> None:
    side.write("kernel", "a kernel\n" * 99)
    side.run("mkimage", "-A", "arm", "-T", "kernel", "-C", "none", "-d", "kernel", "out", **side.faked())


@pair("build-path", "mkimage", "dtc", "cpio", place=True)
def a_path_in_the_initramfs_of_a_fit(side: Side) -> None:
    initramfs(side, f"built in {side.home}\n")
    fit(side)


@pair("embedded-signature", "mkimage", "dtc", "cpio", "openssl")
def a_fit_signed_with_a_key_of_each_build(side: Side) -> None:
    initramfs(side, "the same\n")
    side.sh(
        "mkdir keys; openssl genrsa -out keys/dev.key 2048; "
        "openssl req -batch -new -x509 -key keys/dev.key -out keys/dev.crt"
    )
    fit(side, "-k", "keys")


@pair("file-order", "cpio", "zstd")
def an_initramfs_in_another_order(side: Side) -> None:
    for name in "abcd":
        side.write(f"root/{name}", f"file {name}\n")
    side.age("root")
    order = side.pick("sort", "sort -r")
    side.sh(f"cd root; find . -type f | {order} | cpio --quiet -o -H newc --reproducible | zstd -q > ../out")


@pair("archive-metadata", "cpio", "gzip")
def the_times_in_the_second_of_two_initramfs(side: Side) -> None:
    initramfs(side, "microcode\n", "first")
    side.write("second/etc/info", "the same\n")
    side.age("second", moment=side.moment)
    side.sh(f"(cd second; {PACK}) | gzip -n > second.gz; cat first second.gz > out")


@pair("timestamp", "cpio", "xz")
def a_time_in_the_second_of_two_initramfs(side: Side) -> None:
    initramfs(side, "microcode\n", "first")
    initramfs(side, f"built {side.pick('2026-11-20 10:11:12', '2026-11-21 20:31:42')}\n", "second")
    side.sh("cat first second | xz > out")


@pair("compression", "mkimage", "gzip")
def a_legacy_images_payload_compressed_harder(side: Side) -> None:
    side.write("kernel", "".join(f"a kernel, line {number}\n" for number in range(9999)))
    side.sh(f"gzip -n {side.pick('-1', '-9')} kernel")
    side.run(
        "mkimage", "-A", "arm", "-T", "kernel", "-C", "gzip", "-d", "kernel.gz", "out", SOURCE_DATE_EPOCH="1700000000"
    )
