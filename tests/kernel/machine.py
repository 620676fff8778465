"""A virtual machine with a real kernel under this machine's own root file system, for one run of ``inside.py``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk import Disk

REPOSITORY = Path(__file__).resolve().parents[2]
# Of each machine, more than twice what two processors of their own need for both. What is not done by then has failed:
# it hangs, or this host wants another limit, by ``DETBUILD_VM_SECONDS``.
SECONDS = float(os.environ.get("DETBUILD_VM_SECONDS", "1500"))
# All that the emulator knows but what costs it a fifth of its time: vectors, and page tables of five levels.
PROCESSOR = "max,-avx,-avx2,-xsave,-pku,-la57"

_RESULTS = "results.jsonl"


class Unavailable(Exception):
    """Why there is no virtual machine here; a test's reason to skip."""


@dataclass
class Outcome:
    """``problems`` has each check's name and what was wrong with it, "" if nothing; ``seconds`` how long it took.

    ``ended`` says how the machine ended where it did not come to its end, with the last of its console.
    """

    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ended: str = ""

    def problem(self, name: str) -> str:
        return self.problems.get(name, f"it did not run: {self.ended or 'no such check inside'}")


def kernel() -> Path:
    """The newest installed kernel with its modules. Raises Unavailable."""
    found = [
        path
        for path in Path("/boot").glob("vmlinuz-*")
        if Path("/lib/modules", path.name.partition("-")[2], "modules.dep").exists()
    ]
    if not found:
        raise Unavailable("no kernel with modules in /boot: apt-get install linux-image-amd64")
    return max(found, key=lambda path: [int(word) for word in path.name.replace("-", ".").split(".") if word.isdigit()])


def starter() -> Path:
    """virtme-ng's vng. Raises Unavailable."""
    beside = Path(sys.executable).with_name("vng")
    found = beside if beside.exists() else shutil.which("vng")
    if not found:
        raise Unavailable("virtme-ng is not installed: pip install virtme-ng")
    needed = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mksquashfs": "squashfs-tools"}
    for program, package in needed.items():
        if not shutil.which(program):
            raise Unavailable(f"{program} is not installed: apt-get install {package}")
    return Path(found)


def check() -> tuple[Path, Path]:
    """vng and the kernel. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("only root's virtual machine can read all of this machine's files")
    return starter(), kernel()


def run(
    mode: str, share: Path, disk: Disk, job: str, *arguments: str, seconds: float = SECONDS, memory: str = "3G"
) -> Outcome:
    """Boot under ``preempt=mode`` and run a script of this directory there, as root, with ``share`` to write to.

    Its arguments are the share, the repository, the disk's inputs and ``arguments``. Raises Unavailable.
    """
    vng, image = check()
    words = [sys.executable, *map(str, (Path(__file__).with_name(job), share, REPOSITORY, disk.inputs)), *arguments]
    script = share / "job.sh"
    # virtme's own python is not ours, and its console would not take all of our output.
    job_lines = [f"exec > {share}/output 2>&1 < /dev/null", *disk.script(), f"exec {shlex.join(words)}"]
    script.write_text("\n".join(job_lines) + "\n")
    command = [str(vng), "--run", str(image), "--disable-kvm", "--cpus", "2", "--memory", memory, "--user", "root"]
    # The machine lays empty directories over /tmp and /var/tmp, where the clone may be.
    command += ["--force-9p", f"--rwdir={share}", f"--rodir={REPOSITORY}"]
    command += [f"--qemu-opts=-cpu {PROCESSOR} {disk.options()}"]
    command += ["--append", f"preempt={mode}", "--exec", f"sh {script}"]
    environment = {**os.environ, "PATH": f"{vng.parent}:{os.environ['PATH']}"}
    with (share / "console").open("wb") as console:
        machine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment,
            cwd=share, start_new_session=True,
        )  # fmt: skip
        try:
            code = machine.wait(seconds)
            ended = f"the machine ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"the machine's {seconds:g} seconds were over: DETBUILD_VM_SECONDS gives a slow host more"
        finally:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
                machine.wait()
    return _outcome(share, ended)


def _outcome(share: Path, ended: str) -> Outcome:
    outcome = Outcome(ended=ended)
    with (share / _RESULTS).open(errors="replace") if (share / _RESULTS).exists() else open(os.devnull) as lines:
        for line in lines:
            row = json.loads(line)
            outcome.problems[row["name"]] = row["problem"]
            outcome.seconds[row["name"]] = row["seconds"]
    if ended or not outcome.problems:
        for name in ("console", "output"):
            path = share / name
            outcome.ended += f"\n{name}: " + (path.read_text(errors="replace")[-2000:] if path.exists() else "none")
    return outcome


class Record:
    """Inside: where each check's result goes, at once, for a machine may die."""

    def __init__(self, share: Path) -> None:
        self._file = (share / _RESULTS).open("a")

    def __call__(self, name: str, problem: str, seconds: float = 0) -> None:
        row: dict[str, Any] = {"name": name, "problem": problem, "seconds": round(seconds, 2)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        print(f"{time.monotonic():8.1f} {name}: {problem or 'good'}", flush=True)
