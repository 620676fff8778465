"""What a board boots, taken apart down to the files in it: images made by the programs that really make them."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from detbuild.compare.cause import gather
from detbuild.compare.change import Collected, Facts
from detbuild.compare.inside import Damaged, Reader, opened
from detbuild.compare.inspect import Inspector

KERNELS = [path for path in sorted(Path("/boot").glob("vmlinuz-*")) if os.access(path, os.R_OK)]
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
needs_kernel = pytest.mark.skipif(not KERNELS, reason="needs a kernel in /boot (Debian: linux-image-amd64)")
needs_stub = pytest.mark.skipif(not STUB.is_file(), reason="needs systemd's EFI stub (Debian: systemd-boot-efi)")
NOW = 1_800_000_000
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if not shutil.which(program, path=PATH)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def sh(script: str, cwd: Path, moment: int = 1_600_000_000) -> None:
    environment = {**os.environ, "PATH": PATH, "SOURCE_DATE_EPOCH": str(moment), "TZ": "UTC"}
    done = subprocess.run(
        ["/bin/sh", "-ec", script], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read(path: Path) -> dict[str, bytes]:
    reader = opened(path)
    assert reader, f"{path} was not taken for a container"
    return {member.name: b"".join(pieces) for member, pieces in reader.members()}


def places(a: Path, b: Path, scratch: Path) -> dict[tuple[str, ...], str]:
    """Where two files differ, and the cause that is named there."""
    changes = Collected()
    Inspector(Facts(now=NOW), scratch, changes).pair(a, b)
    return {change.where: gather([change], Facts(now=NOW))[0].name for change in changes.changes}


def make_initramfs(top: Path, name: str, words: str) -> Path:
    root = top / f"root-{name}"
    (root / "etc").mkdir(parents=True)
    (root / "etc/built").write_text(words)
    for path in (root / "etc/built", root / "etc", root):
        os.utime(path, (1, 1))
    sh(f"cd {root}; find . | sort | cpio -o -H newc --reproducible > ../{name}", top)
    return top / name


@needs_kernel
def test_a_kernel_of_x86_gives_its_payload_and_that_the_kernel_itself(tmp_path: Path) -> None:
    found = read(KERNELS[0])
    assert {"setup", "unpacking code", "payload", "unpacked size"} <= found.keys()
    (tmp_path / "payload").write_bytes(found["payload"])
    (vmlinux,) = read(tmp_path / "payload").values()
    assert vmlinux.startswith(b"\x7fELF")
    assert len(vmlinux) == int.from_bytes(found["unpacked size"], "little")


@needs_kernel
@needs("sbsign", "openssl")
@pytest.mark.parametrize("longer", ["", "of-another-size"])
def test_a_signature_on_a_kernel_is_told_as_one(tmp_path: Path, longer: str) -> None:
    for side, name in ("a", "x"), ("b", f"x{longer}"):
        key = f"-keyout {side}.key -out {side}.crt -subj /CN={name}/ -set_serial 7"
        sh(f"openssl req -newkey rsa:2048 -nodes -x509 -days 9 {key}", tmp_path)
        sh(f"sbsign --key {side}.key --cert {side}.crt --output {side} {KERNELS[0]}", tmp_path)
    changes = Collected()
    Inspector(Facts(now=NOW), tmp_path, changes).pair(tmp_path / "a", tmp_path / "b")
    header = {
        change.key.strip(): gather([change], Facts(now=NOW))[0].name for change in changes.changes if not change.where
    }
    assert header == {"checksum": "checksum"} | ({"signature size": "embedded-signature"} if longer else {})
    inside = [change for change in changes.changes if change.where]
    assert {(change.where, gather([change], Facts(now=NOW))[0].name) for change in inside} == {
        (("signature",), "embedded-signature")
    }


def test_a_kernel_of_arm_gives_its_payload(tmp_path: Path) -> None:
    """Laid out as arch/arm/boot/compressed does it: code, the compressed kernel, more code."""
    payload = gzip.compress(b"Linux version 6.1\0" * 999, mtime=0)
    image = bytearray(b"\0\0\xa0\xe1" * 5000) + payload
    image[0x24:0x30] = struct.pack("<III", 0x016F2818, 0, len(image))
    (tmp_path / "zImage").write_bytes(image + b"\xd0\x0d\xfe\xed a device tree behind it")
    found = read(tmp_path / "zImage")
    assert found["payload"] == payload
    assert found["behind the payload"].endswith(b"a device tree behind it")


def test_a_kernel_that_efi_starts_gives_its_payload(tmp_path: Path) -> None:
    payload = gzip.compress(b"Linux version 6.1\0" * 999, mtime=0)
    head = struct.pack("<4s4sII8x16s", b"MZ\0\0", b"zimg", 512, len(payload), b"gzip").ljust(512, b"\0")
    (tmp_path / "vmlinuz.efi").write_bytes(head + payload)
    assert read(tmp_path / "vmlinuz.efi")["payload"] == payload


@needs_kernel
def test_a_kernel_that_is_cut_off_is_damaged_and_nothing_else(tmp_path: Path) -> None:
    data = KERNELS[0].read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    changes = Collected()
    Inspector(Facts(), tmp_path, changes).pair(KERNELS[0], tmp_path / "cut")
    assert any("its payload ends at" in change.line_a for change in changes.changes)


@needs_stub
@needs("objcopy", "cpio", "gzip")
def test_a_unified_kernel_image_is_followed_into_its_initramfs(tmp_path: Path) -> None:
    for side, day in (("a", 20), ("b", 21)):
        make_initramfs(tmp_path, f"initrd-{side}", f"built 2026-11-{day}\n")
        sh(f"gzip -n initrd-{side}; printf 'console=ttyS0 root=/dev/{side}' > cmdline-{side}", tmp_path)
        sections = "".join(
            f" --add-section .{name}={file} --change-section-vma .{name}={address:#x}"
            for name, file, address in (
                ("cmdline", f"cmdline-{side}", 0x30000),
                ("initrd", f"initrd-{side}.gz", 0x3000000),
            )
        )
        sh(f"objcopy {sections} {STUB} {side}", tmp_path)
    found = places(tmp_path / "a", tmp_path / "b", tmp_path)
    assert found[".initrd", "etc/built"] == "timestamp"
    assert (".cmdline",) in found


FIT = """/dts-v1/;
/ {{
    description = "a kernel for a test";
    #address-cells = <1>;
    images {{
        kernel-1 {{
            data = /incbin/("kernel");
            type = "kernel"; arch = "arm64"; os = "linux"; compression = "gzip"; load = <0x80000>; entry = <0x80000>;
            hash-1 {{ algo = "sha256"; }};
        }};
        ramdisk-1 {{
            data = /incbin/("{initramfs}");
            type = "ramdisk"; arch = "arm64"; os = "linux"; compression = "none";
        }};
    }};
    configurations {{ default = "conf-1"; conf-1 {{ kernel = "kernel-1"; ramdisk = "ramdisk-1"; }}; }};
}};
"""


@needs("mkimage", "dtc", "cpio")
@pytest.mark.parametrize("option", ["", "-E", "-E -p 0x40000"])
def test_a_fit_image_is_followed_into_its_initramfs(tmp_path: Path, option: str) -> None:
    """Inside the tree, behind it, and at a place of its own."""
    (tmp_path / "kernel").write_bytes(gzip.compress(os.urandom(90_000)))
    for side, day in (("a", 20), ("b", 21)):
        make_initramfs(tmp_path, f"initramfs-{side}", f"built 2026-11-{day}\n")
        (tmp_path / "fit.its").write_text(FIT.format(initramfs=f"initramfs-{side}"))
        sh(f"mkimage {option} -f fit.its {side}", tmp_path, moment=1_600_000_000 + day * 100_001)
    assert read(tmp_path / "a")["kernel-1"] == (tmp_path / "kernel").read_bytes()
    assert places(tmp_path / "a", tmp_path / "b", tmp_path) == {
        (): "timestamp",
        ("ramdisk-1", "etc/built"): "timestamp",
    }


@needs("sfdisk", "mkfs.vfat", "mcopy", "mkfs.ext4", "cpio")
@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_disk_is_followed_to_the_files_in_its_partitions(tmp_path: Path, label: str) -> None:
    """As wic lays it out: a FAT with an initramfs, and a root file system."""
    for side, day in (("a", 20), ("b", 21)):
        make_initramfs(tmp_path, f"initramfs-{side}", f"built 2026-11-{day}\n")
        root = tmp_path / f"root-{side}-2"
        (root / "etc").mkdir(parents=True)
        (root / "etc/os-release").write_text(f"BUILD_ID=202611{day}101112\n")
        for path in (root / "etc/os-release", root / "etc", root):
            os.utime(path, (1, 1))
        sh(
            f"truncate -s 2M fat; mkfs.vfat fat; mcopy -i fat initramfs-{side} ::initramfs; "
            f"truncate -s 2M ext4; mkfs.ext4 -q -F -d {root.name} ext4; truncate -s 6M {side}; "
            f"printf 'label: {label}\\nstart=2048, size=4096\\nstart=6144, size=4096\\n' | sfdisk {side}; "
            f"dd if=fat of={side} bs=1M seek=1 conv=notrunc; dd if=ext4 of={side} bs=1M seek=3 conv=notrunc",
            tmp_path,
        )
        for name in ("fat", "ext4"):
            (tmp_path / name).unlink()
    found = places(tmp_path / "a", tmp_path / "b", tmp_path)
    assert found["partition 1", "./initramfs", "etc/built"] == "timestamp"
    assert found["partition 2", "./etc/os-release"] == "timestamp"


@needs("dtc")
def test_a_device_tree_without_images_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.dts").write_text('/dts-v1/;\n/ { model = "board"; soc { images = "none"; }; };\n')
    sh("dtc -O dtb -o x.dtb x.dts", tmp_path)
    assert opened(tmp_path / "x.dtb") is None


@needs("mkimage")
def test_a_legacy_image_gives_its_payload_and_one_of_several_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(os.urandom(1001))
    (tmp_path / "ramdisk").write_bytes(os.urandom(500))
    sh("mkimage -A arm -T kernel -C none -n Linux -d kernel one", tmp_path)
    sh("mkimage -A arm -T multi -C none -n Linux -d kernel:ramdisk two", tmp_path)
    assert read(tmp_path / "one") == {"payload": (tmp_path / "kernel").read_bytes()}
    assert read(tmp_path / "two") == {
        "image 1": (tmp_path / "kernel").read_bytes(),
        "image 2": (tmp_path / "ramdisk").read_bytes(),
    }


@needs("mkimage", "dtc", "cpio")
def test_damage_anywhere_is_told_as_damage_and_breaks_nothing(tmp_path: Path) -> None:
    """Cut short, and with bytes of the first few KiB overwritten, where all the tables are."""
    (tmp_path / "kernel").write_bytes(os.urandom(3001))
    make_initramfs(tmp_path, "initramfs", "built\n")
    (tmp_path / "fit.its").write_text(FIT.format(initramfs="initramfs"))
    sh("mkimage -f fit.its inside; mkimage -E -f fit.its outside", tmp_path)
    sh("mkimage -A arm -T multi -C none -n x -d kernel:initramfs legacy", tmp_path)
    whole = [tmp_path / name for name in ("inside", "outside", "legacy", "initramfs")]
    whole += [path for path in (STUB, *KERNELS[:1]) if path.is_file()]
    chance, damaged, outcomes = random.Random(1), tmp_path / "damaged", Counter[str]()
    for path in whole:
        data = path.read_bytes()[: 1 << 18]
        for number in range(150):
            broken = bytearray(data)
            for _ in range(1 + number % 7):
                broken[chance.randrange(min(len(broken), (64, 1024, 8192)[number % 3]))] = chance.choice((0, 1, 255))
            damaged.write_bytes(broken[: chance.randrange(512)] if number % 2 == 0 else broken)
            try:
                reader = opened(damaged)
                outcomes["read" if reader and reader.header() is not None and exhaust(reader) else "none"] += 1
            except Damaged:
                outcomes["damaged"] += 1
    assert min(outcomes["read"], outcomes["damaged"]) > 20, outcomes


def exhaust(reader: Reader) -> bool:
    for _member, contents in reader.members():
        for _piece in contents:
            pass
    return True


@needs("cpio", "zstd")
def test_an_initramfs_behind_another_is_not_overlooked(tmp_path: Path) -> None:
    """Microcode comes uncompressed before the rest; INITRAMFS_IMAGE and others are joined by cat(1) as well."""
    first = make_initramfs(tmp_path, "first", "the same\n")
    for side, day in (("a", 20), ("b", 21)):
        make_initramfs(tmp_path, f"second-{side}", f"built 2026-11-{day}\n")
    for name, script in {
        "plain": "cat first second-{0} > plain-{0}",
        "compressed": "zstd -q second-{0}; cat first second-{0}.zst > compressed-{0}",
        "inside": "cat first second-{0} | gzip -n > inside-{0}",
    }.items():
        for side in "ab":
            sh(script.format(side), tmp_path)
        a, b = tmp_path / f"{name}-a", tmp_path / f"{name}-b"
        ((where, cause),) = places(a, b, tmp_path).items()
        assert (where[-1].removeprefix("segment 2/"), cause) == ("etc/built", "timestamp"), name
    assert read(first)["etc/built"] == b"the same\n"


def test_a_real_initramfs_gives_its_files() -> None:
    for path in sorted(Path("/boot").glob("initrd.img-*")):
        reader = opened(path)
        assert reader
        names = {member.name for member, _contents in reader.members()}
        assert names & {"init", "./init"} or any("segment 2" in name for name in names)
        return
    pytest.skip("needs an initramfs in /boot (Debian: linux-image-amd64)")
