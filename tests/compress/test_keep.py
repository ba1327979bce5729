"""A budget is a count for every image, or a ratio that every image turns into a count of its own."""

from __future__ import annotations

import copy
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from baselines import FastV, Grid
from compress.attach.session import attach
from compress.budget import plan
from compress.keep import NINTH, Ratio, count_of, in_order, read_keep
from compress.labels import LabelConfig, Labeller
from compress.models.loading import load
from compress.samples import Sample


@pytest.mark.parametrize(
    ("given", "text", "share"),
    [
        ("11.1%", "11.1%", Fraction(111, 1000)),
        (" 11.1 % ", "11.1%", Fraction(111, 1000)),
        ("0.111", "11.1%", Fraction(111, 1000)),
        (0.111, "11.1%", Fraction(111, 1000)),
        ("1/9", "1/9", Fraction(1, 9)),
        ("64/576", "1/9", Fraction(1, 9)),
        (1 / 9, "1/9", Fraction(1, 9)),
        (np.float32(0.25), "25%", Fraction(1, 4)),
        ("100%", "100%", Fraction(1)),
        (str(1 / 9), "1/9", Fraction(1, 9)),  # as many decimals as Python prints
        ("33.33333333333%", "1/3", Fraction(1, 3)),
        ("0.12345678", "6172839/50000000", Fraction(6172839, 50000000)),
        ("0.999999999999", "100%", Fraction(1)),
        ("0.00000000001", "0.0001%", Fraction(1, 10**6)),
        (1e-11, "0.0001%", Fraction(1, 10**6)),
    ],
)
def test_a_ratio_has_one_spelling(given: object, text: str, share: Fraction) -> None:
    found = read_keep(given)
    assert isinstance(found, Ratio)
    assert (found, found.share) == (text, share)
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == json.loads(json.dumps(found)) == text


@pytest.mark.parametrize("given", [48, "48", np.int64(48), np.uint8(48)])
def test_a_count_may_be_of_any_integer_type(given: object) -> None:
    found = read_keep(given)
    assert found == 48
    assert type(found) is int


@pytest.mark.parametrize(
    "given",
    [True, np.True_, 0, -1, 1.0, 48.0, float("nan"), float("inf"), None, [48],
     "0%", "101%", "1/0", "1e-999999999", "many", "", "9" * 5000],
)  # fmt: skip
def test_what_is_no_budget_is_refused_with_what_is(given: object) -> None:
    with pytest.raises(ValueError, match="give a count of visual tokens from 1, or a ratio"):
        read_keep(given)


def test_a_ratio_is_rounded_to_the_nearest_token_and_leaves_one() -> None:
    assert [NINTH.of(tokens) for tokens in (576, 144, 1225, 16, 9, 4, 1)] == [64, 16, 136, 2, 1, 1, 1]
    assert [Ratio("50%").of(tokens) for tokens in (25, 27)] == [12, 14]  # halves go to the even number
    assert count_of(48, 36) == 48


def test_budgets_are_in_order_counts_first() -> None:
    assert in_order([16, Ratio("1/9"), 48, Ratio("50%"), 16]) == [48, 16, "50%", "1/9"]
    assert in_order([Ratio("9%"), Ratio("11.1%")]) == ["11.1%", "9%"]


def test_attach_takes_numpys_integers_and_refuses_other_numbers() -> None:
    micro = load("micro")
    with attach(micro, Grid(), keep=np.int64(48)) as trace:  # type: ignore[arg-type]
        micro.answer([Image.new("RGB", (48, 48))], ["what color is the star ?"])
    assert trace.samples[0].entering[0] == 48
    for wrong in (True, 48.0, 0):
        with (
            pytest.raises(ValueError, match="a float between 0 and 1"),
            attach(micro, Grid(), keep=wrong),
        ):
            pass


def test_a_ratio_is_of_each_images_own_tokens() -> None:
    mllm = load("micro-qwen")
    images = [Image.new("RGB", size) for size in ((96, 96), (48, 48), (32, 24))]
    whole = [mllm.tokens_of(image) for image in images]
    assert len(set(whole)) == 3
    with attach(mllm, Grid(), keep="11.1%") as trace:
        for image in images:
            mllm.answer([image], ["what color is the star ?"])
        mllm.answer(images, ["what color is the star ?"] * 3)  # in a batch as alone
    assert [one.tokens for one in trace.samples] == whole * 2
    assert [one.entering[0] for one in trace.samples] == [Ratio("11.1%").of(tokens) for tokens in whole] * 2


def test_an_image_too_small_for_a_ratio_gets_the_nearest_there_is() -> None:
    """Two of 32 layers see all 6 tokens, so that the mean cannot be 1."""
    assert plan(FastV(), 6, Ratio("1/9"), 32) == {2: 1}
    with pytest.raises(ValueError, match="keep=1 is out of reach"):
        plan(FastV(), 6, 1, 32)
    with pytest.raises(ValueError, match=r"keep=5% is out of reach .* nearest budget is 64 \(6.4%\)$"):
        plan(FastV(), 1000, Ratio("5%"), 32)
    with pytest.raises(ValueError, match="keep=1/9 is out of reach"):
        plan(FastV(layer=7), 9, Ratio("1/9"), 32)  # a mean of 2.75 is more than one token above 1


def test_a_label_keeps_a_share_of_its_own_image() -> None:
    mllm = load("micro-qwen")
    sizes = [(96, 96), (48, 48), (32, 24)]
    samples = [
        Sample(str(number), Image.new("RGB", size), "what color is the star ?", ("red",))
        for number, size in enumerate(sizes)
    ]
    labeller = Labeller(mllm, LabelConfig(evaluations=2))
    assert labeller.about["keep"] == "1/9"
    labels = labeller.many(samples)
    whole = [mllm.tokens_of(Image.new("RGB", size)) for size in sizes]
    assert [len(one.kept) for one in labels if not isinstance(one, ValueError)] == list(map(NINTH.of, whole))


def test_where_all_images_are_alike_a_ratio_is_stored_as_the_count_that_it_is() -> None:
    micro = load("micro")
    assert LabelConfig(keep="11.1%").resolved(micro).keep == 16  # type: ignore[arg-type]
    assert LabelConfig().resolved(micro) == LabelConfig(keep=16).resolved(micro)


def test_a_count_above_an_images_tokens_fails_that_sample_alone() -> None:
    mllm = load("micro-qwen")
    samples = [Sample(str(side), Image.new("RGB", (side, side)), "what color is the star ?", ("red",))
               for side in (96, 48)]  # fmt: skip
    large, small = Labeller(mllm, LabelConfig(keep=100, evaluations=2)).many(samples)
    assert not isinstance(large, ValueError)
    assert isinstance(small, ValueError)
    assert "more than the 36 visual tokens of its image: a ratio" in str(small)
