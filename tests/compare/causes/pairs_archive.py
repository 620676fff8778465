"""Pairs that differ in what containers, compressors, keys and random numbers make of the same contents."""

from __future__ import annotations

from making_pairs import HELLO, MOMENTS, Side, package, pair, tree

GZIPPED = "tar --sort=name -cf - tree | "


@pair("archive-metadata", "tar")
def times_in_a_tarball(side: Side) -> None:
    tree(side)
    side.run("tar", "--sort=name", f"--mtime=@{side.moment}", "-cf", "out", "tree")


@pair("archive-metadata", "tar")
def owners_in_a_tarball(side: Side) -> None:
    tree(side)
    side.run("tar", "--sort=name", f"--owner={side.pick('alice:1000', 'bob:1001')}", "-czf", "out", "tree", GZIP="-n")


@pair("archive-metadata", "tar")
def groups_by_number_in_a_tarball(side: Side) -> None:
    tree(side)
    side.run("tar", "--sort=name", "--numeric-owner", f"--group={side.pick('100', '101')}", "-cJf", "out", "tree")


@pair("archive-metadata", "tar")
def modes_in_a_tarball(side: Side) -> None:
    side.sh(
        f"umask {side.pick('022', '002')}; mkdir tree; echo x > tree/x; chmod g+w,o+r tree/x; umask "
        f"{side.pick('022', '002')}; mkdir tree/d"
    )
    side.age("tree")
    side.run("tar", "--sort=name", "-cf", "out", "tree")


@pair("archive-metadata", "gzip")
def the_time_in_a_gzip(side: Side) -> None:
    side.write("text", "words\n" * 100)
    side.age("text", moment=side.moment)
    side.sh("gzip -c text > out")


@pair("archive-metadata", "gzip")
def the_name_in_a_gzip(side: Side) -> None:
    name = side.pick("one.txt", "two.txt")
    side.write(name, "words\n" * 100)
    side.age(name)
    side.sh(f"gzip -c {name} > out")


