# SPDX-License-Identifier: MIT
"""``detbuild policy``: show the rules, and which one a command line gets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import Any, NamedTuple

from detbuild import policy, programs, rulefile, strict, surroundings
from detbuild.policy import FileRule, Policy, Rule
from detbuild.program import Program

HELP = """Print what a session does at every system call and outside file, and what each program sees.

  detbuild policy --program tar -- -czf x.tar.gz dir     which row decides, and why
  detbuild policy --program python3 -- /usr/bin/meson setup build
"""

FORMAT = "detbuild-policy"
FORMAT_VERSION = 1

INTRODUCTION = """# The rules of policy `{name}`, version {version}

Made by `detbuild policy --markdown`. To add rows of your own: `detbuild run --rules FILE` or `DETBUILD_RULES`.
"""
ADDITIONS = """\
Policy `strict` holds these rules too, each in place of the rows above for the same calls. `strict -random` is strict
without one of them, `time +layout +order` is time with two; `observe` fixes nothing and reports what strict would."""
FILES = """\
What policy `strict` does where a program opens one of these to read it. The first row that matches decides; `*` is
anything, PID a number. Policy `time` passes them all, `observe` reports what strict fixes."""
SURROUNDINGS = """\
What a session's command is given before it asks for anything; fixed under the rule `identity`, real without it.
`detbuild run` and `Session` set it; for its tasks BitBake sets all but the user's names."""
APART = """\
Both engines hold the rows above alike, and so the record: the build path and malloc's own key are in it under both.
Instructions are no calls; and these rows are where the engines differ. [limits.md](limits.md) says more of each."""
PROGRAMS = """\
The first row that matches decides. Clock: the session's fixed one, or the real one. Reads: file times later than the
epoch are shown as the epoch, or true. Writes: explicit times inside the shown window become the real now, or are
kept. Random: where the policy fixes random numbers, this program's are fixed, or real because it makes keys or talks by
them. Opens: where the policy has outside files, all that it opens is looked at, or most: not what it opens with
O_NOCTTY alone, as compilers open headers, nearly all of what a build in C opens. Pid: where the policy has that rule,
what it is told of its own process number is fixed, or real. A condition is a regular expression
searched in the arguments, one a line."""


_SHOWN = ("Clock", "Reads", "Writes", "Random", "Opens", "Pid")


class Sheet(NamedTuple):
    """A table to print: its title, its columns' names and its rows."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="time", help="whose rules, as for `detbuild run` (default: %(default)s)")
    parser.add_argument("--rules", metavar="FILE", help="put your own rows first, as `detbuild run --rules` does")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the page docs/rules.md")
    form.add_argument("--json", action="store_true", help=f"print JSON (format {FORMAT})")
    parser.add_argument("--program", metavar="PROGRAM", help="say which row decides for this program")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="its arguments, after --")


def run(args: argparse.Namespace) -> int:
    rules, files = policy.table(args.policy), policy.files(args.policy)
    table = programs.table(rulefile.load(args.rules) if args.rules else ())
    if args.program:
        row = table.decide(args.program, lambda: [args.program, *args.arguments])
        print(json.dumps(document(args.policy, (), [row]), indent=2) if args.json else decision(row))
    elif args.json:
        print(json.dumps(document(args.policy, rules, [*table.rows, table.default], files), indent=2))
    elif args.markdown:
        print(markdown(str(Policy.parse(args.policy)), rules, [*table.rows, table.default]), end="")
    else:
        given = [_surroundings()] if Policy.parse(args.policy).fixes("identity") else []
        _show(str(Policy.parse(args.policy)), [*sheets(rules, [*table.rows, table.default]), _files(files), *given])
    return 0


def document(
    name: str, rules: Iterable[Rule], rows: Iterable[Program], files: Iterable[FileRule] = ()
) -> dict[str, Any]:
    """Everything as plain data; without ``rules``, the one row that decides."""
    calls = [
        {"call": rule.call, "treatment": rule.treatment.value, "reason": rule.reason}
        | {key: value for key in ("when", "kind", "limit") if (value := getattr(rule, key))}
        for rule in rules
    ]
    head = {"format": FORMAT, "version": FORMAT_VERSION, "policy": str(Policy.parse(name)), "rules": policy.VERSION}
    outside = [file._asdict() | {"treatment": file.treatment.value} for file in files]
    more = ({"calls": calls} if calls else {}) | ({"files": outside} if outside else {})
    return head | more | {"programs": [row.to_dict() for row in rows]}


def decision(row: Program) -> str:
    """A row as sentences of one line each."""
    lines = [
        f"row:     {' '.join(row.names)}",
        f"script:  {' '.join(row.script)}",
        f"if:      {row.argument}",
        f"clock:   {row.clock}",
        f"reads:   {row.reads}",
        f"writes:  {row.writes}",
        f"random:  {row.random}",
        f"opens:   {row.opens}",
        f"pid:     {row.pid}",
        f"because: {row.reason}",
    ]
    return "\n".join(line for line in lines if not line.endswith(" "))


def sheets(rules: Iterable[Rule], rows: Iterable[Program]) -> tuple[Sheet, Sheet, Sheet]:
    """System calls in groups of one reason, what they still let through, and the programs."""
    groups = [list(group) for _, group in groupby(rules, lambda rule: (rule.treatment, rule.reason, rule.when))]
    calls = [
        (
            group[0].treatment.value,
            " ".join(rule.call for rule in group),
            policy.CONDITIONS[group[0].when] if group[0].when else "",
            policy.KINDS[group[0].kind] if group[0].kind else "",
            group[0].reason,
        )
        for group in groups
    ]
    limits = [(_shortened(group), group[0].limit) for group in groups if group[0].limit]
    return (
        Sheet("System calls", ("Treatment", "Calls", "When", "The engine", "Reason"), calls),
        Sheet("What still comes through", ("Calls", "Limit"), limits),
        Sheet("Programs", ("Names", "Script", "Condition", *_SHOWN, "Reason"), _programs(rows)),
    )


def _shortened(group: Sequence[Rule]) -> str:
    return " ".join(rule.call for rule in group[:6]) + (" ..." if len(group) > 6 else "")


def _programs(rows: Iterable[Program]) -> list[tuple[str, ...]]:
    return [
        (
            " ".join(row.names),
            " ".join(row.script),
            row.argument,
            row.clock,
            row.reads,
            row.writes,
            row.random,
            row.opens,
            row.pid,
            row.reason,
        )
        for row in rows
    ]


def _additions() -> Sheet:
    """What each of the rules puts in place of policy time's rows."""
    groups = [
        (name, list(group))
        for name in policy.RULES
        for _, group in groupby(policy.added(name), lambda rule: (rule.treatment, rule.reason))
    ]
    rows = [
        (
            name,
            group[0].treatment.value,
            " ".join(rule.call for rule in group),
            policy.KINDS[group[0].kind] if group[0].kind else "",
            group[0].reason,
            group[0].limit,
        )
        for name, group in groups
    ]
    return Sheet("Rules beyond the clocks", ("Rule", "Treatment", "Calls", "The engine", "Reason", "Limit"), rows)


