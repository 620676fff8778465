"""Pairs that differ in the time of the build alone."""

from __future__ import annotations

from making_pairs import HELLO, MOMENTS, Side, package, pair, tree

DATED = """
    #include <stdio.h>
    int main(void) { puts("built " __DATE__ " " __TIME__); return 0; }
"""


def stamp(side: Side, layout: str, name: str = "out") -> None:
    side.sh(f"date -u -d @{side.moment} '{layout}' > {name}")


def dates(name: str, layout: str) -> None:
    def make(side: Side) -> None:
        stamp(side, layout)

    make.__name__ = f"date_{name}"
    pair("timestamp", "date")(make)


for name, layout in {
    "default": "+%c",
    "iso": "+generated %Y-%m-%dT%H:%M:%SZ",
    "epoch": "+BUILD_TIME=%s",
    "nanoseconds": "+stamp %s.%N",
    "compact": "+version 1.0-%Y%m%d%H%M%S",
    "mail": "+Date: %a, %d %b %Y %H:%M:%S %z",
    "american": "+%m/%d/%Y %H:%M:%S",
    "day_alone": "+released %d %B %Y",
    "header": '+#define BUILD_DATE "%b %d %Y"',
    "year": "+Copyright (C) %Y Nobody",
}.items():
    dates(name, layout)


@pair("timestamp", "gcc")
def gcc_date_in_a_program(side: Side) -> None:
    side.write("x.c", DATED)
    side.run("gcc", "-o", "out", "x.c", **side.faked())


@pair("timestamp", "gcc", "strip")
def gcc_date_in_a_stripped_program(side: Side) -> None:
    side.write("x.c", DATED)
    side.run("gcc", "-s", "-Wl,--build-id=none", "-o", "out", "x.c", **side.faked())


@pair("timestamp", "gcc")
def gcc_date_in_an_object(side: Side) -> None:
    side.write("x.c", 'const char built[] = __DATE__ "T" __TIME__;')
    side.run("gcc", "-c", "-o", "out", "x.c", **side.faked())


@pair("timestamp", "gcc")
def gcc_date_in_a_library_in_an_archive(side: Side) -> None:
    side.write("x.c", "const char built[] = __DATE__;")
    side.run("gcc", "-c", "-o", "x.o", "x.c", **side.faked())
    side.run("ar", "rcD", "out", "x.o")


@pair("timestamp", "gcc")
def a_number_in_a_programs_data(side: Side) -> None:
    side.write(
        "x.c", "#include <time.h>\nconst int magic = 7; const long when = WHEN; int main(void) { return !when; }"
    )
    side.run("gcc", f"-DWHEN={side.moment}", "-Wl,--build-id=none", "-o", "out", "x.c")


@pair("timestamp", "dpkg-deb")
def a_date_in_a_package(side: Side) -> None:
    tree(side)
    stamp(side, "+built on %F %T", "tree/usr/share/doc/stamp")
    package(side)


@pair("timestamp", "dpkg-deb", "gcc")
def a_program_with_a_date_in_a_package(side: Side) -> None:
    tree(side)
    side.write("x.c", DATED)
    side.run("gcc", "-s", "-o", "tree/usr/bin/dated", "x.c", **side.faked())
    package(side)


@pair("timestamp", "tar")
def a_date_in_a_tarball(side: Side) -> None:
    tree(side)
    stamp(side, "+%s", "tree/stamp")
    side.age("tree")
    side.run("tar", "--sort=name", "-czf", "out", "tree", GZIP="-n")


@pair("timestamp", "cpio")
def a_date_in_an_initramfs(side: Side) -> None:
    tree(side)
    stamp(side, "+%a %b %e %T UTC %Y", "tree/etc-timestamp")
    side.age("tree")
    side.sh("cd tree && find . | sort | cpio --reproducible -o -H newc | gzip -n > ../out")


