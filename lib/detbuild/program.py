# SPDX-License-Identifier: MIT
"""One rule for one kind of program, and how a running program finds its rule."""

from __future__ import annotations

import fnmatch
import os.path
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from detbuild import command
from detbuild.errors import PolicyError

CLOCKS = ("fixed", "real", "all")
READS = ("shown", "true")
WRITES = ("now", "kept")
RANDOMS = ("fixed", "real")
OPENS = ("all", "most")
PIDS = ("fixed", "real")
_CHOICES = {
    "clock": CLOCKS, "reads": READS, "writes": WRITES, "random": RANDOMS, "opens": OPENS, "pid": PIDS
}  # fmt: skip
_USUAL = {"random": "fixed", "opens": "all", "pid": "real"}  # and left out of plain data
_LISTS = ("names", "script")
_USERS = "a rule of the user's own"


class Program(NamedTuple):
    """What a session shows to one kind of program.

    ``names`` are patterns (fnmatch) of the executable's name, or of its whole path where they hold a slash; of a
    multi-call binary such as busybox, the applet's name counts as well. ``clock``: the session's ``fixed`` one, or
    the ``real`` one, or the session's for ``all`` clocks, the monotonic ones too: for programs that wait for nothing,
    and make names of them. ``reads``: file times later than the epoch are ``shown`` as the epoch, or ``true``.
    ``writes``: explicit file times inside the shown window become the real ``now``, or are ``kept``.
    ``argument`` is a regular expression that is searched in the arguments, one a line: ``^-t$`` is an argument,
    ``\\A`` the first one's start. ``script`` are patterns of the script, or of the module behind python's -m, that
    an interpreter runs; the arguments are then the script's. ``random``: where the policy fixes random numbers, this
    program's are ``fixed``, or ``real`` because it makes keys. ``opens``: where the policy has outside files, ``all``
    that it opens is looked at, or ``most``, without what it opens with O_NOCTTY alone, as compilers do with headers.
    ``pid``: where the policy has the rule pid, its own process number is ``fixed``, or the ``real`` one.
    """

    names: tuple[str, ...]
    clock: str
    reads: str
    writes: str
    reason: str
    argument: str = ""
    script: tuple[str, ...] = ()
    random: str = "fixed"
    opens: str = "all"
    pid: str = "real"

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data, without what is empty, and without what few rows say where it is as usual."""
        values = self._asdict().items()
        return {
            key: list(value) if key in _LISTS else value for key, value in values if value and value != _USUAL.get(key)
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Program:
        """A row from plain data. What is left out is as in the rule for programs that have none.

        A list of one may be written as its string. Raises PolicyError for a key or a value that is not known.
        """
        if not isinstance(row, Mapping):
            raise PolicyError(f"a rule is a mapping of keys to values, not {row!r}", remedy=f"known keys: {_keys()}")
        unknown = [str(key) for key in row if key not in _KEYS]
        if unknown:
            raise PolicyError(f"a rule has no key {unknown[0]!r}", remedy=f"known keys: {_keys()}")
        values: dict[str, Any] = {"clock": "fixed", "reads": "shown", "writes": "now", "reason": _USERS}
        values |= {key: _checked(key, value) for key, value in row.items()}
        if not values.get("names"):
            raise PolicyError("a rule names no program", remedy="give it names, such as names: [mkversion]")
        return cls(**values)


_KEYS = Program._fields


def _keys() -> str:
    return ", ".join(_KEYS)


def _checked(key: str, value: object) -> str | tuple[str, ...]:
    if key in _CHOICES and value not in _CHOICES[key]:
        # YAML reads a bare true as a truth value, and that is how everybody will write it.
        if key == "reads" and value is True:
            return "true"
        raise PolicyError(f"a rule's {key} cannot be {value!r}", remedy=f"known values: {', '.join(_CHOICES[key])}")
    if key in _LISTS:
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) and item for item in items):
            raise PolicyError(f"a rule's {key} are names, not {value!r}", remedy=f"write {key}: [one, another]")
        return tuple(items)
    if not isinstance(value, str):
        raise PolicyError(f"a rule's {key} is a text, not {value!r}", remedy="put it in quotes")
    if key == "argument":
        try:
            re.compile(value)
        except re.error as error:
            raise PolicyError(f"a rule's argument {value!r} is no regular expression: {error}") from None
    return value


class _Row:
    """A rule ready to be matched. Its patterns are compiled when first asked for: most never are."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def argument(self) -> re.Pattern[str] | None:
        return re.compile(self.program.argument, re.MULTILINE) if self.program.argument else None

    @cached_property
    def script(self) -> Callable[[str], object] | None:
        return _patterns(self.program.script) if self.program.script else None

    def matches(self, given: command.Command) -> bool:
        arguments = given.arguments
        if self.script:
            script, arguments = given.script()
            if not any(self.script(name) for name in (script, *command.spellings(script))):
                return False
        return not self.argument or bool(self.argument.search("\n".join(arguments)))


