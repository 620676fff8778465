# SPDX-License-Identifier: MIT
"""The programs' rules as data: who sees which clock, who sees which file times, and who may write which.

A program that embeds times must be shown the epoch, one that compares file times must see the true ones, and one
that compares them with now needs the real clock too. Whatever sees true file times may write them: only a shown
time that is written to disk destroys the order of the files. Facts are from the programs' manuals and sources.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from detbuild.program import CLOCKS, READS, WRITES, Program, Table

__all__ = ["BUILTIN", "CLOCKS", "DEFAULT", "READS", "WRITES", "Program", "Table", "decide", "table"]


def _tools(names: str) -> str:
    """Compilers and their kin also go by a target's prefix, a version, or both: x86_64-linux-gnu-gcc-12."""
    forms = ("{}", "*-{}", "{}-[0-9]*", "*-{}-[0-9]*")
    return " ".join(form.format(name) for name in names.split() for form in forms)


def _embeds(names: str, reason: str, argument: str = "", script: str = "") -> Program:
    return Program(tuple(names.split()), "fixed", "shown", "now", reason, argument, tuple(script.split()))


def _compares(names: str, reason: str, argument: str = "", script: str = "") -> Program:
    return Program(tuple(names.split()), "fixed", "true", "kept", reason, argument, tuple(script.split()))


def _compares_with_now(names: str, reason: str, argument: str = "", script: str = "") -> Program:
    return Program(tuple(names.split()), "real", "true", "kept", reason, argument, tuple(script.split()))


def _secret(row: Program) -> Program:
    """It makes keys, or talks by keys that it makes: predictable ones would be no keys."""
    return row._replace(random="real")


def _plain(row: Program) -> Program:
    """It reads what it is given, and opens nothing but headers with O_NOCTTY alone."""
    return row._replace(opens="most")


def _tells(row: Program) -> Program:
    """Scripts make names, and text, of its own process number; or libuuid mixes that into its random numbers."""
    return row._replace(pid="fixed")


# These three say what they mean to a reader; to an engine they are true file times and no stop.
_carries = _neither = _compares

DEFAULT = _embeds("*", "nobody knows: it may embed times, so it is shown none after the epoch")

_PYTHON = "python* pypy*"
_PERL = "perl*"
_SCRIPTED = "python* pypy* perl* ruby*"

# tar takes its operation in a first argument without a dash, or in any cluster of one-letter options: -xzpf. Letters
# that take a value end a cluster, so those before the operation are others.
_TAR = r"\A[A-Za-z0-9]*{0}[A-Za-z0-9]*$|^-[^-bCfFgHIKLNTVX\W]*{0}"
_CPIO = r"^-[^-CDEFHIMOR\W]*[ip]|^--(extract|pass-through)$"
# ar's operation and modifiers come first, with or without a dash, after long options only.
_AR = r"\A(--plugin\n.*\n|--.*\n|-X\S*\n)*-?[A-Za-z]*{0}[A-Za-z]*$"
_LONG_LISTING = r"^-[A-Za-z0-9]*[lgno]|^--(full-time|format=(long|verbose))$"
_TIME_DIRECTIVE = r"^-printf\n.*%[-#+ 0-9.]*[aActTB]|^-fprintf\n.*\n.*%[-#+ 0-9.]*[aActTB]|^-f?ls$"

_COMPARERS = (
    _compares("test [ [[", "-nt, -ot and -ef compare files with each other"),
    _embeds("ls dir", "a long listing prints file times; mdate-sh takes them into documents", _LONG_LISTING),
    _compares("ls dir", "sorts by the files' true order, as configure's sanity check needs; prints no time"),
    _embeds("find", "prints file times", _TIME_DIRECTIVE),
    _compares_with_now("find", "measures ages from now", r"^-([acm](time|min)|used|newer[aBcm]t)$"),
    _compares("find", "-newer compares files with each other; without it, no time counts"),
    _compares(
        _tools("ar"),
        "u replaces members that are older than their files; D, not the session, keeps times out",
        _AR.format("u"),
    ),
    _carries(_tools("ar"), "members leave with the times that they have in the archive", _AR.format("x")),
    _compares("tar gtar bsdtar star", "-u adds what is newer than its member", _TAR.format("u") + "|^--update$"),
    _compares(
        "zip",
        "-u and -f compare files with members; what they add carries true times, so build archives afresh instead",
        r"^-[^-bntix\W]*[uf]|^--(update|freshen)$",
    ),
    _compares("svn hg chg fossil bzr brz jj", "knows unchanged files by their times"),
    _compares(_SCRIPTED, "knows unchanged files by their times", script="hg bzr brz"),
    _compares("git git-*", "its index knows unchanged files by their times; its commits get the session's clock"),
    _compares("javac kotlinc scalac", "compares sources with classes"),
    _compares("ghc ghc-[0-9]* ocamldep", "compares sources with interfaces"),
    _compares("rake", "compares targets with sources"),
    _compares("ruby*", "compares targets with sources", script="rake"),
    _compares(
        _PERL,
        "compares sources with what was made of them (Module::Build, MakeMaker)",
        script="Build Build.PL Makefile.PL",
    ),
    _compares(
        "gtk-update-icon-cache* gtk4-update-icon-cache",
        "compares a directory with its cache, and sets the cache's time",
    ),
)

