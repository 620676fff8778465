"""What keeps the BPF programs from being loaded is said as what it is."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable

import pytest

from detbuild.daemon import loader
from detbuild.daemon.loader import Loader
from detbuild.linux.btf import Btf

NOTHING = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 1) + bytes(1)  # a kernel that describes no type at all
WANTED = {"place": "/nonexistent", "generation": "0", "sizes": (64, 1), "fexit": True}


@pytest.mark.parametrize(
    ("step", "lacking"),
    [
        (lambda each: each._attach("exit____x64_sys_statx", b"", b""), "there is no function __x64_sys_statx"),
        (lambda each: loader.defines(each._btf, each._sizes, fexit=True), "'task_struct'"),
    ],
    ids=["function", "struct"],
)
def test_a_kernel_that_lacks_something_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: Callable[[Loader], object],
    lacking: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["loader", json.dumps(WANTED)])
    monkeypatch.setattr(Btf, "of_kernel", lambda: Btf(NOTHING))
    monkeypatch.setattr(Loader, "run", step)
    with pytest.raises(SystemExit):
        loader.main()
    said = json.loads(capsys.readouterr().out)
    assert said["refused"] == f"this kernel lacks what the BPF programs need ({lacking})"
