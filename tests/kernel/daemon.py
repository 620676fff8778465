"""The real daemon, inside the virtual machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from detbuild.engine import detbuildd

PINS = Path("/sys/fs/bpf/detbuild")
_STARTS = 600.0  # seconds, of which an emulated compiler takes most


class Daemon:
    """Started and ended by hand; its log goes to ``log``."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """ "" once it serves, or why not."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/bin/python3", "-m", "detbuild.daemon", "--foreground"], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
        end = time.monotonic() + _STARTS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return f"it ended with {self.process.returncode}: {self.text()[-800:]}"
            with socket.socket(socket.AF_UNIX) as peer:
                try:
                    peer.connect(detbuildd.SOCKET)
                    return ""
                except OSError:
                    time.sleep(0.1)
        return f"it did not serve within {_STARTS:g} seconds: {self.text()[-800:]}"

    def kill(self) -> None:
        """As the kernel does it for want of memory."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        """SIGTERM; "" after a clean end that leaves no pins, or what was wrong."""
        if self.process is None or self.process.poll() is not None:
            return "it did not run any more"
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        left = sorted(path.name for path in PINS.iterdir()) if PINS.is_dir() else []
        return "" if (code, left) == (0, []) else f"it ended with {code}, and left {left}"

    @property
    def resident(self) -> int:
        """Bytes."""
        assert self.process
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def text(self) -> str:
        return self.log.read_text(errors="replace")
