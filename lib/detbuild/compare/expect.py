# SPDX-License-Identifier: MIT
"""Differences that are known: a YAML file says which, why, and until when. What no longer occurs is told.

::

    - artefact: "*/linux-*.deb"        # a glob of the path in the tree, or of its last name
      cause: embedded-signature        # optional: any cause where it is left out
      recipe: linux-yocto              # optional
      reason: modules are signed with a key of each build
      expires: 2027-06-30              # optional: the last day on which it is expected
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbuild.compare.model import Finding
from detbuild.errors import CompareError

if TYPE_CHECKING:
    import yaml

FIELDS = {"artefact", "cause", "recipe", "reason", "expires"}
REMEDY = "write a list of mappings with artefact, reason and, if you like, cause, recipe and expires"
VALUES = "write one text each, in quotes where it looks like a number, and a date such as 2027-06-30"


@dataclass
class Expectation:
    file: Path
    artefact: str
    reason: str
    cause: str = ""
    recipe: str = ""
    expires: date | None = None
    met: bool = False

    def takes(self, finding: Finding) -> bool:
        """Every cause of the finding that is not a consequence must be the expected one."""
        name = os.path.basename(finding.artefact)
        if not (fnmatchcase(finding.artefact, self.artefact) or fnmatchcase(name, self.artefact)):
            return False
        if self.recipe and finding.recipe != self.recipe:
            return False
        own = [cause.name for cause in finding.causes if not cause.follows] or [finding.cause or ""]
        return not self.cause or set(own) == {self.cause}

    def __str__(self) -> str:
        parts = [self.artefact, self.cause and f"cause {self.cause}", self.recipe and f"recipe {self.recipe}"]
        return ", ".join(filter(None, parts))


class Expectations:
    def __init__(self, expectations: Sequence[Expectation] = (), today: date | None = None) -> None:
        self._all = list(expectations)
        self._today = today or date.today()

    @classmethod
    def read(cls, files: Sequence[Path]) -> Expectations:
        """Raises CompareError for what is no list of expectations."""
        return cls([one for file in files for one in _read(file)])

    def reason(self, finding: Finding) -> str:
        """Why the finding is expected; nothing where it is not."""
        for one in self._all:
            if one.takes(finding):
                one.met = True
                if one.expires is None or one.expires >= self._today:
                    return one.reason
        return ""

    def stale(self) -> list[str]:
        """Expectations that did not occur, or that have expired, in words."""
        found = []
        for one in self._all:
            if one.expires is not None and one.expires < self._today:
                found.append(f"{one.file}: the expectation of {one} expired on {one.expires}")
            elif not one.met:
                found.append(f"{one.file}: {one} was expected and did not occur: take it out")
        return found


def _read(file: Path) -> list[Expectation]:
    import yaml

    from detbuild.compare.cause import modules

    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except (OSError, UnicodeDecodeError) as error:
        raise CompareError(f"cannot read {file}", cause=str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CompareError(f"{file} is no YAML", cause=str(error).replace("\n", " "), remedy=REMEDY) from error
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise CompareError(f"{file} is no list of expectations", remedy=REMEDY)
    causes = set(modules())
    return [_expectation(file, number, row, causes) for number, row in enumerate(_rows(file, loader, node), 1)]


def _rows(file: Path, loader: yaml.SafeLoader, node: yaml.SequenceNode) -> Iterator[Any]:
    """The entries one by one, so that a value that is none is told with its entry."""
    for number, item in enumerate(node.value, 1):
        try:
            yield loader.construct_document(item)
        except Exception as error:
            # What looks like a date or a number raises whatever date() and int() do, beside YAML's own errors.
            why = f"line {item.start_mark.line + 1}: {error}".replace("\n", " ")
            raise _refused(file, number, why, VALUES) from error


def _refused(file: Path, number: int, why: str, remedy: str = REMEDY) -> CompareError:
    return CompareError(f"{file}: expectation {number} cannot be understood", cause=why, remedy=remedy)


def _expectation(file: Path, number: int, row: Any, causes: set[str]) -> Expectation:
    def refuse(why: str, remedy: str = REMEDY) -> CompareError:
        return _refused(file, number, why, remedy)

    if not isinstance(row, dict):
        raise refuse("it is no mapping")
    if unknown := set(map(str, row)) - FIELDS:
        raise refuse(f"it has {', '.join(sorted(unknown))}")
    for name in ("artefact", "reason", "cause", "recipe"):
        if not isinstance(row.get(name), str | None):
            raise refuse(f"its {name} is {row[name]!r} and no text", VALUES)
    for name in ("artefact", "reason"):
        if not (row.get(name) or "").strip():
            raise refuse(f"it has no {name}")
    if row.get("cause") and row["cause"] not in causes:
        raise refuse(f"there is no cause {row['cause']!r}")
    expires = row.get("expires")
    if isinstance(expires, datetime):
        expires = expires.date()
    if expires is not None and not isinstance(expires, date):
        raise refuse(f"expires is {expires!r} and no date such as 2027-06-30")
    return Expectation(file, row["artefact"], row["reason"], row.get("cause") or "", row.get("recipe") or "", expires)
