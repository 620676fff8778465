"""Pairs that differ in the machine, its kernel, its processor, the user, or the number of a process alone."""

from __future__ import annotations

import os

from making_pairs import HELLO, Side, package, pair, tree

HOSTS = ("worker-one", "bigbox.example.com")


def on_host(side: Side, script: str) -> None:
    """Run a script on a machine of another name: a UTS namespace of its own."""
    side.run("unshare", "--uts", *(["--map-root-user"] if os.geteuid() else []), "/bin/sh", "-ec",
             f"hostname {side.pick(*HOSTS)}; {script}")  # fmt: skip


def as_user(side: Side, script: str) -> None:
    side.home.chmod(0o777)
    for parent in list(side.home.parents)[:4]:
        if parent.stat().st_uid == os.geteuid() and str(parent) != "/tmp":
            parent.chmod(parent.stat().st_mode | 0o755)
    side.run("runuser", "-u", side.pick("nobody", "daemon"), "--", "/bin/sh", "-ec", script)


@pair("host-name", "unshare", "hostname")
def the_second_word_of_uname(side: Side) -> None:
    on_host(side, 'uname -n > name; echo "built on $(cat name) with love" > out')


@pair("host-name", "unshare", "hostname")
def a_variable_with_the_host(side: Side) -> None:
    on_host(side, 'echo "BUILD_HOST=\\"$(hostname)\\"" > out')


@pair("host-name", "unshare", "hostname", "python3")
def the_host_in_json(side: Side) -> None:
    on_host(
        side,
        'python3 -c \'import json, socket; json.dump({"hostname": socket.gethostname(), "x": 1}, open("out", "w"))\'',
    )


@pair("host-name", "unshare", "hostname", "gcc")
def the_host_in_a_program(side: Side) -> None:
    side.write("x.c", 'const char banner[] = "compiled on " HOST " by gcc"; int main(void) { return !banner; }')
    on_host(side, 'gcc -Wl,--build-id=none -s -DHOST="\\"$(hostname)\\"" -o out x.c')


@pair("host-name", "unshare", "hostname")
def the_host_in_a_kernels_banner(side: Side) -> None:
    on_host(side, 'echo "Linux version 6.6.1 (oe-user@$(hostname)) (gcc 13.2) #1 SMP" > out')


@pair("host-name", "unshare", "hostname", "rpmbuild")
def the_host_in_an_rpm(side: Side) -> None:
    side.write(
        "x.spec",
        """\
        Name: x
        Version: 1
        Release: 1
        Summary: x
        License: MIT
        BuildArch: noarch
        %description
        x
        %files
    """,
    )
    on_host(side, 'SOURCE_DATE_EPOCH=1600000000 rpmbuild -bb --define "_topdir $PWD/top" --define '
                  '"use_source_date_epoch_as_buildtime 1" x.spec; mv top/RPMS/noarch/*.rpm out')  # fmt: skip


@pair("host-name", "unshare", "hostname", "dpkg-deb")
def the_host_in_a_package(side: Side) -> None:
    tree(side)
    on_host(side, 'echo "Builder: $(hostname)" > tree/usr/share/doc/builder')
    package(side)


@pair("user", "runuser")
def who_am_i(side: Side) -> None:
    as_user(side, 'echo "built by $(whoami)" > out')


@pair("user", "runuser")
def a_variable_with_the_user(side: Side) -> None:
    as_user(side, 'echo "USER=$(id -un)" > out')


@pair("user", "runuser")
def the_user_before_a_host(side: Side) -> None:
    as_user(side, 'echo "Linux version 6.6.1 ($(id -un)@fixedhost) (gcc 13.2) #1 SMP" > out')


@pair("user", "runuser")
def the_number_of_the_user(side: Side) -> None:
    as_user(side, 'echo "uid: $(id -u)" > out')


@pair("user", "runuser", "python3")
def the_user_in_json(side: Side) -> None:
    as_user(
        side, 'python3 -c \'import json, getpass; json.dump({"author": getpass.getuser(), "x": 1}, open("out", "w"))\''
    )


@pair("user", "runuser", "gcc")
def the_user_in_a_program(side: Side) -> None:
    side.write("x.c", 'const char banner[] = "compiled by " WHO " with gcc"; int main(void) { return !banner; }')
    as_user(side, 'gcc -Wl,--build-id=none -s -DWHO="\\"$(whoami)\\"" -o out x.c')


@pair("user", "runuser", "tar")
def the_user_in_a_tarball(side: Side) -> None:
    tree(side)
    (side.home / "tree").chmod(0o777)
    as_user(side, 'echo "Packager: $(id -un)" > tree/packager')
    side.run("chown", "-R", "0:0", "tree")
    side.age("tree")
    side.run("tar", "--sort=name", "-cf", "out", "tree")


def old_kernel(side: Side, script: str) -> None:
    """The kernel's release as setarch(8) shows it: the real one, and one of 2.6."""
    side.run("setarch", "x86_64", *(["--uname-2.6"] if side.name == "b" else []), "/bin/sh", "-ec", script)


@pair("kernel-version", "setarch")
def the_release_in_a_header(side: Side) -> None:
    old_kernel(side, 'echo "#define KERNEL_RELEASE \\"$(uname -r)\\"" > out')


