"""Reading YAML files written by hand: only values that JSON has too, and no duplicate keys."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from compress.documents import read_text
from evosearch.registry import cut

LARGEST = 1 << 20  # bytes
DEEPEST = 50  # levels


class _Plain(yaml.SafeLoader):
    """Rejects what a settings file does not need: duplicate keys, aliases, deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refused("aliases are not supported", self.peek_event())
        if self.depth == DEEPEST:
            raise _refused(f"nested more than {DEEPEST} levels", self.peek_event())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a name must be a text", key)
            if key.value in found:
                raise _refused(f"{cut(key.value)!r} occurs twice", key)
            found[key.value] = self.construct_object(value, deep=True)
        return found


# YAML 1.1 reads 3e-3 as a string, because it requires a dot in a float.
_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _refused(why: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file with string keys; ValueError, with the line, for unsupported YAML."""
    return parse_yaml(read_text(path, LARGEST), path)


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text; `where` is its origin for error messages."""
    try:
        return yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        why, mark = getattr(problem, "problem", None), getattr(problem, "problem_mark", None)
        why = cut(why or problem, 120)
        raise ValueError(f"{where}: not YAML ({why}{f', line {mark.line + 1}' if mark else ''})") from problem