_WITH_NOW = (
    _plain(
        _compares_with_now(
            "make gmake remake bmake pmake smake", "warns of files in the future; children have their own rules"
        )
    ),
    _plain(
        _compares_with_now(
            "ninja ninja-build samu n2 tup redo* jam b2 bjam mk dune", "compares targets with sources and now"
        )
    ),
    _compares_with_now(_SCRIPTED, "a wrapper of the build tool of that name", script="ninja samu redo*"),
    _embeds("meson muon", "makes archives and bytecode, which keep file times", r"\A(dist|--internal\npycompile)$"),
    _embeds(
        _PYTHON,
        "makes archives and bytecode, which keep file times",
        r"\A(dist|--internal\npycompile)$",
        "meson meson.py mesonbuild mesonbuild.* waf waf-*",
    ),
    _compares_with_now("meson muon", "compares build files with now"),
    _compares_with_now(
        _PYTHON,
        "compares build files with each other and with now",
        script="meson meson.py mesonbuild mesonbuild.* waf waf-* scons scons-[0-9]* scons.py SCons SCons.*",
    ),
    _compares_with_now("scons waf", "compares targets with sources and now"),
    _compares_with_now(
        _PYTHON,
        "compares documents with the time of its last run; dates in its pages come from SOURCE_DATE_EPOCH",
        script="sphinx-build* sphinx sphinx.*",
    ),
    _compares_with_now(
        _PYTHON,
        "compares recipes with its cache and with now",
        script="bitbake bitbake-* devtool recipetool oe-* kas hashserv",
    ),
    _embeds("cmake cmake[0-9]*", "makes an archive", r"\A-E\ntar\n-?[A-Za-z]*c"),
    _carries(
        "cmake cmake[0-9]*",
        "unpacks, copies, installs or compares files, and embeds the clock",
        r"\A-[EP]$|^-P$|\A--install$",
    ),
    _compares_with_now(
        "cmake cmake[0-9]* ccmake", "compares build files; dates that it writes come from SOURCE_DATE_EPOCH"
    ),
    _plain(_compares_with_now("ccache sccache", "a header younger than the compilation's start is not cached")),
    _compares_with_now(
        "java",
        "ant and gradle compare sources, classes and now; jars that they write themselves carry true times",
        r"^org\.(apache\.tools\.ant\.|gradle\.)|^-jar\n.*(gradle|ant-launcher|bazel)[^/\n]*\.jar$",
    ),
    _compares_with_now("ant gradle bazel bazel-* buck2", "compares targets with sources and now"),
    _secret(_compares_with_now("cargo go", "compares sources with its cache and with now; both download by TLS")),
    _compares_with_now(
        _PERL,
        "compares configure's sources with its cache and with now",
        script="autom4te* automake* aclocal* autoreconf* autoheader* autoscan* autoupdate* ifnames*",
    ),
    _compares_with_now("latexmk", "compares documents with what was made of them"),
    _compares_with_now(_PERL, "compares documents with what was made of them", script="latexmk latexmk.pl"),
    _secret(
        _compares_with_now(
            "curl wget wget2 aria2c git-remote-http* apt apt-get gpgv* sqv",
            "a certificate or a key is valid from one real moment to another",
        )
    ),
    _secret(
        _compares_with_now(
            "gpg gpg1 gpg2",
            "a key made after the epoch would lie in the future",
            r"^--(verify|verify-files|decrypt)$|^-d$",
        )
    ),
)