@pair("archive-metadata", "gcc", "ar")
def the_time_in_a_static_library(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-c", "x.c")
    side.age("x.o", moment=side.moment)
    side.run("ar", "rcU", "out", "x.o")


@pair("archive-metadata", "cpio")
def inodes_in_an_initramfs(side: Side) -> None:
    if side.name == "b":
        side.sh("for i in 1 2 3 4 5 6 7; do echo $i > other$i; done")
    tree(side)
    side.sh("cd tree && find . -type f | sort | cpio -o -H newc > ../out")


@pair("archive-metadata", "cpio")
def times_in_an_initramfs(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment)
    side.sh("cd tree && find . | sort | cpio --reproducible -o -H newc | gzip -n > ../out")


@pair("archive-metadata", "zip")
def times_in_a_zip(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment)
    side.sh("zip -qrX out.zip tree; mv out.zip out")


@pair("archive-metadata", "zip")
def extra_fields_in_a_zip(side: Side) -> None:
    tree(side)
    side.sh(
        f"find tree -type f -exec touch -a -d @{side.moment + 86400} {{}} +; find tree -type f | sort | zip "
        f"-q out.zip -@; mv out.zip out"
    )


@pair("archive-metadata", "mksquashfs")
def times_in_a_squashfs(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment)
    side.run("mksquashfs", "tree", "out", "-quiet", "-no-progress", "-mkfs-time", "1")


@pair("archive-metadata", "mksquashfs")
def owners_in_a_squashfs(side: Side) -> None:
    tree(side)
    side.run(
        "mksquashfs", "tree", "out", "-quiet", "-no-progress", "-mkfs-time", "1", "-force-uid", side.pick("0", "1000")
    )


@pair("archive-metadata", "dpkg-deb")
def times_in_a_package(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment - 200_000_000)
    side.write(
        "tree/DEBIAN/control",
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.com>\nDescription: x\n",
    )
    side.run("dpkg-deb", "--root-owner-group", "-Zxz", "-b", "tree", "out", SOURCE_DATE_EPOCH=str(MOMENTS["a"]))


@pair("archive-metadata", "mkfs.ext4")
def times_in_an_ext4(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment)
    side.sh("truncate -s 4M out && E2FSPROGS_FAKE_TIME=1700000000 mkfs.ext4 -q -F -d tree -E "
            "hash_seed=11111111-1111-1111-1111-111111111111,root_owner=0:0 -U "
                "22222222-2222-2222-2222-222222222222 out")  # fmt: skip


@pair("archive-metadata", "mkfs.vfat", "mcopy")
def times_in_a_boot_partition(side: Side) -> None:
    tree(side)
    side.age("tree", moment=side.moment)
    side.sh(
        "truncate -s 2M out; mkfs.vfat -i 12345678 --invariant out >/dev/null; mcopy -s -m -i out "
        "tree/usr/share/doc/* ::"
    )


def levels(name: str, a: str, b: str, *needs: str) -> None:
    def make(side: Side) -> None:
        tree(side)
        side.python("open('tree/big', 'w').write(''.join('line %d of %d\\n' % (n, n * n % 977) for n in range(30000)))")
        side.age("tree")
        side.sh("tar --sort=name --owner=0 --group=0 -cf t tree; " + side.pick(a, b) + " < t > out")

    make.__name__ = f"compressed_by_{name}"
    pair("compression", *needs)(make)


levels("gzip", "gzip -n1", "gzip -n9", "gzip")
levels("xz", "xz -1", "xz -9", "xz")
levels("xz_threads", "xz -T1 -0", "xz -T4 -0 --block-size=65536", "xz")
levels("zstd", "zstd -q -1", "zstd -q -19", "zstd")
levels("bzip2", "bzip2 -1", "bzip2 -9", "bzip2")
levels("lz4", "lz4 -q -1", "lz4 -q -9", "lz4")


@pair("compression", "dpkg-deb")
def a_packages_level(side: Side) -> None:
    tree(side)
    side.python("open('tree/big', 'w').write(''.join('line %d of %d\\n' % (n, n * n % 977) for n in range(30000)))")
    side.write(
        "tree/DEBIAN/control",
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.com>\nDescription: x\n",
    )
    side.age("tree")
    side.run(
        "dpkg-deb",
        "--root-owner-group",
        "-Zxz",
        side.pick("-z1", "-z9"),
        "-b",
        "tree",
        "out",
        SOURCE_DATE_EPOCH=str(MOMENTS["a"]),
    )


@pair("compression", "dpkg-deb")
def a_packages_compressor(side: Side) -> None:
    tree(side)
    side.write(
        "tree/DEBIAN/control",
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.com>\nDescription: x\n",
    )
    side.age("tree")
    side.run(
        "dpkg-deb",
        "--root-owner-group",
        side.pick("-Zxz", "-Zgzip"),
        "-b",
        "tree",
        "out",
        SOURCE_DATE_EPOCH=str(MOMENTS["a"]),
    )


@pair("compression", "zip")
def a_zips_level(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | sort | zip -qX {side.pick('-1', '-9')} out.zip -@; mv out.zip out")


@pair("compression", "mksquashfs")
def a_squashfs_level(side: Side) -> None:
    tree(side)
    side.python("open('tree/big', 'w').write(''.join('line %d of %d\\n' % (n, n * n % 977) for n in range(30000)))")
    side.age("tree")
    side.run(
        "mksquashfs",
        "tree",
        "out",
        "-quiet",
        "-no-progress",
        "-mkfs-time",
        "1",
        "-Xcompression-level",
        side.pick("1", "9"),
    )


@pair("random", "cat")
def a_uuid(side: Side) -> None:
    side.sh("echo document $(cat /proc/sys/kernel/random/uuid) > out")


@pair("random", "openssl")
def a_hexadecimal_token(side: Side) -> None:
    side.sh('echo "marker $(openssl rand -hex 16)" > out')


@pair("random", "openssl")
def a_token_in_base64(side: Side) -> None:
    side.sh("echo \"SECRET_KEY = '$(openssl rand -base64 24)'\" > out")


@pair("random", "mktemp")
def a_name_by_mktemp(side: Side) -> None:
    side.sh('echo "# from $(mktemp -u /tmp/tmp.XXXXXXXXXX)" > out')


@pair("random", "gcc")
def a_name_of_gccs(side: Side) -> None:
    side.write("x.c", HELLO)
    side.sh("gcc -v -o x x.c 2>&1 | grep -o '/tmp/cc[A-Za-z0-9]*\\.s' | head -1 | sed 's/^/assembled from /' > out")


@pair("random", "dd")
def random_bytes(side: Side) -> None:
    side.sh("head -c 65536 /dev/urandom > out")


@pair("random", "dd")
def a_random_seed_of_a_few_bytes(side: Side) -> None:
    side.sh("head -c 512 /dev/urandom > out")


@pair("random", "dpkg-deb")
def random_bytes_in_a_package(side: Side) -> None:
    tree(side)
    side.sh("head -c 200000 /dev/urandom > tree/usr/share/doc/noise")
    package(side)


@pair("random", "mkfs.ext4")
def the_uuid_of_an_ext4(side: Side) -> None:
    side.sh("truncate -s 2M out && E2FSPROGS_FAKE_TIME=1700000000 mkfs.ext4 -q -F -E root_owner=0:0 out")


@pair("random", "mkfs.vfat")
def the_volume_of_a_fat(side: Side) -> None:
    side.sh("truncate -s 2M out && mkfs.vfat -i $(openssl rand -hex 4) --invariant out > /dev/null || true")
    side.sh("mkfs.vfat -i $(openssl rand -hex 4) out > /dev/null")


@pair("random", "python3")
def a_namespace_in_spdx(side: Side) -> None:
    side.python("""
        import json, uuid
        namespace = 'http://spdx.org/spdxdoc/hello-%s' % uuid.uuid4()
        json.dump({'spdxVersion': 'SPDX-2.2', 'name': 'hello', 'documentNamespace': namespace}, open('out', 'w'))
    """)


@pair("random", "python3")
def an_address_in_memory(side: Side) -> None:
    side.python("open('out', 'w').write('handler = %r\\n' % object())")


@pair("embedded-signature", "openssl")
def a_detached_signature(side: Side) -> None:
    side.write("text", "words\n")
    side.sh("openssl genrsa -out key 2048 2>/dev/null; openssl dgst -sha256 -sign key -out text.sig text; "
        "mkdir t; cp text text.sig t; "
            "tar --sort=name --mtime=@1 -cf out -C t .")  # fmt: skip


@pair("embedded-signature", "openssl")
def a_certificate(side: Side) -> None:
    side.sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /CN=x -days 10 -out out 2>/dev/null")


@pair("embedded-signature", "openssl", "gcc")
def a_signed_kernel_module(side: Side) -> None:
    """As the kernel's scripts/sign-file appends it: signature, struct module_signature, magic."""
    side.write("x.c", "int init_module(void) { return 0; }")
    side.sh("gcc -c -o x.ko x.c; openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /CN=x -out cert "
        "2>/dev/null; "
            "openssl cms -sign -binary -noattr -nocerts -in x.ko -signer cert -inkey key -outform DER -out "
                "sig 2>/dev/null")  # fmt: skip
    side.python("""
        import struct
        sig = open('sig', 'rb').read()
        tail = struct.pack('>BBBBB3xI', 0, 0, 2, 0, 0, len(sig)) + b'~Module signature appended~\\n'
        open('out', 'wb').write(open('x.ko', 'rb').read() + sig + tail)
    """)


@pair("embedded-signature", "gpg")
def a_clear_signature(side: Side) -> None:
    side.write("text", "Origin: here\nSuite: stable\n")
    side.sh("mkdir -m 700 g; export GNUPGHOME=$PWD/g; gpg --batch --quiet --passphrase '' --quick-gen-key "
        "n@example.com rsa2048 2>/dev/null; "
            "gpg --batch --quiet --clearsign -o out text 2>/dev/null; gpgconf --kill all")  # fmt: skip


@pair("embedded-signature", "gpg")
def a_detached_armoured_signature(side: Side) -> None:
    side.write("text", "Origin: here\n")
    side.sh("mkdir -m 700 g; export GNUPGHOME=$PWD/g; gpg --batch --quiet --passphrase '' --quick-gen-key "
        "n@example.com rsa2048 2>/dev/null; "
            "gpg --batch --quiet -a --detach-sign -o out text 2>/dev/null; gpgconf --kill all")  # fmt: skip


@pair("embedded-signature", "ssh-keygen")
def a_signature_by_ssh(side: Side) -> None:
    side.write("text", "words\n")
    side.sh(
        "ssh-keygen -q -t ed25519 -N '' -C x -f key; ssh-keygen -q -Y sign -f key -n file text 2>/dev/null; "
        "mv text.sig out"
    )


@pair("embedded-signature", "openssl", "zip")
def a_signature_in_a_jar(side: Side) -> None:
    side.write("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    side.sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /CN=x -out cert 2>/dev/null; "
        "openssl smime -sign -binary -noattr "
            "-in META-INF/MANIFEST.MF -signer cert -inkey key -outform DER -out META-INF/X.RSA")  # fmt: skip
    side.age("META-INF")
    side.sh("find META-INF -type f | sort | zip -qX out.zip -@; mv out.zip out")


STRIPPED = "objcopy --only-keep-debug x x.debug && strip -o out x"


@pair("build-id", "gcc", "strip", place=True)
def a_stripped_program(side: Side) -> None:
    side.write("x.c", HELLO)
    side.sh(f"gcc -g -o x $PWD/x.c && {STRIPPED}")


@pair("build-id", "gcc", "strip", place=True)
def a_stripped_library(side: Side) -> None:
    side.write("x.c", HELLO)
    side.sh(f"gcc -g -shared -fPIC -o x $PWD/x.c && {STRIPPED}")


@pair("build-id", "gcc", "strip", "objcopy", place=True)
def a_link_to_debug_information(side: Side) -> None:
    side.write("x.c", HELLO)
    side.sh(f"gcc -g -Wl,--build-id=none -o x $PWD/x.c && {STRIPPED} && objcopy --add-gnu-debuglink=x.debug out")


@pair("build-id", "gcc", "strip", "dpkg-deb", place=True)
def a_stripped_program_in_a_package(side: Side) -> None:
    tree(side)
    side.write("x.c", HELLO)
    side.sh(f"gcc -g -o x $PWD/x.c && {STRIPPED} && mv out tree/usr/bin/x")
    package(side)


@pair("build-id", "gcc")
def another_style_of_build_id(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-s", f"-Wl,--build-id=0x{side.pick('aabbccdd', '11223344') * 5}", "-o", "out", "x.c")


@pair("checksum", "sha256sum")
def a_list_of_checksums(side: Side) -> None:
    side.write("x", side.name)
    side.sh("sha256sum x > out")


@pair("checksum", "md5sum", "tar")
def a_list_of_checksums_in_a_tarball(side: Side) -> None:
    tree(side)
    side.write("x", side.name)
    side.sh("md5sum x > tree/md5sums")
    side.age("tree")
    side.run("tar", "--sort=name", "-cf", "out", "tree")


@pair("checksum", "dpkg-scanpackages")
def an_index_of_packages(side: Side) -> None:
    tree(side)
    side.write("tree/usr/share/doc/x", side.pick("one\n" * 300, "two\n" * 300))
    package(side, "x.deb")
    side.sh("mkdir feed; mv x.deb feed; dpkg-scanpackages -m feed > out 2>/dev/null")


@pair("checksum", "python3")
def a_checksum_in_json(side: Side) -> None:
    side.python(
        f"import hashlib, json; json.dump({{'name': 'x', 'sha256': "
        f"hashlib.sha256(b'{side.name}').hexdigest()}}, open('out', 'w'))"
    )


@pair("checksum", "python3")
def a_record_of_a_wheel(side: Side) -> None:
    side.python(f"import hashlib, base64; open('out', 'w').write('x.py,sha256=' + base64.urlsafe_b64encode("
                f"hashlib.sha256(b'{side.name}').digest()).decode().rstrip('=') + ',12\\n')")  # fmt: skip


@pair("missing", "tar")
def a_file_on_one_side(side: Side) -> None:
    tree(side)
    if side.name == "b":
        side.write("tree/extra", "more\n")
    side.age("tree")
    side.run("tar", "--sort=name", "-cf", "out", "tree")


@pair("missing", "zip")
def a_file_on_one_side_of_a_zip(side: Side) -> None:
    tree(side)
    if side.name == "a":
        side.write("tree/extra", "more\n")
    side.age("tree")
    side.sh("find tree -type f | sort | zip -qX out.zip -@; mv out.zip out")


@pair("unknown", "sh")
def other_words(side: Side) -> None:
    side.sh(f"echo the value is {side.pick('apple', 'pear')} > out")


@pair("unknown", "gcc")
def other_code(side: Side) -> None:
    side.write("x.c", f"int f(int x) {{ return x * {side.pick('3', '5')} + {side.pick('1', '2')}; }}")
    side.run("gcc", "-O2", "-c", "-o", "out", "x.c")


@pair("unknown", "gcc")
def another_number(side: Side) -> None:
    side.sh(f"echo 'limit {side.pick('17', '23')} entries' > out")