@pair("timestamp", "mksquashfs")
def a_date_in_a_squashfs(side: Side) -> None:
    tree(side)
    stamp(side, "+build %F %T", "tree/usr/build")
    side.age("tree")
    side.run(
        "mksquashfs",
        "tree",
        "out",
        "-quiet",
        "-no-progress",
        "-mkfs-time",
        str(MOMENTS["a"]),
        "-all-time",
        str(MOMENTS["a"]),
    )


@pair("timestamp", "mksquashfs")
def the_time_of_mksquashfs(side: Side) -> None:
    tree(side)
    side.run("mksquashfs", "tree", "out", "-quiet", "-no-progress", "-mkfs-time", str(side.moment))


@pair("timestamp", "zip")
def a_date_in_a_zip(side: Side) -> None:
    tree(side)
    stamp(side, "+%FT%TZ", "tree/stamp")
    side.age("tree")
    side.run("zip", "-qrX", "out", "tree")
    side.sh("mv out.zip out")


@pair("timestamp", "python3")
def a_compiled_python_module(side: Side) -> None:
    side.write("mod.py", "answer = 42\n")
    side.age("mod.py", moment=side.moment)
    side.python(
        "import py_compile; py_compile.compile('mod.py', 'out', 'mod.py', "
        "invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)"
    )


@pair("timestamp", "python3")
def a_time_in_json(side: Side) -> None:
    side.python(f"import json; json.dump({{'name': 'x', 'created': {side.moment}, 'size': 3}}, open('out', 'w'))")


@pair("timestamp", "python3")
def a_time_in_spdx(side: Side) -> None:
    side.python(f"""
        import json, time
        made = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime({side.moment}))
        json.dump({{'SPDXID': 'SPDXRef-DOCUMENT', 'spdxVersion': 'SPDX-2.2', 'creationInfo': {{'created': made,
            'creators': ['Tool: x']}}, 'packages': [{{'name': 'hello', 'versionInfo': '1.0'}}]}}, open('out', 'w'))
    """)


@pair("timestamp", "python3")
def a_time_in_pickle(side: Side) -> None:
    side.python(f"import pickle; pickle.dump(['built', {side.moment}], open('out', 'wb'), 0)")


@pair("timestamp", "perl")
def a_manual_page_by_pod2man(side: Side) -> None:
    side.write("x.pod", "=head1 NAME\n\nx - y\n\n=head1 DESCRIPTION\n\nNothing.\n")
    side.run("pod2man", "x.pod", "out", **side.faked())


@pair("timestamp", "mkfs.ext4")
def the_times_of_an_ext4(side: Side) -> None:
    side.sh(
        f"truncate -s 2M out && E2FSPROGS_FAKE_TIME={side.moment} mkfs.ext4 -q -F -E "
        "hash_seed=11111111-1111-1111-1111-111111111111,root_owner=0:0 -U 22222222-2222-2222-2222-222222222222 out"
    )


@pair("timestamp", "gcc", "objcopy")
def a_section_of_an_object(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-c", "-o", "x.o", "x.c")
    stamp(side, "+%FT%T", "stamp")
    side.run("objcopy", "--add-section", ".stamp=stamp", "x.o", "out")


@pair("timestamp", "dtc")
def a_property_of_a_device_tree(side: Side) -> None:
    moment = side.run("date", "-u", "-d", f"@{side.moment}", "+%F %T").strip()
    side.write("x.dts", f'/dts-v1/; / {{ model = "board"; chosen {{ build-time = "{moment}"; }}; }};')
    side.run("dtc", "-q", "-O", "dtb", "-o", "out", "x.dts")


@pair("timestamp", "rpmbuild")
def the_build_time_of_an_rpm(side: Side) -> None:
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
    side.run(
        "rpmbuild",
        "-bb",
        "--define",
        f"_topdir {side.home}/top",
        "--define",
        "use_source_date_epoch_as_buildtime 1",
        "--define",
        "_buildhost fixed",
        "x.spec",
        **side.faked(),
    )
    side.sh("mv top/RPMS/noarch/*.rpm out")