_CARRIERS = (
    _carries("cp gcp mv gmv install ginstall", "copies true times, -p or not, and compares them for -u and -C"),
    _secret(_carries("scp sftp", "copies true times; a session's keys")),
    _carries("rsync ditto", "compares and copies true times"),
    _compares_with_now(
        "touch gtouch",
        "-r copies true times, a date that is written out is kept, and '1 hour ago' means what it means outside",
    ),
    _compares_with_now(
        "tar gtar bsdtar star",
        "members keep the archive's times, so that equal ones stay equal; it warns of those after now",
        _TAR.format("x") + "|^--(extract|get)$",
    ),
    _carries("cpio gcpio", "-p copies true times, -i keeps the archive's", _CPIO),
    _carries("pax", "-r keeps the archive's times, -rw copies true ones", r"^-[a-z]*r"),
    _carries("unzip bsdunzip unar unrar", "members keep the archive's times; -u compares them"),
    _carries("7z 7za 7zr 7zz", "members keep the archive's times", r"\A[xe]$"),
    _carries("jar fastjar", "members keep the archive's times", r"\A-?[a-zA-Z]*x[a-zA-Z]*$|^--extract$"),
    _carries(
        "gzip pigz lzop",
        "a file leaves with the time of its archive",
        r"^-[A-RT-Za-z0-9]*d|^--(decompress|uncompress)$",
    ),
    _carries(
        "xz unxz lzma unlzma bzip2 bunzip2 pbzip2 lbzip2 zstd unzstd pzstd lz4 unlz4 lzip plzip compress"
        " uncompress gunzip unpigz zcat xzcat bzcat zstdcat",
        "the format holds no time, and the file keeps that of its source",
    ),
    _carries(_tools("strip objcopy"), "copies true times", r"^-[A-Za-z]*p[A-Za-z]*$|^--preserve-dates$"),
    _carries("dpkg rpm rpm2cpio rpm2archive opkg opkg-cl apk unsquashfs patch", "files keep the package's times"),
)

_EMBEDDERS = (
    _embeds(
        "tar gtar bsdtar star cpio gcpio pax zip 7z 7za 7zr 7zz jar fastjar shar rar zoo arj lha",
        "an archive keeps the times of its members",
    ),
    _embeds(_tools("ar ranlib strip objcopy objdump"), "without D an archive keeps the times of its members"),
    _embeds("gzip pigz lzop", "the header keeps the time of the file, without -n"),
    _embeds(
        "mksquashfs gensquashfs tar2sqfs sqfstar genisoimage mkisofs xorriso xorrisofs genext2fs mkimage mkcramfs"
        " mkyaffs2image mcopy gen_init_cpio sload.f2fs",
        "an image keeps the times of its files",
    ),
    _tells(_embeds("mkfs.* mke2fs", "an image keeps the times of its files, and a number of libuuid's")),
    _tells(
        _embeds(
            "uuidgen mkswap tune2fs sgdisk gdisk cgdisk sfdisk fdisk cfdisk parted",
            "its UUIDs are libuuid's (randutils.c of util-linux), which mixes process and thread numbers in",
        )
    ),
    _embeds("dpkg-deb rpmbuild", "a package keeps the times of its files"),
    _embeds("stat date diff diff3 sdiff pr vdir", "prints file times"),
    _embeds("du", "prints file times", r"^--time"),
    _embeds(
        _tools("gnat1 gnatmake gnatbind gnatlink gprbuild gnat"),
        "an ALI file keeps the times of its sources: who writes it and who checks it must see the same",
    ),
    _embeds("fc-cache mandb ldconfig", "a cache keeps the times of what it indexes"),
)

_PLAIN = (
    _tells(_neither("sh bash dash ash rbash", "test -nt compares files, and nothing is embedded")),
    _neither(
        _tools("gcc g++ c++ cc cpp gfortran gccgo gdc clang clang++ clang-cpp flang"),
        "a driver looks for files and starts the passes; clang takes __TIMESTAMP__ from SOURCE_DATE_EPOCH",
    ),
    _neither(
        "cc1 cc1plus cc1obj cc1objplus f951 go1 d21 lto1",
        "reads sources; only __TIMESTAMP__ embeds a file's time, and -Wdate-time finds it",
    ),
    _neither("collect2 lto-wrapper lto-plugin g++-mapper-server c89 c99", "passes files on"),
    _neither(
        _tools(
            "as ld ld.bfd ld.gold ld.lld lld mold gold llc opt nm size readelf strings addr2line c++filt elfedit gprof"
            " windres dwp"
        ),
        "no time of a file enters an object or a listing",
    ),
    _neither("*/pkg/tool/*/*", "the go tool's passes embed no time"),
    _neither(
        "rustc rustdoc clippy-driver ocamlc* ocamlopt* nasm yasm ragel swig protoc moc uic rcc distcc icecc",
        "no time of a file is embedded",
    ),
    _neither(
        "cat tac head tail cut paste join comm sort uniq tr wc nl fold fmt expand unexpand split csplit tsort shuf tee"
        " dd od hexdump xxd md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum base32 base64"
        " basenc cmp",
        "reads contents only",
    ),
    _neither("sed gsed awk gawk mawk nawk original-awk m4 gm4 ed", "reads contents only"),
    _neither(
        "rm rmdir mkdir mknod mkfifo ln link unlink chmod chown chgrp truncate sync fallocate shred chattr "
        "setfattr getfattr setfacl getfacl setcap getcap",
        "changes names and modes",
    ),
    _neither("mktemp", "a file's name is made of the monotonic clock")._replace(clock="all"),
    _neither(
        "echo printf true false : expr seq yes sleep pwd basename dirname readlink realpath which uname arch hostname"
        " id whoami groups logname nproc getconf getopt tty stty locale localedef tput clear infocmp tic",
        "prints no file time",
    ),
    _neither(
        "env nice ionice nohup timeout time xargs parallel setsid stdbuf taskset flock chroot unshare nsenter setarch"
        " linux64 linux32 pseudo faked* fakeroot-* runuser setpriv bwrap",
        "starts another program, which has a rule of its own",
    ),
    _neither("kill pgrep pkill ps free df du sysctl ldd ldd-* lsof pidof", "prints no file time"),
    _neither(
        "bison yacc byacc flex lex gperf re2c msgfmt msgmerge msgcat xgettext itstool file patchelf chrpath",
        "embeds no file time",
    ),
    _neither("pkg-config pkgconf *-pkg-config *-pkgconf", "reads contents only"),
)

