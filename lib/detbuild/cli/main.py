# SPDX-License-Identifier: MIT
"""The entrance: finds the subcommand's module by its name, and is the only place that turns errors into exits."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import detbuild
from detbuild import cli
from detbuild.errors import DetbuildError

TROUBLE = 2


class Parser(argparse.ArgumentParser):
    """Exits as its subcommand's module does in trouble, also for a call that cannot be understood."""

    trouble = TROUBLE

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.trouble, f"{self.prog}: {message}\n")


def names() -> list[str]:
    """The subcommands: every module beside this one."""
    return sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "main")


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{cli.__name__}.{name}")


def main(argv: Sequence[str] | None = None, prog: str = "detbuild") -> int:
    """Run one subcommand. Only the module that was asked for is imported: `detbuild run` must start fast."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog=prog, description=(detbuild.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"detbuild {detbuild.__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    wanted = arguments[:1] if arguments and arguments[0] in names() else names()
    for name in wanted:
        module = load(name)
        summary = module.HELP.partition("\n")[0]
        subparser = subparsers.add_parser(
            name, help=summary, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        subparser.trouble = trouble(module)
        module.add_arguments(subparser)
    args = parser.parse_args(arguments)
    return execute(load(args.subcommand), args)


def trouble(module: ModuleType) -> int:
    return int(getattr(module, "TROUBLE", TROUBLE))


def execute(module: ModuleType, args: argparse.Namespace) -> int:
    try:
        return int(module.run(args))
    except DetbuildError as error:
        print(f"detbuild: {error}", file=sys.stderr)
        return trouble(module)
    except BrokenPipeError:
        # The reader went away (`detbuild ... | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception:
        # Python's own status is 1, by which a comparison says that something differs.
        import traceback

        traceback.print_exc()
        print("detbuild: this is a defect of detbuild: report it, with the lines above", file=sys.stderr)
        return trouble(module)


def compare_main() -> int:
    """``detbuild-compare A B`` is ``detbuild compare A B``."""
    module = load("compare")
    parser = Parser(
        prog="detbuild-compare", description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return execute(module, parser.parse_args())
