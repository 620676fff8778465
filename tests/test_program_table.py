"""Which row decides for the command lines that builds really use."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from detbuild import programs
from detbuild.errors import PolicyError
from detbuild.program import Program

SHOWN = "fixed shown now"
TRUE = "fixed true kept"
REAL = "real true kept"

# What runs (its path, and its argv where that differs), and what it sees.
CASES = """
/usr/bin/[ | [ a -nt b ] | TRUE
/usr/bin/test | test conftest.file -ot configure | TRUE
/usr/bin/bash | /bin/sh ./configure --prefix=/usr | TRUE
/usr/bin/dash | -sh | TRUE
/usr/bin/ls | ls -Lt ./configure conftest.file | TRUE
/usr/bin/ls | ls -1tr | TRUE
/usr/bin/ls | ls --color=auto dir | TRUE
/usr/bin/ls | ls -l | SHOWN
/usr/bin/ls | ls -L -l file | SHOWN
/usr/bin/ls | ls -alt | SHOWN
/usr/bin/ls | ls --full-time x | SHOWN
/usr/bin/find | find . -newer stamp -print | TRUE
/usr/bin/find | find . -name *.o -exec rm {} + | TRUE
/usr/bin/find | find . -newer stamp -printf %p\\n | TRUE
/usr/bin/find | find . -mtime +7 -delete | REAL
/usr/bin/find | find . -mmin -5 | REAL
/usr/bin/find | find . -newermt @1300000000 | REAL
/usr/bin/find | find . -printf '%T@ %p\\n' | SHOWN
/usr/bin/find | find . -type f -ls | SHOWN
/usr/bin/git | git describe --dirty | TRUE
/usr/lib/git-core/git | git status | TRUE
/usr/lib/git-core/git-remote-https | git-remote-https origin URL | REAL
/usr/bin/make | make -j4 all | REAL
/usr/bin/gmake | gmake | REAL
/usr/bin/ninja | ninja -C build | REAL
/usr/bin/samu | samu | REAL
/usr/bin/ccache | gcc -c x.c | REAL
/usr/bin/cargo | cargo build --release | REAL
/usr/lib/go-1.19/bin/go | go build ./... | REAL
/usr/lib/go-1.19/pkg/tool/linux_amd64/compile | compile -o x.a x.go | TRUE
/usr/bin/cmake | cmake -S . -B build | REAL
/usr/bin/cmake | cmake --build build | REAL
/usr/bin/cmake | cmake -E tar czf x.tgz dir | SHOWN
/usr/bin/cmake | cmake -E tar xf x.tgz | TRUE
/usr/bin/cmake | cmake -DCMAKE_INSTALL_PREFIX=/usr -P cmake_install.cmake | TRUE
/usr/lib/jvm/java-17/bin/java | java -classpath ant.jar org.apache.tools.ant.launch.Launcher jar | REAL
/usr/lib/jvm/java-17/bin/java | java -Xmx64m -jar gradle/wrapper/gradle-wrapper.jar build | REAL
/usr/lib/jvm/java-17/bin/java | java -jar tool.jar | SHOWN
/usr/bin/perl | /usr/bin/perl -w /usr/bin/autom4te --language=autoconf | REAL
/usr/bin/perl | /usr/bin/perl /usr/bin/automake-1.16 --add-missing | REAL
/usr/bin/perl | perl -I /usr/share/aclocal /usr/bin/aclocal -I m4 | REAL
/usr/bin/perl | perl Makefile.PL INSTALLDIRS=vendor | TRUE
/usr/bin/perl | perl -lne 'print scalar localtime' automake | SHOWN
/usr/bin/perl | perl /usr/bin/pod2man x.pod | SHOWN
/usr/bin/python3.11 | python3 /usr/bin/meson setup build | REAL
/usr/bin/python3.11 | python3 -Im mesonbuild.mesonmain compile | REAL
/usr/bin/python3.11 | python3 -W ignore /usr/bin/scons -j2 | REAL
/usr/bin/python3.11 | python3 ./waf configure | REAL
/usr/bin/python3.11 | python3 -m sphinx -b html . out | REAL
/usr/bin/python3.11 | python3 /opt/bitbake/bin/bitbake core-image-minimal | REAL
/usr/bin/python3.11 | python3 /usr/bin/meson --internal pycompile manifest.json | SHOWN
/usr/bin/python3.11 | python3 /usr/bin/meson dist | SHOWN
/usr/bin/python3.11 | python3 setup.py bdist_wheel | SHOWN
/usr/bin/python3.11 | python3 -c 'import meson' meson | SHOWN
/sysroot/usr/bin/python3-native/python3.13.real | python3 /usr/bin/hg status | TRUE
/usr/bin/cp | cp -dpR a b | TRUE
/usr/bin/cp | cp -u a b | TRUE
/usr/bin/install | install -C -m 644 a b | TRUE
/usr/bin/install | /usr/bin/install -p -m755 a b | TRUE
/usr/bin/mv | mv -f a b | TRUE
/usr/bin/rsync | rsync -a --delete a/ b/ | TRUE
/usr/bin/touch | touch -r a b | REAL
/usr/bin/tar | tar -xzpf x.tar.gz | REAL
/usr/bin/tar | tar --no-same-owner -xf x.tar -C dir | REAL
/usr/bin/tar | tar xf x.tar | REAL
/usr/bin/tar | tar --extract --file=x.tar | REAL
/usr/bin/tar | tar -uf x.tar dir | TRUE
/usr/bin/tar | tar --update -f x.tar dir | TRUE
/usr/bin/tar | tar -czf box.tar.gz dir | SHOWN
/usr/bin/tar | tar cf - --exclude=x dir | SHOWN
/usr/bin/tar | tar -c -f x -C xdir . | SHOWN
/usr/bin/tar | tar -C xdir -cfx . | SHOWN
/usr/bin/tar | tar tvf x.tar | SHOWN
/usr/bin/bsdtar | bsdtar -xf x.zip | REAL
/usr/bin/cpio | cpio -o -H newc | SHOWN
/usr/bin/cpio | cpio -pdum dest | TRUE
/usr/bin/cpio | cpio -idm | TRUE
/usr/bin/zip | zip -r9 x.zip dir | SHOWN
/usr/bin/zip | zip -ru x.zip dir | TRUE
/usr/bin/unzip | unzip -q x.zip | TRUE
/usr/bin/x86_64-linux-gnu-ar | ar cru libx.a x.o | TRUE
/usr/bin/x86_64-linux-gnu-ar | ar -cru libx.a x.o | TRUE
/usr/bin/x86_64-linux-gnu-ar | ar rcs lib/libu.a x.o | SHOWN
/usr/bin/x86_64-linux-gnu-gcc-ar-12 | gcc-ar --plugin lto.so rcU libx.a u | SHOWN
/usr/bin/arm-oe-linux-gnueabi-ar | arm-oe-linux-gnueabi-ar x libx.a | TRUE
/usr/bin/gzip | gzip -9 file | SHOWN
/usr/bin/gzip | gzip -cd file.gz | TRUE
/usr/bin/xz | xz -T0 file | TRUE
/usr/lib/jvm/java-17/bin/jar | jar cfm x.jar MANIFEST.MF -C classes . | SHOWN
/usr/lib/jvm/java-17/bin/jar | jar -xf x.jar | TRUE
/usr/bin/mksquashfs | mksquashfs root x.squashfs -noappend | SHOWN
/usr/sbin/mkfs.ext4 | mkfs.ext4 -d root x.img | SHOWN
/usr/bin/dpkg-deb | dpkg-deb -b root x.deb | SHOWN
/usr/bin/x86_64-linux-gnu-gcc-12 | gcc -O2 -c x.c | TRUE
/sysroot/usr/bin/aarch64-oe-linux/aarch64-oe-linux-g++ | aarch64-oe-linux-g++ x.cc | TRUE
/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus | cc1plus -quiet x.cc | TRUE
/usr/lib/gcc/x86_64-linux-gnu/12/collect2 | collect2 -o x | TRUE
/usr/bin/x86_64-linux-gnu-ld.bfd | ld -o x x.o | TRUE
/usr/bin/x86_64-linux-gnu-as | as -o x.o | TRUE
/usr/bin/x86_64-linux-gnu-strip | strip --strip-unneeded -p x | TRUE
/usr/bin/x86_64-linux-gnu-strip | strip -g libx.a | SHOWN
/usr/bin/sed | sed -i s/a/b/ x | TRUE
/usr/bin/mawk | awk '{print}' | TRUE
/usr/bin/chmod | chmod +x x | TRUE
/usr/bin/date | date +%s -r x | SHOWN
/usr/bin/stat | stat -c %Y x | SHOWN
/usr/bin/diff | diff -u a b | SHOWN
/usr/bin/du | du -sk dir | TRUE
/usr/bin/du | du --time dir | SHOWN
/usr/bin/gpg | gpg --verify x.sig x | REAL
/build/mkversion | ./mkversion -x | SHOWN
/usr/bin/busybox | tar -xzf x.tgz | REAL
/usr/bin/busybox.nosuid | busybox tar czf x.tgz x | SHOWN
/usr/bin/busybox | sh -c make | TRUE
/usr/bin/busybox | /bin/date | SHOWN
/usr/bin/busybox | busybox someapplet | SHOWN
/usr/bin/coreutils | coreutils --coreutils-prog=ls -l | SHOWN
/usr/bin/coreutils | coreutils --coreutils-prog-shebang=cp /usr/bin/cp -p a b | TRUE
/lib64/ld-linux-x86-64.so.2 | ld-linux-x86-64.so.2 --library-path /l /usr/bin/make all | REAL
/lib/ld-2.31.so | /lib/ld-2.31.so /build/mkversion | SHOWN
"""
ROWS = [tuple(part.strip() for part in line.split(" | ")) for line in CASES.strip().splitlines()]
TABLE = programs.table()


def columns(row: Program) -> str:
    return f"{row.clock} {row.reads} {row.writes}"


@pytest.mark.parametrize(("executable", "line", "expected"), ROWS, ids=[row[1] for row in ROWS])
def test_a_command_line_gets_its_columns(executable: str, line: str, expected: str) -> None:
    row = TABLE.decide(executable, lambda: shlex.split(line))
    assert columns(row) == {"SHOWN": SHOWN, "TRUE": TRUE, "REAL": REAL}[expected], row


def test_the_first_of_any_rows_decides_and_the_default_where_none_does() -> None:
    rows = [Program(("a*",), "real", "true", "kept", "first"), Program(("ab",), "fixed", "true", "kept", "second")]
    assert [programs.decide(rows, path, unread).reason for path in ("/x/ab", "/x/ac")] == ["first", "first"]
    assert programs.decide(rows[::-1], "/x/ab", unread).reason == "second"
    assert programs.decide(rows, "/x/b", unread) is programs.DEFAULT


def unread() -> Sequence[str]:
    raise AssertionError("nobody needs the arguments")


@pytest.mark.parametrize("name", ["sh", "make", "cc1", "gcc", "sed", "cp", "git", "conftest"])
def test_arguments_are_not_read_where_the_name_decides(name: str) -> None:
    assert TABLE.decide(f"/usr/bin/{name}", unread)


def test_arguments_are_read_once() -> None:
    calls = []

    def argv() -> list[str]:
        calls.append(1)
        return ["tar", "-cf", "x"]

    TABLE.decide("/usr/bin/busybox", argv)
    TABLE.decide("/usr/bin/tar", argv)
    assert len(calls) == 2


def test_an_unreadable_command_line_gets_a_row() -> None:
    assert columns(TABLE.decide("/usr/bin/python3", list)) == SHOWN
    assert columns(TABLE.decide("/usr/bin/busybox", list)) == SHOWN


def test_the_users_row_wins_over_the_built_in_ones() -> None:
    table = programs.table([{"names": "make", "reads": "shown", "reason": "mine"}])
    assert table.decide("/usr/bin/make", unread).reason == "mine"
    assert TABLE.decide("/usr/bin/make", unread).reason != "mine"


def test_a_users_row_on_a_script_or_a_path() -> None:
    own = [
        {"names": "python*", "script": "*/tools/stamp.py", "clock": "real"},
        {"names": "/opt/vendor/bin/*", "reads": "true"},
    ]
    table = programs.table(own)
    assert table.decide("/usr/bin/python3", lambda: ["python3", "/src/tools/stamp.py"]).clock == "real"
    assert table.decide("/usr/bin/python3", lambda: ["python3", "/src/other/stamp.py"]).clock == "fixed"
    assert table.decide("/opt/vendor/bin/gen", unread).reads == "true"
    assert table.decide("/usr/bin/gen", unread).reads == "shown"


def test_who_is_shown_times_never_writes_them_and_who_sees_true_ones_needs_no_stop() -> None:
    """Shown times with kept writes would destroy the order of files; true ones with changed writes cost stops."""
    assert {(row.reads, row.writes) for row in programs.BUILTIN} == {("shown", "now"), ("true", "kept")}


def test_every_row_can_be_reached() -> None:
    """No row stands behind one that matches all that it matches."""
    open_names: dict[str, int] = {}
    for index, row in enumerate(programs.BUILTIN):
        behind = {name: open_names[name] for name in row.names if name in open_names}
        assert len(behind) < len(row.names), f"row {index} ({row.reason}) stands behind rows {behind}"
        if not row.argument and not row.script:
            open_names |= dict.fromkeys(row.names, index)


def test_a_decision_is_quick() -> None:
    """A build of hello executes 4,546 programs; all of their rows together may not take a fifth of a second."""
    paths = [f"/usr/bin/{name}" for name in ("sh", "sed", "cat", "grep", "gcc", "cc1", "as", "ld", "rm", "conftest")]
    started = time.process_time()
    for _ in range(455):
        for path in paths:
            TABLE.decide(path, unread)
    assert time.process_time() - started < 0.2


def test_the_engines_reading_of_a_real_process_finds_the_script(tmp_path: Path) -> None:
    """What the kernel makes of a script's first line is what the table understands."""
    python = shutil.which("python3")
    assert python
    script = tmp_path / "meson"
    script.write_text(f"#!{os.path.realpath(python)} -I\nimport sys\nprint(flush=True)\nsys.stdin.read()\n")
    script.chmod(0o755)
    with subprocess.Popen([script, "setup", "build"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        executable = os.readlink(f"/proc/{process.pid}/exe")
        argv = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[:-1]
    assert argv[1:] == ["-I", str(script), "setup", "build"]
    assert columns(TABLE.decide(executable, lambda: argv)) == REAL


@pytest.mark.parametrize(
    "line",
    [
        "openssl genrsa",
        "openssl3 genrsa",
        "openssl-1.1 genrsa",
        "gpg1 --gen-key",
        "gpg1 --verify x.sig",
        "rauc bundle --cert=c.pem --key=k.pem in out.raucb",
        "/usr/bin/python3 /usr/lib/systemd/ukify genkey",
        "/usr/bin/python3 scripts/sign_encrypt.py --uuid u --key k.pem --enc-key 00 --in a --out b",
        "/usr/bin/python3 /usr/bin/certbot certonly",
        "mkeficapsule -p k.pem -c c.pem -g guid u-boot.bin out",
        "/usr/bin/java -Xmx1024M -jar /usr/share/java/apksigner.jar sign --ks k app.apk",
        "cosign generate-key-pair",
        "sbctl create-keys",
        "swtpm socket --tpmstate dir=x",
        "swtpm_localca --type ek",
        "/usr/lib/systemd/systemd-sbsign sign x.efi",
        "systemd-creds encrypt a b",
        "/usr/sbin/tsig-keygen",
        "dnssec-signzone example.org",
        "rndc-confgen -a",
        "/usr/sbin/sshd -D",
        "dropbear -R",
        "gpg --gen-key",
        "gpg --verify x.sig",
        "ssh-keygen -t rsa",
        "scripts/sign-file sha256 key cert module.ko",
        "/usr/bin/python3 /usr/bin/imgtool sign",
        "curl https://example.org",
        "/usr/libexec/git-core/git-remote-https origin",
        "cargo build",
    ],
)
def test_who_makes_keys_or_talks_by_them_keeps_real_random_numbers(line: str) -> None:
    words = line.split()
    assert programs.table().decide(words[0], lambda: words).random == "real"


@pytest.mark.parametrize(
    "line",
    ["gcc -c x.c", "/usr/bin/python3 setup.py", "mktemp", "perl Makefile.PL", "ld", "make", "java -jar tool.jar sign"],
)
def test_all_others_get_fixed_ones(line: str) -> None:
    words = line.split()
    assert programs.table().decide(words[0], lambda: words).random == "fixed"


@pytest.mark.parametrize(
    ("line", "opens"),
    [
        ("sh -c x", "most"), ("x86_64-oe-linux-gcc -c x.c", "most"), ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "most"),
        ("make", "most"), ("ninja", "most"), ("sed s/a/b/", "most"), ("grep x /proc/cpuinfo", "all"),
        ("zsh -c x", "all"), ("mkversion", "all"), ("python3 setup.py", "all"),
        ("busybox grep x y", "all"), ("busybox sed x", "most"),
    ],
)  # fmt: skip
def test_who_starts_compilers_is_looked_at_less_and_who_may_open_anything_is_not(line: str, opens: str) -> None:
    words = line.split()
    assert programs.table().decide(words[0], lambda: words).opens == opens


def test_a_row_says_of_opens_only_that_most_are_looked_at() -> None:
    row = programs.Program.from_dict({"names": "mycc", "opens": "most"})
    assert row.to_dict()["opens"] == "most"
    assert "opens" not in programs.Program.from_dict({"names": "mycc"}).to_dict()


def test_a_row_says_of_random_numbers_only_that_they_are_real() -> None:
    row = programs.Program.from_dict({"names": "mkkey", "random": "real"})
    assert row.to_dict()["random"] == "real"
    assert programs.Program.from_dict(row.to_dict()) == row
    assert "random" not in programs.Program.from_dict({"names": "mkkey"}).to_dict()
    with pytest.raises(PolicyError, match="fixed, real"):
        programs.Program.from_dict({"names": "mkkey", "random": "true"})