_NEITHER = (
    # zsh opens any file with O_NOCTTY alone; the others do it in some release, or nobody has looked.
    _tells(_neither("ksh ksh93 mksh zsh yash posh fish tcsh csh", "test -nt compares files, and nothing is embedded")),
    _neither("grep egrep fgrep rg", "reads contents only"),
    *map(_plain, _PLAIN),
)

# What is signed without a new key comes out the same with real random numbers too, where the scheme is deterministic.
_KEYS = (
    _secret(
        _embeds(
            "openssl openssl3 openssl-[0-9]* gpg gpg1 gpg2 gpgsm gpg-agent gpgconf sq ssh ssh-keygen ssh-keysign"
            " ssh-agent certtool p11tool keytool jarsigner certutil pk12util cryptsetup wg age age-keygen minisign"
            " signify signify-openbsd dropbearkey dbclient rndc-confgen tpm2 tpm2_* pkcs11-tool softhsm2-util certbot",
            "makes keys, nonces or signatures",
        )
    ),
    _secret(_embeds("dnssec-keygen dnssec-signzone tsig-keygen ddns-confgen", "makes a zone's keys and signatures")),
    _secret(_embeds("sshd sshd-session sshd-auth dropbear dropbearmulti", "makes a session's keys, dropbear a host's")),
    _secret(
        _embeds("swtpm swtpm_cuse swtpm_setup swtpm_localca swtpm_cert", "makes a TPM's keys, and their certificates")
    ),
    _secret(_embeds("systemd-creds systemd-cryptenroll", "makes the keys by which secrets and disks are encrypted")),
    _secret(_embeds("sbctl cosign", "makes the keys that it signs with (Go's crypto/rand)")),
    _secret(_embeds("rauc", "signs bundles, and makes the key by which it encrypts one (RAND_bytes)")),
    _secret(_embeds("mkeficapsule", "signs capsules (gnutls_pkcs7_sign)")),
    _secret(
        _embeds(
            "sign-file kmodsign extract-cert insert-sys-cert sbsign sbkeysync pesign efikeygen osslsigncode cst"
            " evmctl imgtool futility avbtool ukify systemd-sbsign apksigner",
            "signs images and modules, some with keys that it makes",
        )
    ),
    _secret(
        _embeds(
            _PYTHON,
            "signs images, or encrypts them under a random nonce",
            script="imgtool imgtool.* avbtool avbtool.py sbsign* ukify ukify.py sign_encrypt.py",
        )
    ),
    _secret(_embeds(_PYTHON, "makes keys, and talks by them", script="certbot")),
    _secret(_embeds("java", "signs packages", r"^-jar\n.*apksigner[^/\n]*\.jar$")),
)

BUILTIN: tuple[Program, ...] = _WITH_NOW + _COMPARERS + _CARRIERS + _EMBEDDERS + _KEYS + _NEITHER


def table(rules: Iterable[Program | Mapping[str, Any]] = ()) -> Table:
    """The built-in rows behind the user's own. Raises PolicyError for a row that is none."""
    own = tuple(rule if isinstance(rule, Program) else Program.from_dict(rule) for rule in rules)
    return _table(own + BUILTIN)


def decide(rows: Sequence[Program], executable: str, argv_reader: Callable[[], Sequence[str]]) -> Program:
    """The first of ``rows`` that matches a program, or DEFAULT. An engine keeps a Table instead."""
    return _table(tuple(rows)).decide(executable, argv_reader)


@functools.lru_cache(maxsize=8)
def _table(rows: tuple[Program, ...]) -> Table:
    return Table(rows, DEFAULT)