@pair("kernel-version", "setarch")
def the_release_after_its_system(side: Side) -> None:
    old_kernel(side, 'echo "configured for $(uname -s) $(uname -r) on x86" > out')


@pair("kernel-version", "setarch", "python3")
def the_release_in_json(side: Side) -> None:
    old_kernel(
        side, 'python3 -c \'import json, os; json.dump({"kernel": os.uname().release, "x": 1}, open("out", "w"))\''
    )


@pair("kernel-version", "setarch", "gcc")
def the_release_in_a_program(side: Side) -> None:
    side.write("x.c", 'const char banner[] = "for Linux " REL; int main(void) { return !banner; }')
    old_kernel(side, 'gcc -Wl,--build-id=none -s -DREL="\\"$(uname -r)\\"" -o out x.c')


@pair("kernel-version", "setarch", "perl")
def the_release_in_a_perl_configuration(side: Side) -> None:
    old_kernel(side, 'perl -MPOSIX -e \'print "osname=linux kernel=", (POSIX::uname())[2], "\\n"\' > out')


@pair("kernel-version", "setarch", "dpkg-deb")
def the_release_in_a_package(side: Side) -> None:
    tree(side)
    old_kernel(side, 'echo "uname -r: kernel $(uname -r)" > tree/usr/share/doc/kernel')
    package(side)


def flags(side: Side) -> str:
    return side.pick("x86-64", "haswell")


LOOP = """
    void scale(float *x, const float *y, int n) { for (int i = 0; i < n; i++) x[i] = x[i] * y[i] + 2.0f * y[i]; }
    unsigned long mix(unsigned long x, unsigned long y, int s) { return (~x & y) + (x << s) + (y >> s); }
    void add(double *x, const double *y, int n) { for (int i = 0; i < n; i++) x[i] += y[i] * y[i]; }
    int main(int c, char **v) { float a[64] = {0}, b[64] = {1}; scale(a, b, c); return a[c] + mix(c, 3, 2); }
"""


@pair("cpu-features", "gcc")
def code_for_a_processor(side: Side) -> None:
    side.write("x.c", LOOP)
    side.run("gcc", "-O3", f"-march={flags(side)}", "-s", "-Wl,--build-id=none", "-o", "out", "x.c")


@pair("cpu-features", "gcc")
def an_object_for_a_processor(side: Side) -> None:
    side.write("x.c", LOOP)
    side.run("gcc", "-O3", f"-march={flags(side)}", "-c", "-o", "out", "x.c")


@pair("cpu-features", "gcc")
def the_compilers_options_in_debug_information(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-g", f"-march={flags(side)}", "-O0", "-c", "-o", "out", "x.c")


@pair("cpu-features", "gcc")
def macros_of_a_processor(side: Side) -> None:
    side.sh(f"gcc -march={side.pick('x86-64', 'x86-64-v2')} -dM -E - < /dev/null | grep -o '__SSE[0-9_]*__\\|"
        f"__SSSE3__' | sort > all; "
            "echo \"flags: $(tr '\\n' ' ' < all | tr -d _ | tr A-Z a-z)\" > out")  # fmt: skip


@pair("cpu-features", "gcc")
def options_in_a_makefile(side: Side) -> None:
    side.sh(f"echo 'CFLAGS = -O2 -march={flags(side)} -pipe' > out")


@pair("cpu-features", "taskset")
def the_number_of_processors(side: Side) -> None:
    side.sh(f'echo "JOBS=$(taskset -c {side.pick("0", "0,1")} nproc)" > out')


@pair("cpu-features", "gcc", "dpkg-deb")
def code_for_a_processor_in_a_package(side: Side) -> None:
    tree(side)
    side.write("x.c", LOOP)
    side.run("gcc", "-O3", f"-march={flags(side)}", "-s", "-o", "tree/usr/bin/x", "x.c")
    package(side)


@pair("process-id", "sh")
def the_shells_own_number(side: Side) -> None:
    side.sh('echo "pid=$$" > out')


@pair("process-id", "python3")
def a_process_id_in_json(side: Side) -> None:
    side.python("import json, os; json.dump({'name': 'x', 'pid': os.getpid()}, open('out', 'w'))")


@pair("process-id", "sh")
def a_temporary_name_with_a_number(side: Side) -> None:
    side.sh('echo "# generated from /var/cache/conf/work.$$" > out')


@pair("process-id", "perl")
def a_line_as_syslog_writes_it(side: Side) -> None:
    side.run("perl", "-e", 'open F, ">out"; print F "configure[$$]: done\\n"')


@pair("process-id", "readlink")
def a_name_in_proc(side: Side) -> None:
    side.sh('echo "log of $(cd /proc/self && pwd -P)/fd/1" > out')


@pair("process-id", "sh", "dpkg-deb")
def a_process_id_in_a_package(side: Side) -> None:
    tree(side)
    side.sh('echo "lock held by process $$" > tree/usr/share/doc/lock')
    package(side)


@pair("process-id", "gcc")
def a_process_id_in_a_program(side: Side) -> None:
    side.write("x.c", 'const char banner[] = "made by pid " PID " of the builder"; int main(void) { return !banner; }')
    side.sh('gcc -Wl,--build-id=none -s -DPID="\\"$$\\"" -o out x.c')
