# SPDX-License-Identifier: MIT
"""The daemon's log: one line an event, on standard error or in the system's log."""

from __future__ import annotations

import os
import re
import sys
import syslog
import time
from collections.abc import Callable

Log = Callable[[str], None]


def to_stderr(text: str) -> None:
    # The journal has its own clock; systemd.exec(5) says that it names itself by this variable.
    stamp = "" if "JOURNAL_STREAM" in os.environ else time.strftime("%Y-%m-%d %H:%M:%S ")
    print(f"{stamp}{one_line(text)}", file=sys.stderr, flush=True)


def to_syslog(text: str) -> None:
    """syslog(3), for a daemon that has no terminal any more."""
    syslog.syslog(syslog.LOG_INFO | syslog.LOG_DAEMON, one_line(text))


def one_line(text: str) -> str:
    """What a peer chose, a program's name for instance, can neither make a second line nor move a terminal's cursor."""
    return re.sub(r"[^\x20-\x7e]", lambda character: ascii(character[0])[1:-1], text)
