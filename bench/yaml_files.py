"""Reading YAML, which is what people write by hand: only what JSON has too, and no key twice."""

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
    """Refuses what a settings file does not need: keys that occur twice, aliases, deep nesting."""

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


# YAML 1.1 takes 3e-3 for a text: it wants a dot in a number.
_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _refused(why: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file: names are texts; ValueError, with the line, for what is not allowed."""
    return parse_yaml(read_text(path, LARGEST), path)


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text; `where` names its origin in errors."""
    try:
        return yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        why, mark = getattr(problem, "problem", None), getattr(problem, "problem_mark", None)
        why = cut(why or problem, 120)
        raise ValueError(f"{where}: not YAML ({why}{f', line {mark.line + 1}' if mark else ''})") from problem
