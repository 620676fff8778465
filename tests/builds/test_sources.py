"""Upstream sources come through apt, verified, and leave no trace on the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import sources

DEBIAN_12 = """\
Types: deb
# a comment between the fields
URIs: http://archive.invalid/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb deb-src
URIs: http://archive.invalid/security
Suites: bookworm-security
Components: main
"""

UBUNTU_22_04 = """\
# See the release notes.
deb http://archive.invalid/ubuntu jammy main restricted
# deb-src http://archive.invalid/ubuntu jammy main restricted
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://archive.invalid/ubuntu jammy universe
deb cdrom:[Ubuntu]/ jammy main
deb-src http://archive.invalid/ubuntu jammy main restricted
"""


def test_every_stanza_becomes_a_source_entry() -> None:
    assert sources.source_stanzas(DEBIAN_12) == (
        "Types: deb-src\nURIs: http://archive.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb-src\nURIs: http://archive.invalid/security\nSuites: bookworm-security\nComponents: main\n\n"
    )


def test_every_line_becomes_a_source_entry_once_and_comments_and_discs_do_not() -> None:
    assert sources.source_entries(UBUNTU_22_04).splitlines() == [
        "deb-src http://archive.invalid/ubuntu jammy main restricted",
        "deb-src [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://archive.invalid/ubuntu jammy universe",
    ]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive on disk with one source package "tiny", and a configuration that names it."""
    archive, tree = tmp_path / "archive", tmp_path / "tiny-1.0"
    (tree / "debian").mkdir(parents=True)
    (tree / "hello.c").write_text("int main(void) { return 0; }\n")
    archive.mkdir()
    excluding = ["tar", "-C", str(tmp_path), "--exclude=debian", "--mtime=@1300000000", "-czf"]
    subprocess.run([*excluding, str(archive / "tiny_1.0.orig.tar.gz"), "tiny-1.0"], check=True)
    (tree / "debian/control").write_text(
        "Source: tiny\nMaintainer: Nobody <nobody@example.com>\n\nPackage: tiny\nArchitecture: any\nDescription: test\n"
    )
    author = "Nobody <nobody@example.com>  Sat, 01 Jan 2011 00:00:00 +0000"
    (tree / "debian/changelog").write_text(f"tiny (1.0-1) unstable; urgency=low\n\n  * x\n\n -- {author}\n")
    (tree / "debian/source").mkdir()
    (tree / "debian/source/format").write_text("3.0 (quilt)\n")
    subprocess.run(["dpkg-source", "-b", str(tree)], cwd=archive, check=True, capture_output=True)
    index = subprocess.run(["dpkg-scansources", "."], cwd=archive, check=True, capture_output=True).stdout
    (archive / "Sources").write_bytes(index)
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt/sources.list").write_text(f"deb [trusted=yes] file:{archive} ./\n")
    monkeypatch.setattr(sources, "CONFIGURED", tmp_path / "apt")
    monkeypatch.setattr(sources, "CACHE", tmp_path / "cache")
    return archive


def test_a_tarball_is_downloaded_once_and_unpacked_with_its_times(repository: Path, tmp_path: Path) -> None:
    tree = sources.unpack("tiny", tmp_path / "tree")
    assert (tree / "hello.c").stat().st_mtime == 1_300_000_000
    assert not (tree / "debian").exists()
    (repository / "tiny_1.0.orig.tar.gz").unlink()
    assert sources.archive("tiny").is_relative_to(tmp_path / "cache")


def test_the_distribution_s_own_changes_are_not_asked_for(repository: Path) -> None:
    (repository / "tiny_1.0-1.debian.tar.xz").unlink()
    assert [path.name for path in sources.archive("tiny").parent.iterdir()] == ["tiny_1.0.orig.tar.gz"]


def test_a_tarball_that_was_changed_on_its_way_is_refused(repository: Path) -> None:
    tarball = repository / "tiny_1.0.orig.tar.gz"
    tarball.write_bytes(tarball.read_bytes()[:-1] + b"x")
    with pytest.raises(sources.Unavailable, match=r"tiny: .*[Hh]ash"):
        sources.archive("tiny")
    assert not (sources.CACHE / "tiny").exists()


def test_an_archive_out_of_reach_is_a_reason(repository: Path) -> None:
    repository.rename(repository.with_name("elsewhere"))
    with pytest.raises(sources.Unavailable, match="cannot download the source of tiny"):
        sources.archive("tiny")


def test_a_machine_without_apt_is_a_reason(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(sources.Unavailable, match="no apt-get"):
        sources.archive("tiny")
