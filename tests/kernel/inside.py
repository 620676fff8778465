"""Runs inside the virtual machine: SHARE REPOSITORY INPUTS MODE SECONDS [PART OF A NAME...].

Starts the real daemon, makes the checks, and writes their results as they come. SECONDS is the time of the machine:
a claim that takes too long for it is made only if it is named.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PLACE = Path("/run/detbuild-tests")
EPOCH = 1_300_000_000
BECOME = {"root": [], "nobody": ["setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=detbuild", "--"]}
CHUNK = 45  # cases in one session: a table's driver has limited time


class TooLong(Exception):
    pass


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise TooLong("it took too long")


def settle(repository: Path, inputs: Path) -> None:
    """Copies that every user may read and some tests write beside, and the first directories of imports."""
    PLACE.mkdir(mode=0o755)
    for name in ("lib", "examples", "tests", "classes", "conf"):
        shutil.copytree(repository / name, PLACE / name, symlinks=True)
    shutil.copytree(inputs / "programs", PLACE / "programs")
    shutil.copytree(inputs / "sources", PLACE / ".cache/sources")
    subprocess.run(["chmod", "-R", "a+rX", PLACE], check=True)
    for path in ("tests/kernel", "tests/engine", "tests/builds", "tests", "examples", "lib"):
        sys.path.insert(0, str(PLACE / path))
    os.environ["PYTHONPATH"] = str(PLACE / "lib")
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""
    subprocess.run(["groupadd", "-f", "detbuild"], check=True)


def tables(record: Callable[[str, str, float], None], users: list[str], *, strict: bool) -> None:
    """The shared table of clock cases, a user each, and root's strict one, all at once; results as they come."""
    drivers = {f"as {user}: ": [*BECOME[user], sys.executable, str(PLACE / "tests/kernel/table.py")] for user in users}
    if strict:
        drivers[""] = [sys.executable, str(PLACE / "tests/kernel/strict_table.py")]
    lock = threading.Lock()

    def follow(prefix: str, driver: list[str]) -> None:
        start = time.monotonic()
        command = [*driver, str(PLACE / "programs"), str(CHUNK)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
            assert process.stdout
            for line in process.stdout:
                row = json.loads(line)
                with lock:
                    record(prefix + row["name"], row["problem"], time.monotonic() - start)
                start = time.monotonic()

    threads = [threading.Thread(target=follow, args=each) for each in drivers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    share, repository, inputs = map(Path, sys.argv[1:4])
    mode, seconds, wanted = sys.argv[4], float(sys.argv[5]), sys.argv[6:]
    settle(repository, inputs)
    import claims
    import table
    from hand import State
    from machine import Record

    from daemon import Daemon

    record = Record(share)
    signal.signal(signal.SIGALRM, _alarm)
    start = time.monotonic()
    daemon = Daemon(share / "daemon.log")
    record("the daemon starts", daemon.start(), time.monotonic() - start)
    state = State(inputs, daemon)
    users = [user for user in claims.USERS[mode] if not wanted or f"table of {user}" in wanted]
    strict = mode == claims.MODES[0] and (not wanted or "strict table" in wanted)
    tables(record, users, strict=strict)
    for claim in claims.under(mode):
        name = claims.name(claim)
        if not any(word in name for word in wanted) if wanted else claims.too_long(claim, seconds):
            continue
        start, problem = time.monotonic(), ""
        signal.alarm(claims.LIMITS.get(claim, claims.LIMIT))
        try:
            claim(state)
        except table.Lacking as lack:
            problem = f"{table.LACKS}{lack}"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} (line {where.lineno} of {Path(where.filename).name})"
        signal.alarm(0)
        record(name, problem, time.monotonic() - start)
    start = time.monotonic()
    record("the daemon stops", daemon.stop(), time.monotonic() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
