"""Pairs that differ in an order alone, or in the language and the time zone of who built."""

from __future__ import annotations

from making_pairs import HELLO, Side, package, pair, tree

WORDS = "['alpha', 'bravo', 'charlie', 'delta', 'echo', 'foxtrot', 'golf', 'hotel']"


def order(side: Side) -> str:
    """A directory's listing in one of two orders, as file systems give them."""
    return side.pick("sort", "sort -r")


@pair("file-order", "tar")
def members_of_a_tarball(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} | tar -cf out --no-recursion -T -")


@pair("file-order", "tar", "xz")
def members_of_a_compressed_tarball(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} | tar -cJf out --no-recursion -T -")


@pair("file-order", "cpio")
def members_of_an_initramfs(side: Side) -> None:
    tree(side)
    side.sh(f"cd tree && find . -type f | {order(side)} | cpio --reproducible -o -H newc > ../out")


@pair("file-order", "zip")
def members_of_a_zip(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} | zip -qX out.zip -@; mv out.zip out")


@pair("file-order", "gcc", "ar")
def members_of_a_static_library(side: Side) -> None:
    for name in "abc":
        side.write(f"{name}.c", f"int f_{name}(void) {{ return 1; }}")
        side.run("gcc", "-c", f"{name}.c")
    side.sh(f"ls *.o | {order(side)} | xargs ar rcD out")


@pair("file-order", "find")
def a_list_of_files(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} > out")


@pair("file-order", "find", "dpkg-deb")
def a_list_of_files_in_a_package(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} > list; mv list tree/usr/share/doc/files.txt")
    package(side)


@pair("file-order", "ls")
def sources_in_a_makefile(side: Side) -> None:
    tree(side)
    side.sh(f"echo SOURCES = $(cd tree/usr/share/doc && ls | {order(side)}) > out")


@pair("file-order", "sha256sum")
def a_list_of_checksums_in_another_order(side: Side) -> None:
    tree(side)
    side.sh(f"find tree -type f | {order(side)} | xargs sha256sum > out")


@pair("symbol-order", "gcc")
def objects_in_another_order(side: Side) -> None:
    for name in "abcd":
        side.write(f"{name}.c", f"int value_{name} = 3; int f_{name}(int x) {{ return x * 3; }}")
        side.run("gcc", "-c", f"{name}.c")
    side.sh(f"ls *.o | {order(side)} | xargs gcc -shared -Wl,--build-id=none -o out")


@pair("symbol-order", "gcc")
def functions_in_another_order(side: Side) -> None:
    names = ["first", "second", "third"]
    side.write(
        "x.c",
        "\n".join(f"int {name}(int x) {{ return x + 1; }}" for name in (names if side.name == "a" else names[::-1])),
    )
    side.run("gcc", "-c", "-o", "out", "x.c")


@pair("symbol-order", "gcc", "ld")
def a_relocatable_in_another_order(side: Side) -> None:
    for name in "abc":
        side.write(f"{name}.c", f"int f_{name}(int x) {{ return x * 3; }}")
        side.run("gcc", "-c", f"{name}.c")
    side.sh(f"ls *.o | {order(side)} | xargs ld -r -o out")


@pair("symbol-order", "gcc", "objcopy")
def sections_in_another_order(side: Side) -> None:
    side.write("x.c", HELLO)
    side.write("one", "1111\n")
    side.write("two", "2222\n")
    side.run("gcc", "-c", "x.c")
    adding = [["--add-section", ".one=one"], ["--add-section", ".two=two"]]
    first, second = adding if side.name == "a" else adding[::-1]
    side.run("objcopy", *first, *second, "x.o", "out")


@pair("symbol-order", "gcc", "nm")
def a_table_of_symbols(side: Side) -> None:
    for name in "abc":
        side.write(f"{name}.c", f"int f_{name}(int x) {{ return x * 3; }} int g_{name};")
        side.run("gcc", "-c", f"{name}.c")
    side.sh(f"for o in $(ls *.o | {order(side)}); do nm $o; done > out")


@pair("symbol-order", "gcc", "dpkg-deb")
def a_library_in_a_package(side: Side) -> None:
    tree(side)
    for name in "abcd":
        side.write(f"{name}.c", f"int f_{name}(int x) {{ return x * 3; }}")
        side.run("gcc", "-c", f"{name}.c")
    side.sh(f"ls *.o | {order(side)} | xargs gcc -shared -Wl,--build-id=none -o tree/usr/libx.so")
    package(side)


@pair("symbol-order", "gcc")
def sections_by_function(side: Side) -> None:
    names = ["first", "second", "third"]
    side.write(
        "x.c",
        "\n".join(f"int {name}(int x) {{ return x + 1; }}" for name in (names if side.name == "a" else names[::-1])),
    )
    side.run("gcc", "-c", "-ffunction-sections", "-o", "out", "x.c")


