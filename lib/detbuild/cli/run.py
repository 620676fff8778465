# SPDX-License-Identifier: MIT
"""``detbuild run``: any command in a session."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from detbuild import rulefile
from detbuild.audit import Audit
from detbuild.engine import select
from detbuild.engine.base import Terms
from detbuild.errors import DetbuildError
from detbuild.foreground import Foreground, end_as

HELP = """Run a command that sees the epoch as its time.

Exits as the command does. 125: detbuild itself failed; 126: the command cannot be executed; 127: it was not
found. Its wall clock starts at the epoch; monotonic, boot and CPU clocks stay real.
An ignored SIGPIPE or SIGXFSZ is at its default again: Python does not say how it found them.

  detbuild run --epoch 1300000000 -- make
  detbuild run --policy observe --audit - -- sh build.sh    # changes nothing, and says who read what
"""

TROUBLE = 125


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--epoch",
        type=int,
        metavar="SECONDS",
        help="seconds since 1970-01-01 UTC (default: SOURCE_DATE_EPOCH, or else what `detbuild epoch .` says)",
    )
    parser.add_argument(
        "--policy",
        default="time",
        help="what the session fixes: time, strict or observe, with rules added or removed, as in 'strict -random'"
        " (default: %(default)s)",
    )
    parser.add_argument("--seed", default="", help="another text, other random numbers, where the policy fixes them")
    parser.add_argument(
        "--engine", default=select.AUTO, help=f"one of {', '.join(select.NAMES)} (default: %(default)s)"
    )
    parser.add_argument("--rules", metavar="FILE", help="rows of your own for the programs' table, as YAML or JSON")
    parser.add_argument("--audit", metavar="FILE", help="write the record as JSON; - writes it to stderr as text")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")


def run(args: argparse.Namespace) -> int:
    rows = rulefile.load(args.rules) if args.rules else ()
    try:
        terms = Terms(_epoch(args.epoch), args.policy, rules=tuple(row.to_dict() for row in rows), seed=args.seed)
    except ValueError as error:
        raise DetbuildError(str(error), remedy="give whole seconds since 1970") from error
    if args.audit not in (None, "-"):
        _write(args.audit, "")  # what cannot be written is known before the build, not after it
    try:
        select.choose(args.engine, terms.policy)
        status, audit = Foreground(terms, args.engine).run(args.command)
    except DetbuildError:
        _take_back(args.audit)
        raise
    except OSError as error:
        _take_back(args.audit)
        print(f"detbuild: cannot execute {args.command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    _report(audit, args.audit)
    return end_as(status)


def _epoch(given: int | None) -> int:
    if given is not None:
        return given
    from detbuild import epoch  # late: it may look at every file of the sources

    stated = os.environ.get("SOURCE_DATE_EPOCH")
    return epoch.parse(stated, "SOURCE_DATE_EPOCH") if stated else epoch.resolve(epoch.Sources(top=".")).value


def _report(audit: Audit, file: str | None) -> None:
    if file and file != "-":
        _write(file, audit.to_json())
    if not sys.stderr:
        return  # the command ran with a closed one too
    if file == "-":
        sys.stderr.write(audit.to_text())
    else:
        for gap, count in sorted(audit.gaps.items()):
            print(f"detbuild: gap: {gap.kind}: {gap.detail} ({count} times)", file=sys.stderr)
        for note in audit.outlived():
            print(f"detbuild: note: {note}", file=sys.stderr)
    sys.stderr.flush()


def _take_back(file: str | None) -> None:
    """No record is better than an empty one."""
    if file and os.path.isfile(file):
        with contextlib.suppress(OSError):
            os.unlink(os.path.realpath(file))


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise DetbuildError(f"cannot write the audit {path}: {error.strerror}", remedy="name another file") from error
