"""The programs from upstream's sources that are built: by make, cmake, ninja, meson, cargo and go."""

from __future__ import annotations

import sys

from workshop import Program

PROGRAMS = [
    Program("hello", "usr/bin/hello", passed=4),
    Program("sed", "usr/bin/sed", passed=50),
    # list-big compresses four gibibytes, and nothing in that is about time.
    Program(
        "gzip",
        "usr/bin/gzip",
        "sed -i /list-big/d tests/Makefile.am && autoreconf -f && ./configure --prefix=/usr",
        passed=20,
        needs=("autoreconf", "makeinfo"),
        note="with a regenerated configure and without list-big",
    ),
    # Upstream's tarball has no test suite but the interpreter's own word.
    Program(
        "lua5.4",
        "bin/lua",
        "",
        "make -j2 linux",
        "make test",
        "make install INSTALL_TOP={}",
        result=r"(PASS|Lua 5\.4\.\d+)",
    ),
    Program("zlib", "usr/lib/libz.a", check="make check", result=r"\*\*\* (zlib .*(?:OK|FAILED))", passed=3),
    Program(
        "cjson",
        "usr/lib/libcjson.a",
        "cmake -G Ninja -B build -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_INSTALL_LIBDIR=lib"
        " -DENABLE_CJSON_UTILS=On -DBUILD_SHARED_AND_STATIC_LIBS=On",
        "ninja -C build",
        "ninja -C build test",
        "DESTDIR={} ninja -C build install",
        result=r"Test +#\d+: (.+?) +[\d.]+ sec",
        passed=22,
        idle="ninja: no work to do.",
        needs=("cmake", "ninja"),
        note="by cmake and ninja",
    ),
    Program(
        "serd",
        "usr/bin/serdi",
        "meson setup build --prefix=/usr -Ddefault_library=both",
        "meson compile -C build",
        "meson test -C build",
        "DESTDIR={} meson install -C build",
        result=r"^ *\d+/\d+ (.+?) +[\d.]+s",
        passed=23,
        idle="ninja: no work to do.",
        needs=("meson", "ninja"),
        note="by meson",
    ),
    # A library has nothing to install: the library itself, and the program that tests it.
    Program(
        "rust-fnv",
        "libfnv.rlib",
        "",
        "cargo build --release --verbose && cargo test --release --no-run --verbose",
        "cargo test --release",
        "install -D -t {} target/release/libfnv.rlib target/release/deps/fnv-????????????????",
        result=r"^(test .* \.\.\. \w+)",
        passed=3,
        idle="Fresh fnv",
        needs=("cargo",),
        note="by cargo",
    ),
    Program(
        "golang-toml",
        "tomlv",
        "",
        "go build ./cmd/tomlv",
        "go test -v ./...",
        "install -D -t {} tomlv",
        result=r"--- (\w+: \S+)",
        passed=600,
        needs=("go",),
        note="by go",
    ),
]

MODULES = [
    # A wheel with a module in C, by the machine's own Python, which has the headers; its tests by the one with pytest.
    # The wheel holds its files' digests, so no path may be in them.
    Program(
        "markupsafe",
        "wheel/markupsafe/_speedups.cpython-3*.so",
        "",
        "CFLAGS=-ffile-prefix-map=$PWD=. /usr/bin/python3 setup.py bdist_wheel",
        f"PYTHONPATH=$(echo build/lib.*) {sys.executable} -m pytest -v -p no:cacheprovider -p no:randomly tests",
        "install -D -t {0} dist/*.whl && /usr/bin/python3 -m zipfile -e dist/*.whl {0}/wheel",
        result=r"^(tests/\S+ [A-Z]+)",
        passed=30,
        note="as a wheel",
    ),
    Program(
        "libclone-perl",
        "usr/lib/*/perl5/*/auto/Clone/Clone.so",
        "perl Makefile.PL INSTALLDIRS=vendor",
        "make",
        "make test",
        result=r"^(t/\S+ \.* ok|Result: \w+)",
        passed=5,
        note="as a Perl module in C",
    ),
]
