"""Names of the cache over releases of transformers."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import DynamicCache

from compress.attach.session import attach
from compress.base import INPUT, Selection, Selector, View
from compress.models.caches import CACHE, NAMES, READ, TESTED, cache_in, name_in, warn_if_untested
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?"]
pytestmark = pytest.mark.versions


class First(Selector):
    """Keeps the first tokens."""

    def __init__(self, depth: int = INPUT):
        self.depth = depth

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(keep))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("depth", [INPUT, 2])
def test_a_step_is_a_step_by_every_name_that_the_release_takes(tiny: MLLM, pictures, name: str, depth: int):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, First(depth), 30, match="tokens") as trace, torch.no_grad():
        expected = tiny.model.generate(
            **inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        output = tiny.model(**inputs, use_cache=True)
        last = tiny.model(expected.sequences[:, -2:-1], **{name: cache_in(output)})
    torch.testing.assert_close(last.logits[:, -1], expected.logits[1], atol=1e-5, rtol=1e-5)
    assert len(trace.samples) == 2


def test_the_cache_is_found_in_arguments_and_outputs():
    cache = DynamicCache()
    assert cache_in({"input_ids": 1, CACHE: cache}) is cache
    assert cache_in((torch.zeros(1), cache)) is cache
    assert cache_in({}) is None and cache_in((torch.zeros(1),)) is None


def test_an_unknown_name_is_refused():
    def forward(input_ids, memory=None): ...

    with pytest.raises(ValueError, match=f"names the cache neither {NAMES[0]} nor .*install transformers"):
        name_in(forward)


def test_a_newer_release_warns_once():
    warn_if_untested.cache_clear()
    with pytest.warns(UserWarning, match=f"99.1.0 is newer than {TESTED}, the newest .* `evocomp doctor`"):
        warn_if_untested("99.1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_untested("99.1.0")
        warn_if_untested(f"{TESTED}.3")