def seeds(side: Side) -> dict[str, str]:
    return {"PYTHONHASHSEED": side.pick("1", "2")}


@pair("hash-seed", "python3")
def a_set_on_a_line(side: Side) -> None:
    side.python(f"open('out', 'w').write('features: ' + ' '.join(set({WORDS})) + '\\n')", **seeds(side))


@pair("hash-seed", "python3")
def a_set_line_by_line(side: Side) -> None:
    side.python(f"open('out', 'w').write('\\n'.join(set({WORDS})) + '\\n')", **seeds(side))


@pair("hash-seed", "python3")
def a_set_in_json(side: Side) -> None:
    side.python(f"import json; json.dump({{'options': list(set({WORDS}))}}, open('out', 'w'))", **seeds(side))


@pair("hash-seed", "python3")
def a_pickled_set(side: Side) -> None:
    side.python(f"import pickle; pickle.dump(set({WORDS}), open('out', 'wb'))", **seeds(side))


@pair("hash-seed", "perl")
def keys_of_a_perl_hash(side: Side) -> None:
    side.run(
        "perl",
        "-e",
        'my %h = map { $_ => 1 } qw(alpha bravo charlie delta echo foxtrot golf); open F, ">out"; '
        'print F "$_ = 1\\n" for keys %h',
        PERL_HASH_SEED=side.pick("1", "123456"),
        PERL_PERTURB_KEYS="0",
    )


@pair("hash-seed", "python3", "dpkg-deb")
def a_set_in_a_package(side: Side) -> None:
    tree(side)
    side.python(
        f"open('tree/usr/share/doc/words', 'w').write('keywords = ' + ', '.join(set({WORDS})) + '\\n')", **seeds(side)
    )
    package(side)


@pair("hash-seed", "python3")
def what_hash_says(side: Side) -> None:
    side.python("open('out', 'w').write('hash: %d\\n' % abs(hash('alpha')))", **seeds(side))


def language(side: Side) -> dict[str, str]:
    """None on one side, American English on the other, made here: not every machine has it."""
    if side.name == "a":
        return {"LC_ALL": "C"}
    side.run("localedef", "-i", "en_US", "-f", "UTF-8", "./en_US.UTF-8")
    return {"LC_ALL": "en_US.UTF-8", "LOCPATH": str(side.home)}


@pair("locale", "sort", "localedef")
def sorted_by_a_language(side: Side) -> None:
    side.write("words", "Beta\nalpha\nDelta\ncharlie\n_under\n")
    side.run("sort", "-o", "out", "words", **language(side))


@pair("locale", "date")
def one_moment_in_two_zones(side: Side) -> None:
    side.run("/bin/sh", "-ec", "date -d @1700000000 > out", TZ=side.pick("UTC", "Asia/Tokyo"))


@pair("locale", "date")
def one_moment_in_two_zones_without_their_names(side: Side) -> None:
    side.run("/bin/sh", "-ec", "date -d @1700000000 '+built %F %T' > out", TZ=side.pick("UTC", "America/New_York"))


@pair("locale", "date")
def the_zone_in_a_header(side: Side) -> None:
    side.run(
        "/bin/sh",
        "-ec",
        "date -d @1700000000 '+POT-Creation-Date: %Y-%m-%d %H:%M%z' > out",
        TZ=side.pick("UTC", "Europe/Berlin"),
    )


@pair("locale", "date")
def the_name_of_the_zone(side: Side) -> None:
    side.run("/bin/sh", "-ec", "date '+timezone: %Z' > out", TZ=side.pick("UTC", "Europe/Berlin"))


@pair("locale", "gcc")
def quotes_of_a_language(side: Side) -> None:
    side.run(
        "/bin/sh",
        "-c",
        "echo 'int f(void) { return missing; }' | gcc -x c -c -o /dev/null - 2> out; true",
        LC_ALL=side.pick("C", "C.UTF-8"),
    )


@pair("locale", "bash", "localedef")
def a_number_with_separators(side: Side) -> None:
    side.run("/bin/bash", "-c", 'printf "total: %\'d units\\n" 1234567 > out', **language(side))


@pair("locale", "iconv")
def a_text_in_another_encoding(side: Side) -> None:
    side.write("text", "Größe und Übermut, naïve café\n" * 3)
    side.sh(f"iconv -f UTF-8 -t {side.pick('UTF-8', 'ISO-8859-1')} text > out")


@pair("locale", "locale", "localedef")
def a_variable_with_the_language(side: Side) -> None:
    side.run("/bin/sh", "-ec", "locale | grep LC_CTYPE > out", **language(side))


@pair("locale", "date", "dpkg-deb")
def a_zone_in_a_package(side: Side) -> None:
    tree(side)
    side.run("/bin/sh", "-ec", "date -d @1700000000 > tree/usr/share/doc/stamp", TZ=side.pick("UTC", "Asia/Kolkata"))
    package(side)