def _files(files: Iterable[FileRule]) -> Sheet:
    """Outside files in groups of one reason."""
    groups = [list(group) for _, group in groupby(files, lambda file: (file.rule, file.treatment, file.reason))]
    rows = [
        (
            group[0].rule,
            group[0].treatment.value,
            " ".join(file.path for file in group),
            group[0].reason,
            group[0].limit,
        )
        for group in groups
    ]
    return Sheet("Outside files", ("Rule", "Treatment", "Files", "Reason", "Limit"), rows)


def _surroundings() -> Sheet:
    rows = [(row.what, row.treatment.value, row.reason) for row in surroundings.TABLE]
    return Sheet("Surroundings", ("What", "Treatment", "Reason"), rows)


def _apart() -> Sheet:
    """What only one engine holds, or none."""
    return Sheet(
        "Instructions, and differences between the engines", ("What", "Tracer", "eBPF", "Reason"), strict.APART
    )


def markdown(name: str, rules: Iterable[Rule], rows: Iterable[Program]) -> str:
    """The page docs/rules.md."""
    calls, limits, programs_sheet = sheets(rules, rows)
    parts = [
        INTRODUCTION.format(name=name, version=policy.VERSION),
        _markdown(calls, code=(1,)),
        _markdown(limits, code=(0,)),
        _markdown(_additions(), code=(0, 2), text=ADDITIONS),
        _markdown(_files(policy.files("strict")), code=(0, 2), text=FILES),
        _markdown(_surroundings(), code=(), text=SURROUNDINGS),
        _markdown(_apart(), code=(), text=APART),
        _markdown(programs_sheet, code=(0, 1, 2), text=PROGRAMS),
    ]
    return "\n".join(parts)


def _markdown(sheet: Sheet, code: tuple[int, ...], text: str = "") -> str:
    lines = [f"## {sheet.title}", "", *([text, ""] if text else [])]
    lines += ["| " + " | ".join(sheet.columns) + " |", "|" + " --- |" * len(sheet.columns)]
    for row in sheet.rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append("| " + " | ".join(f"`{c}`" if c and i in code else c for i, c in enumerate(cells)) + " |")
    return "\n".join(lines) + "\n"


def _show(name: str, tables: Iterable[Sheet]) -> None:
    if not sys.stdout.isatty() or not find_spec("rich"):  # an image of OE-Core alone has none
        print(_plain(name, tables), end="")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for sheet in tables:
        table = Table(*sheet.columns, title=f"{sheet.title}, policy {name}", show_lines=True)
        for row in sheet.rows:
            table.add_row(*map(Text, row))  # a regular expression is no markup
        console.print(table)


def _plain(name: str, tables: Iterable[Sheet]) -> str:
    """One line a row, columns separated by tabs, for grep and awk."""
    lines = [f"policy {name}, version {policy.VERSION}"]
    for sheet in tables:
        lines += ["", f"{sheet.title}:", "\t".join(sheet.columns)]
        lines += ["\t".join(cell or "-" for cell in row) for row in sheet.rows]
    return "\n".join(lines) + "\n"
