# SPDX-License-Identifier: MIT
"""YAML that people write: plain data, in which no key stands twice."""

from __future__ import annotations

from typing import Any


def load(text: str) -> Any:
    """What the text says. Raises ImportError without PyYAML, ValueError for what is no YAML or has a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            """Here, since merged keys ("<<"), which a mapping's own may repeat, come later."""
            node = super().compose_mapping_node(anchor)
            known = set()
            for key, _ in node.value:
                if (key.tag, str(key.value)) in known:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands twice", problem_mark=key.start_mark)
                known.add((key.tag, str(key.value)))
            return node

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # of a date, number or tag that is none PyYAML lets pass what its conversion raises
        raise ValueError(f"a value is not what it looks like: {error}") from error
