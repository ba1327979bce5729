"""YAML is read without trust: what JSON has too, no name twice, one line for what is wrong."""

from __future__ import annotations

import pytest

from bench.yaml_files import parse_yaml


def test_names_are_texts_and_numbers_may_have_no_dot() -> None:
    assert parse_yaml("1: 3e-3\ntwo: [1, 2.5, null, true]", "") == {"1": 0.003, "two": [1, 2.5, None, True]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", "'a' occurs twice, line 3"),
        ("a: &x [1]\nb: *x", "aliases are not supported, line 2"),
        ("[" * 100_000, "nested more than 50 levels, line 1"),
        ("\n".join("  " * level + "a:" for level in range(200)), "nested more than 50 levels, line 50"),
        ("? [1]\n: 2", "a name must be a text, line 1"),
        ("a: !!python/object:os.system 1", "could not determine a constructor"),
        ("a: 2024-99-99", "month must be in 1..12"),
        ("a: " + "1" * 5000, "Exceeds the limit"),
        ("a: \x00", "unacceptable character"),
        ("a: [", "while parsing|expected"),
    ],
)
def test_what_is_not_allowed_is_named_with_its_line(text: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        parse_yaml(text, "recipe.yaml")
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith("recipe.yaml: not YAML (") and len(str(caught.value)) < 200
