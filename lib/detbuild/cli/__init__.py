# SPDX-License-Identifier: MIT
"""One file a subcommand. Each has HELP, ``add_arguments(parser)`` and ``run(args) -> exit code``.

A module may set TROUBLE, the exit code for a DetbuildError (2 where it does not).
"""
