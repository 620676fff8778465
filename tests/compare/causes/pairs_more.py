"""Pairs by programs that the causes were not written with in sight: of the 20, 16 were named right at the first try."""

from __future__ import annotations

from making_pairs import HELLO, Side, package, pair, tree


@pair("timestamp", "java")
def a_file_of_java_properties(side: Side) -> None:
    side.write(
        "X.java",
        """
        import java.io.*;
        import java.util.*;
        public class X {
            public static void main(String[] a) throws Exception {
                Properties p = new Properties();
                p.setProperty("key", "value");
                p.store(new FileOutputStream("out"), "comment");
            }
        }
        """,
    )
    side.sh("java X.java; sleep 1.1")


@pair("archive-metadata", "jar")
def times_in_a_jar(side: Side) -> None:
    side.write("X.txt", "hello")
    side.age("X.txt", moment=side.moment)
    side.sh("jar cf out X.txt")


@pair("timestamp", "node")
def a_date_by_node(side: Side) -> None:
    side.sh(
        f'node -e \'require("fs").writeFileSync("out", JSON.stringify({{v: 1, when: new Date({side.moment}000)}}))\''
    )


def database(side: Side, value: str) -> None:
    side.python(f"""
        import sqlite3, time
        base = sqlite3.connect('out')
        base.execute('create table made(a, b)')
        base.execute('insert into made values(1, ?)', ({value},))
        base.commit()
    """)


@pair("timestamp", "python3")
def a_number_in_a_database(side: Side) -> None:
    database(side, str(side.moment))


@pair("timestamp", "python3")
def a_date_in_a_database(side: Side) -> None:
    database(side, f"time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime({side.moment}))")


@pair("hash-seed", "perl")
def a_hash_by_data_dumper(side: Side) -> None:
    seeds = {"PERL_HASH_SEED": side.pick("1", "4242"), "PERL_PERTURB_KEYS": "0"}
    side.sh("perl -MData::Dumper -e 'my %h = map { $_ => 1 } qw(a b c d e f g h i); print Dumper(\\%h)' > out", **seeds)


@pair("build-id", "gcc")
def a_random_build_id(side: Side) -> None:
    side.write("x.c", HELLO)
    side.sh("gcc -s -Wl,--build-id=uuid -o out x.c")


@pair("random", "g++")
def sections_for_link_time_optimisation(side: Side) -> None:
    side.write("x.cc", "namespace { int f() { static int x; return ++x; } } int main() { return f(); }")
    side.sh("g++ -flto -ffat-lto-objects -c -o out x.cc")


@pair("archive-metadata", "tar")
def times_of_access_in_a_tarball(side: Side) -> None:
    tree(side)
    side.sh(
        f"find tree -type f -exec touch -a -d @{side.moment} {{}} +; "
        "tar --format=pax --sort=name --pax-option=delete=ctime -cf out tree"
    )


@pair("user", "bash")
def a_variable_of_the_environment(side: Side) -> None:
    side.sh(f"env -i LOGNAME={side.pick('alice', 'bob')} bash -c 'export -p | grep LOGNAME' > out")


@pair("timestamp", "gzip", "dpkg-deb")
def a_changelog_in_a_package(side: Side) -> None:
    tree(side)
    side.sh(
        f"printf 'x (1.0) unstable\\n\\n -- N <n@e>  ' > c; date -R -u -d @{side.moment} >> c; "
        "gzip -nc c > tree/usr/share/doc/changelog.gz"
    )
    package(side)


@pair("build-path", "gcc", place=True)
def a_preprocessed_source(side: Side) -> None:
    side.write("x.c", "int x;\n")
    side.sh("gcc -E -o out $PWD/x.c")


@pair("build-path", "gcc", place=True)
def a_file_of_dependencies(side: Side) -> None:
    side.write("x.c", "int x;\n")
    side.sh("gcc -MD -MF out -c -o x.o $PWD/x.c")


@pair("timestamp", "date")
def a_footer_in_html(side: Side) -> None:
    side.sh(f"echo \"<p>Generated on $(date -u -d @{side.moment} '+%A, %d. %B %Y at %H:%M')</p>\" > out")


@pair("archive-metadata", "cpio")
def owners_in_an_initramfs(side: Side) -> None:
    tree(side)
    side.sh(
        f"chown -R {side.pick('0', '1000')} tree; cd tree; find . | sort | cpio --reproducible -o -H newc > ../out",
    )


@pair("kernel-version", "setarch")
def three_words_of_uname(side: Side) -> None:
    side.sh(f"setarch x86_64 {side.pick('', '--uname-2.6')} uname -srm > out")


@pair("file-order", "ls")
def a_list_of_sources(side: Side) -> None:
    for name in "abcd":
        side.write(f"{name}.c", f"int f_{name}(void) {{ return 1; }}")
    side.sh(f"ls *.c | {side.pick('sort', 'sort -r')} | sed 's/^/  /' > out")


@pair("compression", "python3")
def a_gzip_by_python(side: Side) -> None:
    tree(side)
    side.python(f"""
        import gzip
        data = open('tree/usr/bin/tool', 'rb').read() * 4000
        with open('out', 'wb') as out, gzip.GzipFile('', 'wb', {side.pick("1", "6")}, out, 0) as squeezed:
            squeezed.write(data)
    """)


@pair("random", "openssl")
def an_encrypted_file(side: Side) -> None:
    side.sh("echo hello | openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -out out 2>/dev/null")


@pair("locale", "ls")
def times_in_a_listing(side: Side) -> None:
    side.write("f", "x")
    side.age("f")
    side.run("/bin/sh", "-c", "ls -l --time-style=+%F_%T f > out", TZ=side.pick("UTC", "Asia/Tokyo"))
