"""Pairs that differ in the directory of the build, or in its length, alone."""

from __future__ import annotations

from making_pairs import HELLO, Side, package, pair, tree


@pair("build-path", "gcc", place=True)
def debug_information(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-g", "-o", "out", f"{side.home}/x.c")


@pair("build-path", "gcc", place=True)
def debug_information_of_an_object(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-g", "-c", "-o", "out", "x.c")


@pair("build-path", "gcc", place=True)
def compressed_debug_information(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-g", "-gz", "-c", "-o", "out", "x.c")


@pair("build-path", "gcc", place=True)
def an_assertion(side: Side) -> None:
    side.write("x.c", "#include <assert.h>\nint main(int c, char **v) { assert(c < 9); return 0; }")
    side.run("gcc", "-s", "-o", "out", f"{side.home}/x.c")


@pair("build-path", "gcc", place=True)
def an_rpath(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-Wl,--build-id=none", f"-Wl,-rpath,{side.home}/lib", "-s", "-o", "out", "x.c")


@pair("build-path", "gcc", "ar", place=True)
def a_static_library(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-g", "-c", "-o", "x.o", "x.c")
    side.run("ar", "rcD", "out", "x.o")


@pair("build-path", "gcc", "dpkg-deb", place=True)
def a_program_in_a_package(side: Side) -> None:
    tree(side)
    side.write("x.c", HELLO)
    side.run("gcc", "-g", "-o", "tree/usr/bin/hello", f"{side.home}/x.c")
    package(side)


@pair("build-path", "tar", place=True)
def a_pkgconfig_file_in_a_tarball(side: Side) -> None:
    tree(side)
    side.write("tree/x.pc", f"prefix={side.home}/install\nName: x\n")
    side.age("tree")
    side.run("tar", "--sort=name", "-cf", "out", "tree")


@pair("build-path", "python3", place=True)
def a_python_module(side: Side) -> None:
    side.write("mod.py", "def f():\n    return 1\n")
    side.python(
        f"import py_compile; py_compile.compile('{side.home}/mod.py', 'out', "
        f"invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )


@pair("build-path", "sh", place=True)
def a_wrapper_script(side: Side) -> None:
    side.sh('printf "#!/bin/sh\\nexec %s/bin/tool \\"\\$@\\"\\n" "$PWD" > out')


@pair("build-path", "python3", place=True)
def compile_commands(side: Side) -> None:
    side.python(
        "import json, os; json.dump([{'directory': os.getcwd(), 'file': os.getcwd() + '/x.c'}], open('out', 'w'))"
    )


@pair("build-path", "mksquashfs", place=True)
def a_configuration_in_a_squashfs(side: Side) -> None:
    tree(side)
    side.write("tree/etc/x.conf", f"sysroot = {side.home}/sysroot\n")
    side.age("tree")
    side.run("mksquashfs", "tree", "out", "-quiet", "-no-progress", "-mkfs-time", "1", "-all-time", "1")


@pair("build-path", "perl", place=True)
def a_perl_configuration(side: Side) -> None:
    side.run(
        "perl", "-MCwd", "-e", 'open F, ">out"; print F "our %Config = (installdir => q{", getcwd(), "/perl5});\\n"'
    )


@pair("build-path", "ld", "gcc", place=True)
def a_linker_map(side: Side) -> None:
    side.write("x.c", HELLO)
    side.run("gcc", "-c", "-o", f"{side.home}/x.o", "x.c")
    side.run("ld", "-r", "-Map=out", "-o", "y.o", f"{side.home}/x.o")


@pair("path-length", "gcc", place=True)
def the_length_in_code(side: Side) -> None:
    side.write("x.c", "int length(void) { return sizeof(PLACE); }")
    side.run("gcc", f'-DPLACE="{side.home}"', "-O2", "-c", "-o", "out", "x.c")


@pair("path-length", "gcc", place=True)
def the_length_in_a_program(side: Side) -> None:
    side.write("x.c", "int main(int c, char **v) { return c + sizeof(__FILE__); }")
    side.run("gcc", "-O2", "-s", "-Wl,--build-id=none", "-o", "out", f"{side.home}/x.c")


@pair("path-length", "sh", place=True)
def the_length_in_text(side: Side) -> None:
    side.sh('echo "#define PREFIX_LEN ${#PWD}" > out')


@pair("path-length", "python3", place=True)
def the_length_in_json(side: Side) -> None:
    side.python("import json, os; json.dump({'offset': len(os.getcwd()) + 40, 'name': 'x'}, open('out', 'w'))")


@pair("path-length", "sh", place=True)
def a_ruler_under_a_path(side: Side) -> None:
    side.sh('echo title > out; printf "%${#PWD}s\\n" "" | tr " " "=" >> out')


@pair("path-length", "awk", "dpkg-deb", place=True)
def the_length_in_a_package(side: Side) -> None:
    tree(side)
    side.sh("pwd | awk '{ print \"column\", length($0) + 8 }' > tree/usr/share/doc/columns")
    package(side)


@pair("path-length", "gcc", place=True)
def the_length_in_data(side: Side) -> None:
    side.write("x.c", 'const int skip = sizeof(PLACE) - 1; const char word[] = "a word that stays";')
    side.run("gcc", f'-DPLACE="{side.home}"', "-c", "-o", "x.o", "x.c")
    side.sh("objcopy -O binary -j .rodata x.o data && od -An -v -td4 -N4 data > out")
