"""The HTML report in a real browser: what it shows, that it filters, and that thousands of findings do not stop it."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts
from detbuild.compare.model import Comparison, Entry, Finding, Kind
from detbuild.compare.roots import gathered
from detbuild.report import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
FILE = Entry("f", stat.S_IFREG | 0o644, 100, (1, 1))
VALUES = (("2026-11-21", "2026-11-22"), ("/build-a/x/y.c", "/build-b/x/y.c"), ("apple", "pear"))


def report(directory: Path, count: int) -> Path:
    result = Comparison(Path("/builds/a"), Path("/builds/b"), same=9, total=count + 9)
    for number in range(count):
        a, b = VALUES[number % 3]
        causes = gather([Change(("data.tar.xz", f"./usr/bin/tool{number}"), "text", a, b)], Facts())
        name = f"all/package{number}_1.0_all.{'deb' if number % 2 else 'ipk'}"
        found = Finding(name, Kind.DIFFERENT, FILE, FILE, f"package{number}", f"recipe{number % 50}", causes=causes)
        result.findings.append(found)
    result.roots = gathered(result.findings)
    html.prepare(directory)
    return html.write(result, directory)


def browser(*options: str, page: Path, seconds: float = 60) -> str:
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(page: Path, script: str) -> str:
    """What a script put into the page's title after the page's own had run; the policy is lifted for the probe."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = page.with_name("probe.html")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    shown = browser("--dump-dom", page=copy)
    found = re.search(r"<title>(.*?)</title>", shown)
    assert found
    return found[1]


def test_the_pages_own_script_runs_under_its_policy_and_offers_the_filters(tmp_path: Path) -> None:
    shown = browser("--dump-dom", page=report(tmp_path / "report", 12))
    assert '<form id="filter">' in shown, "the script takes `hidden` away"
    assert '<span class="soft" id="shown">12 of 12</span>' in shown


def test_filters_leave_what_they_name(tmp_path: Path) -> None:
    page = report(tmp_path / "report", 12)
    script = """
        const set = (name, value) => {
          const control = document.querySelector(`#filter [name=${name}]`);
          control.value = value;
          control.dispatchEvent(new Event("input"));
        };
        const left = () => [...document.querySelectorAll(".finding:not([hidden])")].length;
        set("cause", "build-path");
        setTimeout(() => {
          const first = left();
          set("format", "deb");
          const count = document.getElementById("shown");
          setTimeout(() => { document.title = `${first} ${left()} ${count.textContent}`; }, 300);
        }, 300);
    """
    assert probe(page, script) == "4 2 2 of 12"


def test_a_difference_is_folded_and_opens_on_demand(tmp_path: Path) -> None:
    page = report(tmp_path / "report", 3)
    script = """
        const first = document.querySelector(".finding");
        const shown = () => first.querySelector(".why").checkVisibility();
        const folded = !shown();
        first.open = true;
        document.title = folded && shown() ? "opened" : "not";
    """
    assert probe(page, script) == "opened"


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    page = report(tmp_path / "report", 6)
    script = """
        document.querySelectorAll("details").forEach((one) => { one.open = true; });
        document.title = document.documentElement.scrollWidth <= window.innerWidth ? "fits" : "wider";
    """
    text = page.read_text().replace("</body>", f"<script>{script}</script></body>")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    frame = page.with_name("frame.html")
    page.with_name("inner.html").write_text(
        text.replace("document.title =", "parent.postMessage(").replace('"wider";', '"wider", "*");')
    )
    frame.write_text(
        f'<!DOCTYPE html><title>none</title><iframe src="inner.html" style="width:{width}px;height:800px"></iframe>'
        '<script>addEventListener("message", (event) => { document.title = event.data; });</script>'
    )
    shown = browser("--dump-dom", "--allow-file-access-from-files", page=frame)
    assert "<title>fits</title>" in shown


@pytest.mark.parametrize("scheme", ["0", "1"])
def test_both_colour_schemes_are_drawn(tmp_path: Path, scheme: str) -> None:
    page = report(tmp_path / "report", 3)
    target = tmp_path / "shot.png"
    browser(
        f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={target}", "--window-size=800,600", page=page
    )
    assert target.read_bytes().startswith(b"\x89PNG")
    assert target.stat().st_size > 5000


def test_four_thousand_findings_are_shown_and_filtered_in_seconds(tmp_path: Path) -> None:
    page = report(tmp_path / "report", 4000)
    script = """
        const control = document.querySelector("#filter [name=search]");
        const start = performance.now();
        control.value = "package39";
        control.dispatchEvent(new Event("input"));
        setTimeout(() => {
          const left = document.querySelectorAll(".finding:not([hidden])").length;
          document.title = `${left}`;
        }, 500);
    """
    started = time.monotonic()
    assert probe(page, script) == "111"
    assert time.monotonic() - started < 30