def _patterns(patterns: Iterable[str]) -> Callable[[str], object]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


class _Pattern:
    """A pattern of names, compiled when a name holds its longest literal part: of a build's names few do.

    To compile them all takes a quarter of the time in which a session starts.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._part = max(re.split(r"\[.*?\]|[*?]", text), key=len)

    @cached_property
    def _whole(self) -> Callable[[str], object]:
        return _patterns([self._text])

    def matches(self, name: str) -> bool:
        return self._part in name and self._whole(name) is not None


class Table:
    """Rows in order; the first that matches a program decides.

    What an executable's name decides is looked up once a path. Arguments are asked for only where they can matter.
    """

    _REMEMBERED = 4096

    def __init__(self, rows: Sequence[Program], default: Program) -> None:
        self.rows, self.default = tuple(rows), default
        self._rows = [_Row(program) for program in self.rows]
        self._exact: dict[str, list[int]] = {}
        self._patterns: list[tuple[int, _Pattern]] = []
        for index, program in enumerate(self.rows):
            for name in program.names:
                if re.search(r"[*?[/]", name):
                    self._patterns.append((index, _Pattern(name)))
                else:
                    self._exact.setdefault(name, []).append(index)
        self._known: dict[str, frozenset[int]] = {}
        self._decided: dict[str, Program] = {}  # of programs whose arguments do not matter

    def decide(self, executable: str, argv_reader: Callable[[], Sequence[str]]) -> Program:
        """The rule of a program: its executable's path, and a function that tells its argv when it is needed."""
        decided = self._decided.get(executable)
        if decided:
            return decided
        candidates = self._candidates(executable)
        name = command.base(executable)
        given: command.Command | None = None
        if command.is_launcher(name):
            given = command.applet(name, argv_reader())
            own = frozenset() if command.is_loader(name) else candidates
            candidates = own | self._candidates(given.name)
        for index in sorted(candidates):
            row = self._rows[index]
            if row.argument or row.script:
                given = given or command.Command(name, tuple(argv_reader())[1:])
                if not row.matches(given):
                    continue
            return row.program if given else self._remember(executable, row.program)
        return self.default if given else self._remember(executable, self.default)

    def _remember(self, executable: str, program: Program) -> Program:
        if len(self._decided) >= self._REMEMBERED:
            self._decided.clear()
        self._decided[executable] = program
        return program

    def _candidates(self, executable: str) -> frozenset[int]:
        found = self._known.get(executable)
        if found is None:
            found = self._look_up(executable)
            if len(self._known) >= self._REMEMBERED:
                self._known.clear()
            self._known[executable] = found
        return found

    def _look_up(self, executable: str) -> frozenset[int]:
        spellings = (os.path.normpath(executable), command.base(executable))
        found = set(self._exact.get(spellings[1], ()))
        found |= {index for index, pattern in self._patterns if any(map(pattern.matches, spellings))}
        return frozenset(found)
