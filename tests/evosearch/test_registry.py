"""Choosing by name: options are read from signatures, mistakes are answered with suggestions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from evosearch import GROUPERS, STRATEGIES, describe, options, parse, pick
from evosearch.registry import cut, listed, unknown


@dataclass
class Kettle:
    """Boils water.

    More words.
    """

    size: int
    heat: float = 0.5
    loud: bool = False
    limit: int | None = None
    mode: Literal["slow", "fast"] = "slow"
    lid: np.ndarray | None = None


def kettle(*, size: int, label: str = "k") -> tuple[int, str]:
    return size, label


THINGS = {"kettle": Kettle, "function": kettle}


def test_options_are_read_with_their_types():
    made = pick(THINGS, "kettle:size=3, heat=2,loud=yes,limit=7,mode=fast", "thing")
    assert made == Kettle(3, 2.0, True, 7, "fast")
    assert pick(THINGS, "kettle:size=3,limit=none", "thing", limit=9) == Kettle(3, limit=None)


def test_context_reaches_what_asks_for_it_and_the_spec_goes_first():
    lid = np.zeros(2)
    assert pick(THINGS, "kettle", "thing", size=4, lid=lid, unrelated=1).lid is lid
    assert pick(THINGS, "function:size=5", "thing", size=4) == (5, "k")


def test_only_what_can_be_written_is_an_option():
    assert options(Kettle) == {
        "size": "required",
        "heat": "0.5",
        "loud": "false",
        "limit": "none",
        "mode": "slow",
    }


@pytest.mark.parametrize(
    "spec, message",
    [
        ("ketle", "unknown thing 'ketle'; did you mean 'kettle'"),
        ("kettle:hat=1", "unknown option of thing 'kettle' 'hat'; did you mean 'heat'"),
        ("kettle:lid=1", "unknown option"),
        ("kettle:size=big", "size=big: expected a whole number"),
        ("kettle:size=1,loud=maybe", "expected true or false"),
        ("kettle:size=1,limit=x", "expected a whole number or none"),
        ("kettle:size=1,mode=medium", "expected one of slow, fast"),
        ("kettle:size", "write options as name:option=value"),
        ("kettle:size=1,size=2", "gives size twice"),
        ("kettle", "thing 'kettle' needs size"),
        ("kettle:", "'kettle:' names no option after the colon"),
        ("kettle:,", "names no option after the colon"),
        (f"kettle:size={10**22}", "the largest whole number is 9,223,372,036,854,775,807"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        pick(THINGS, spec, "thing")


def test_parse_leaves_values_as_text():
    assert parse("name:a=1,b-c=x") == ("name", {"a": "1", "b_c": "x"})


def test_descriptions_are_the_first_line():
    assert describe(THINGS) == {"kettle": "Boils water.", "function": ""}


def test_inherited_options_of_shipped_entries():
    assert options(GROUPERS["k-means"]) == {"groups": "required", "seed": "0", "starts": "1"}
    assert pick(STRATEGIES, "evolution:iterations=none,mate=uniform", "strategy").iterations is None


def test_long_names_are_cut_in_the_middle():
    assert cut("as\n it  is") == "as it is"
    assert cut("a\x00b\u202ec") == "a?b?c"
    told = cut("a" * 500 + "z", 80)
    assert len(told) == 80 and told.startswith("aaaa") and told.endswith("az") and " ... " in told


def test_long_lists_are_shortened_to_the_nearest():
    assert listed(["a", "b"]) == "a, b"
    names = [f"name{number}" for number in range(1000)]
    told = listed(names, "name77")
    assert told.startswith("name77, ") and told.endswith(" and 992 more") and len(told) < 120
    message = unknown("thing", "name7" + "7" * 100_000, names)
    assert len(message) < 400
