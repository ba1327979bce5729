from __future__ import annotations

from typing import Any

import pytest

from bench.serving.settings import Asked, Settings, of_request, read
from compress.keep import Ratio


def test_nothing_asked_for_is_nothing() -> None:
    assert read(None, {}) is None
    assert read(None, {"EVOCOMP_METHOD": "", "PATH": "x"}) is None


def test_both_places_say_the_same() -> None:
    wanted = Settings(Asked("evocomp+", 64), ("visionzip", "fastv:layer=3,queries=all"))
    variables = {"EVOCOMP_METHOD": "evocomp+", "EVOCOMP_KEEP": "64"}
    also = {"EVOCOMP_ALSO": "visionzip,fastv:layer=3,queries=all"}
    assert read(None, variables | also) == wanted
    assert read({"method": "evocomp+", "keep": 64, "also": list(wanted.also)}, {}) == wanted
    assert read({"method": "grid", "keep": "1/9"}, {}) == Settings(Asked("grid", Ratio("1/9")))
    assert read(None, {"EVOCOMP_ALSO": "grid"}) == Settings(Asked("none", None), ("grid",))


@pytest.mark.parametrize(
    ("overrides", "variables", "why"),
    [
        ({"method": "grid"}, {}, "without a budget"),
        ({"method": "none", "keep": 5}, {}, "keeps all"),
        ({"keep": 5}, {}, "give the name of a method"),
        ({"method": "grid", "keep": 0}, {}, "a count of visual tokens from 1"),
        ({"method": "grid", "kep": 5}, {}, "did you mean 'keep'"),
        ({"method": "grid", "keep": 5}, {"EVOCOMP_KEEP": "5"}, "given as --hf-overrides and as EVOCOMP_KEEP"),
        ("grid", {}, "write"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: Any, variables: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(overrides, variables)


STARTED = Settings(Asked("evocomp+", 64), ("grid",))


@pytest.mark.parametrize(
    ("wish", "gets"),
    [
        (None, Asked("evocomp+", 64)),
        ({}, Asked("evocomp+", 64)),
        ({"keep": 16}, Asked("evocomp+", 16)),
        ({"method": "grid"}, Asked("grid", 64)),
        ({"method": "grid", "keep": "1/9"}, Asked("grid", Ratio("1/9"))),
        ({"method": "none"}, Asked("none", None)),
    ],
)
def test_a_request_may_wish_for_itself(wish: Any, gets: Asked) -> None:
    assert of_request(STARTED, wish) == gets


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"method": "visionzip"}, "started with evocomp., grid"),
        ({"budget": 3}, "not budget"),
        ("grid", "write"),
        ({"keep": -1}, "a count of visual tokens"),
    ],
)
def test_a_request_cannot_wish_for_anything(wish: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        of_request(STARTED, wish)
