# SPDX-License-Identifier: MIT
"""``detbuild epoch DIR``: the moment at which a build of this source is said to happen."""

from __future__ import annotations

import argparse
import json
import os
import sys

from detbuild.epoch import FALLBACK, ORDER, Epoch, Sources, parse, resolve
from detbuild.errors import EpochError
from detbuild.paths import printable

HELP = """print the epoch of a source directory: its SOURCE_DATE_EPOCH, in seconds since 1970

The sources are asked in this order, and the first that gives a time wins:
  file      __source-date-epoch.txt in DIR
  git       the newest commit of the repositories at DIR and below; not of one that merely encloses DIR
  known     the newest of NEWS, ChangeLog, CHANGES and their usual spellings in DIR
  youngest  the youngest regular file below DIR
  fallback  the moment given by --fallback

Warnings go to standard error. Exit code 2: DIR is no directory, or no source gave a time."""

SENTENCES = {
    "file": "the file {} states it",
    "git": "it is the newest commit date: {}",
    "known": "it is the date of {}, the newest of the files that tell what changed",
    "youngest": "it is the date of the youngest file, {}",
    "fallback": "no other source gave a time, and {} says so",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the top of the source")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--explain", action="store_true", help="say why in a sentence")
    form.add_argument("--json", action="store_true", help='print {"epoch": ..., "origin": ..., "evidence": ...}')
    parser.add_argument(
        "--sources",
        metavar="A,B,...",
        default=",".join(ORDER),
        help="the sources to ask, in this order (default: %(default)s)",
    )
    parser.add_argument(
        "--fallback",
        metavar="SECONDS",
        type=_seconds,
        default=FALLBACK,
        help="the epoch where nothing else gives one (default: OE-Core's, %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    if not os.path.isdir(args.directory):
        raise EpochError(f"{printable(args.directory)} is not a directory", remedy="name the top of the source")
    order = [name.strip() for name in args.sources.split(",") if name.strip()]
    found = resolve(Sources(top=args.directory, fallback=args.fallback), order)
    for warning in found.warnings:
        print(f"detbuild: warning: {warning}", file=sys.stderr)
    print(_answer(found, args))
    return 0


def _seconds(text: str) -> int:
    try:
        return parse(text, "--fallback")
    except EpochError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _answer(found: Epoch, args: argparse.Namespace) -> str:
    if args.json:
        return json.dumps({"epoch": found.value, "origin": found.origin, "evidence": found.evidence})
    if args.explain:
        return f"The epoch is {found.value}: {SENTENCES[found.origin].format(found.evidence)}."
    return str(found.value)
