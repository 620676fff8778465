# SPDX-License-Identifier: MIT
"""``detbuild doctor``: show what detbuild.doctor found."""

from __future__ import annotations

import argparse
import json

from detbuild import doctor

HELP = """Say what this machine can do, and which engine a session gets.

Exit code 0 if some engine works here, 1 if none does."""

MARKS = {True: "ok", False: "no", None: "--"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=f"print JSON (format {doctor.FORMAT}) instead of text")


def run(args: argparse.Namespace) -> int:
    report = doctor.examine()
    print(json.dumps(report.to_dict(), indent=2) if args.json else text(report))
    return 0 if report.engine else 1


def text(report: doctor.Report) -> str:
    """One line a finding, then one or more an engine, then what `auto` takes."""
    lines = []
    for finding in report.findings:
        note = f"  ({finding.note})" if finding.note else ""
        lines.append(f"{MARKS[finding.good]}  {finding.name:<16} {finding.value}{note}")
    for engine in report.engines:
        lines.append(f"{MARKS[engine.usable]}  {'engine ' + engine.name:<16} {engine.reason or 'works'}")
        if engine.remedy:
            lines.append(f"    {'':<16} to get it: {engine.remedy}")
    lines.append(f"auto takes {report.engine or 'nothing'}: {report.why}")
    return "\n".join(lines)
