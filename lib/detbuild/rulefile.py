# SPDX-License-Identifier: MIT
"""The user's own rows of the programs' table: from a YAML or JSON file, or from the variable DETBUILD_RULES.

A file holds a list of rows, or the mapping ``{format: detbuild-rules, version: 1, rules: [...]}``::

    - names: mkversion
      reads: "true"
      reason: compares its template with its output
    - names: [python*]
      script: ["*/tools/stamp.py"]
      clock: real

The variable holds rows as JSON, one alone or a list, or the absolute paths of such files. In local.conf::

    DETBUILD_RULES = '{"names": "mkversion", "reads": "true"}'
    DETBUILD_RULES = "${TOPDIR}/conf/rules.json"

YAML needs PyYAML, which BitBake's Python does not always have; JSON always works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from detbuild import plainyaml
from detbuild.errors import PolicyError
from detbuild.program import Program

FORMAT = "detbuild-rules"
VERSION = 1

_YAML = (".yaml", ".yml")
_WRAPPER = ("format", "version", "rules")


def load(path: str | os.PathLike[str]) -> tuple[Program, ...]:
    """The rows of a YAML or JSON file, in its order. Raises PolicyError for what cannot be read or is no row."""
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        value = _yaml(text, path) if path.endswith(_YAML) else _json(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PolicyError(f"cannot read the rules {path}: {reason}", remedy="name a YAML or JSON file") from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the rules {path} are not JSON: {error}", remedy="name a YAML file .yaml") from error
    return _located(value, path)


def parse(text: str) -> tuple[Program, ...]:
    """The rows of DETBUILD_RULES. Raises PolicyError like ``load``."""
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            value = _json(text)
        except (ValueError, RecursionError) as error:
            raise PolicyError(
                f"DETBUILD_RULES is not JSON: {error}",
                remedy="put names and values in double quotes, all in single ones",
            ) from error
        return _located(value, "DETBUILD_RULES")
    for path in files(text):
        if not os.path.isabs(path):
            raise PolicyError(
                f"DETBUILD_RULES names {path!r}, which is neither JSON nor an absolute path",
                remedy="write ${TOPDIR}/conf/rules.json, or the rows themselves",
            )
    return tuple(row for path in files(text) for row in load(path))


def files(text: str) -> list[str]:
    """The paths that DETBUILD_RULES names; none where it holds the rows themselves."""
    return [] if text.lstrip().startswith(("[", "{")) else text.split()


def to_json(rows: Sequence[Program]) -> str:
    """Rows as one line of JSON, the same for the same rows: what a task signature holds."""
    return json.dumps([row.to_dict() for row in rows], sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once) if text.strip() else []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for key, value in pairs:
        if key in known:
            raise ValueError(f"the key {key} stands twice")
        known[key] = value
    return known


def _yaml(text: str, path: str) -> Any:
    try:
        return plainyaml.load(text) or []
    except ImportError:
        raise PolicyError(
            f"cannot read the rules {path}: this Python has no PyYAML",
            remedy="write the rules as JSON, in a file .json",
        ) from None
    except ValueError as error:
        raise PolicyError(f"the rules {path} are not YAML: {error}") from error


def _located(value: Any, place: str) -> tuple[Program, ...]:
    try:
        return tuple(Program.from_dict(row) for row in _rows(value))
    except PolicyError as error:
        raise PolicyError(f"{place}: {error.refused}", cause=error.cause, remedy=error.remedy) from None


def _rows(value: Any) -> Sequence[Any]:
    if isinstance(value, dict) and "rules" in value:
        unknown = [str(key) for key in value if key not in _WRAPPER]
        if unknown:
            raise PolicyError(f"rules have no key {unknown[0]!r}", remedy=f"known keys: {', '.join(_WRAPPER)}")
        if (value.get("format", FORMAT), value.get("version", VERSION)) != (FORMAT, VERSION):
            raise PolicyError(
                f"these are not rules of version {VERSION}", remedy=f"write format: {FORMAT} and version: {VERSION}"
            )
        value = value["rules"]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise PolicyError(f"rules are a list of rows, not {value!r}")
    return value
