"""Upstream sources of real programs, from the archive that this machine's apt is configured for.

Works as an ordinary user and changes nothing on the machine: apt gets lists, states and a cache of its own, in the
clone's ignored .cache/sources. What it downloads it verifies against the archive's signatures.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "sources"
CONFIGURED = Path("/etc/apt")
# What benchmarks build: a package, and how sh builds it in its tree.
BUILDS = {"hello": "./configure && make -j2", "lua5.4": "make -j2 linux"}

_SECONDS = 300  # for one apt-get command

# Hooks belong to the machine's own apt, and the user _apt may not enter the clone.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{top}/state";
Dir::State::status "{top}/status";
Dir::Cache "{top}/cache";
Dir::Etc::SourceList "{top}/none";
Dir::Etc::SourceParts "{top}/parts";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
"""


class Unavailable(Exception):
    """Why there are no sources here; a test's reason to skip."""


def source_entries(line_style: str) -> str:
    """A sources.list as its source packages: ``deb`` lines become ``deb-src``."""
    lines = re.findall(r"^\s*deb(?:-src)?(\s.*)$", line_style, re.MULTILINE)
    return "".join(f"deb-src{line}\n" for line in dict.fromkeys(lines) if "cdrom:" not in line)


def source_stanzas(deb822: str) -> str:
    """A .sources file as its source packages: every stanza gets the one type ``deb-src``."""
    stanzas = re.split(r"\n(?:[ \t]*\n)+", re.sub(r"^#.*\n?", "", deb822, flags=re.MULTILINE).strip())
    changed = [re.sub(r"(?im)^Types:.*$", "Types: deb-src", stanza) for stanza in stanzas]
    return "".join(f"{stanza}\n\n" for stanza in dict.fromkeys(changed) if stanza)


def archive(package: str) -> Path:
    """The upstream tarball of a source package, downloaded once. Raises Unavailable."""
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / package
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            incoming = CACHE / "incoming"
            shutil.rmtree(incoming, ignore_errors=True)  # of a download that was interrupted
            incoming.mkdir()
            _download(package, incoming)
            _original(incoming)
            incoming.rename(done)
    return _original(done)


def share(packages: Iterable[str], cache: Path) -> None:
    """Copy what was downloaded of some packages to another clone's ``CACHE``. Raises Unavailable."""
    for package in packages:
        (cache / package).mkdir(parents=True)
        shutil.copy(archive(package), cache / package)


def unpack(package: str, directory: Path) -> Path:
    """Unpack upstream's tarball, with its times, as the new ``directory``. Raises Unavailable."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        command = ["tar", "--extract", "--no-same-owner", "--directory", temporary, "--file", str(archive(package))]
        subprocess.run(command, check=True)
        [top] = Path(temporary).iterdir()
        top.rename(directory)
    return directory


def _original(directory: Path) -> Path:
    found = [path for path in directory.glob("*.orig.tar.*") if path.suffix in (".gz", ".bz2", ".xz")]
    if len(found) != 1:
        raise Unavailable(f"expected one upstream tarball in {directory}, found {len(found)}")
    return found[0]


def _download(package: str, target: Path) -> None:
    if not shutil.which("apt-get"):
        raise Unavailable("no apt-get here to download upstream sources with")
    top = CACHE / "apt"
    shutil.rmtree(top / "parts", ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (top / name).mkdir(parents=True, exist_ok=True)
    (top / "status").touch()
    (top / "apt.conf").write_text(_CONFIGURATION.format(top=top))
    if not _write_entries(top / "parts"):
        raise Unavailable(f"apt has no archive configured in {CONFIGURED}")
    _, complaints = _apt(["update"], target)  # one archive of many may be out of reach
    code, errors = _apt(["source", "--download-only", "--tar-only", "--only-source", package], target)
    if code:
        raise Unavailable(f"apt-get cannot download the source of {package}: {'; '.join(complaints + errors)}")


def _apt(command: list[str], directory: Path) -> tuple[int, list[str]]:
    """Run one apt-get command; its exit code, and its errors and warnings, a line each."""
    try:
        result = subprocess.run(
            ["apt-get", "-c", str(CACHE / "apt" / "apt.conf"), "-q", *command],
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"apt-get {command[0]} did not end within {_SECONDS} seconds") from None
    return result.returncode, [line for line in result.stderr.splitlines() if line.startswith(("E:", "W:"))]


def _write_entries(target: Path) -> set[str]:
    """Write the configured archives' source entries below ``target``; files that cannot be read are left out."""
    written: set[str] = set()
    for path in [CONFIGURED / "sources.list", *sorted(CONFIGURED.glob("sources.list.d/*"))]:
        if path.suffix not in (".list", ".sources") or not os.access(path, os.R_OK):
            continue
        text = path.read_text(errors="replace")
        entries = source_stanzas(text) if path.suffix == ".sources" else source_entries(text)
        if entries and entries not in written:
            (target / f"{len(written)}-{path.name}").write_text(entries)
            written.add(entries)
    return written
