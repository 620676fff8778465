# SPDX-License-Identifier: MIT
"""What a command line runs: the program behind a multi-call binary or a loader, the script behind an interpreter."""

from __future__ import annotations

import fnmatch
import os.path
import re
from collections.abc import Sequence
from typing import NamedTuple

_MULTICALL = ("busybox*", "toybox*", "coreutils*", "uutils*")
_LOADERS = ("ld-linux*.so*", "ld-musl*.so*", "ld-[0-9]*.so", "ld.so", "ld64.so*")
_LAUNCHER = re.compile("|".join(fnmatch.translate(pattern) for pattern in _MULTICALL + _LOADERS))
_LOADER = re.compile("|".join(fnmatch.translate(pattern) for pattern in _LOADERS))
_LOADER_VALUES = {"--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0"}

# qemu's user mode (linux-user/main.c): the options without a value; all others have one.
_EMULATOR = re.compile(r"qemu-(?!(?:system|img|io|nbd|ga|storage|edid|keymap)\b)\w+(-static)?")
_EMULATOR_FLAGS = {"-singlestep", "-one-insn-per-tb", "-strace", "-version", "-h", "-help"}

_SHELLS = ("sh", "dash", "bash", "ash", "mksh", "zsh", "ksh*")
_SHELL = re.compile("|".join(fnmatch.translate(name) for name in _SHELLS))
_SCRIPTED = ("python*", "pypy*", "perl*", "ruby*", "lua*", "tclsh*", "guile*")
_INTERPRETER = re.compile("|".join(fnmatch.translate(name) for name in _SCRIPTED))
_SHELL_VALUES = ("-o", "+o", "-O", "+O", "--rcfile", "--init-file")

# Options of one letter whose value follows, in the same argument or in the next.
_PYTHON_VALUES = "WX"
_PERL_VALUES = "I"
# Options of one letter that take the rest of their argument as a value, if any.
_PERL_RESTS = "MmDCxVFidr"


class Command(NamedTuple):
    """A program's name and its arguments, without itself."""

    name: str
    arguments: tuple[str, ...]

    def script(self) -> tuple[str, tuple[str, ...]]:
        """The script or module that an interpreter runs, and the script's arguments; "" where it runs none."""
        if self.name.startswith(("python", "pypy")):
            return _python(self.arguments)
        return _perl(self.arguments)


def base(path: str) -> str:
    """A program's name: of a login shell without its dash, of a wrapped program without ``.real``."""
    return os.path.basename(path.removesuffix(" (deleted)")).lstrip("-").removesuffix(".real")


def title(executable: str, argv: Sequence[str]) -> str:
    """What people call a running program: its script's name, or its own; the guest's where it is an emulator."""
    name = base(executable)
    if _EMULATOR.fullmatch(name) and (guest := _guest(argv[1:])):
        return title(guest[0], guest)
    given = applet(name, argv) if is_launcher(name) else Command(name, tuple(argv[1:]))
    script = ""
    if _SHELL.match(given.name):
        script = _shell(given.arguments)
    elif _INTERPRETER.match(given.name):
        script = given.script()[0]
    return (spellings(script)[0] if script else "") or given.name or name


def _guest(arguments: Sequence[str]) -> Sequence[str]:
    """The command line that an emulator runs."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 1 if "-" + arguments[at].lstrip("-") in _EMULATOR_FLAGS else 2
    return arguments[at:]


def spellings(script: str) -> tuple[str, ...]:
    """By what names a script may be called: a directory or archive that python runs is known by its own name."""
    name = os.path.basename(script.rstrip("/"))
    return (os.path.basename(os.path.dirname(script)),) if name == "__main__.py" else (name,)


def is_launcher(name: str) -> bool:
    """Whether the program runs another one inside itself, named by its arguments."""
    return _LAUNCHER.match(name) is not None


def is_loader(name: str) -> bool:
    return _LOADER.match(name) is not None


def applet(name: str, argv: Sequence[str]) -> Command:
    """What a launcher runs: by argv[0], by its first argument (``busybox tar``), or after the loader's options."""
    if is_loader(name):
        return _loaded(argv)
    called = base(argv[0]) if argv else name
    rest = tuple(argv[1:])
    if not is_launcher(called):
        return Command(called, rest)
    # GNU coreutils as one binary: `coreutils --coreutils-prog=ls -l`, and the same in a script's first line.
    option, _, program = rest[0].partition("=") if rest else ("", "", "")
    if option == "--coreutils-prog":
        return Command(program, rest[1:])
    if option == "--coreutils-prog-shebang":
        return Command(program, rest[2:])
    return Command(base(rest[0]), rest[1:]) if rest else Command(called, ())


def _loaded(argv: Sequence[str]) -> Command:
    rest = list(argv[1:])
    while rest and rest[0].startswith("--"):
        del rest[: 2 if rest[0] in _LOADER_VALUES else 1]
    return Command(base(rest[0]), tuple(rest[1:])) if rest else Command("", ())


def _shell(arguments: Sequence[str]) -> str:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-", "--"):
            return rest[0] if rest else ""
        if word[:1] not in ("-", "+"):
            return word
        if not word.startswith("--") and re.search("[cs]", word):
            return ""
        if word in _SHELL_VALUES:
            del rest[:1]
    return ""


def _python(arguments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--check-hash-based-pycs":
            del rest[:1]
        elif word == "-" or not word.startswith("-"):
            return ("" if word == "-" else word), tuple(rest)
        elif not word.startswith("--"):
            found = re.match(rf"-[^cm{_PYTHON_VALUES}]*([cm{_PYTHON_VALUES}])(.*)", word, re.DOTALL)
            if found is None:
                continue
            letter, value = found.groups()
            if letter == "c":
                return "", ()
            value = value or (rest.pop(0) if rest else "")
            if letter == "m":
                return value, tuple(rest)
    return "", ()


def _perl(arguments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """perl's rules, which also serve for ruby and others: code in -e, values behind -I, the first other word."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return (rest[0], tuple(rest[1:])) if rest else ("", ())
        if not word.startswith("-"):
            return word, tuple(rest)
        letters = re.split(f"[{_PERL_RESTS}]", word[1:], maxsplit=1)[0]
        if _PERL_VALUES in letters:
            if letters.endswith(_PERL_VALUES) and word.endswith(_PERL_VALUES):
                del rest[:1]
        elif not word.startswith("--") and re.search("[eE]", letters):
            return "", ()
    return "", ()
