"""Merging in the tower, smaller images and cut caches, against plain loops without hooks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import VisionZip
from compress.attach.session import attach
from compress.attach.tower import centres, join
from compress.base import VISION, Merge, Selection, Selector, TowerSelector, TowerView, View, top_k
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?"]
CPU = torch.device("cpu")
pytestmark = pytest.mark.versions


@dataclass
class Neighbours(TowerSelector):
    """Merges the first patches into the next one, in two layers of the tower."""

    def __init__(self, after: str = "attention", proportional: bool = False, ragged: bool = False):
        self.merge_after = after  # type: ignore[assignment]
        self.proportional, self.adaptive = proportional, ragged

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION: keep}

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {0: 0, 2: 0} if self.adaptive else {0: (tokens + keep) // 2, 2: keep}

    def merge(self, view: TowerView, keep: int) -> Merge:
        """`keep` at random, by the content when ragged."""
        if not keep:
            keep = len(view.hidden) - 20 - int(view.hidden[:, view.layer].argmax()) % 20
        gone = len(view.hidden) - keep
        into = torch.arange(len(view.hidden))
        into = torch.where(into < 2 * gone, into // 2, into - gone)
        return Merge((into[:, None] == torch.arange(keep)).int().argmax(0), into)

    def select(self, view: View, keep: int) -> Selection:
        raise AssertionError("the tower has done it")


@torch.no_grad()
def oracle(mllm: MLLM, pixels: Tensor, selector: Neighbours, plan: dict[int, int]) -> Tensor:
    """Features [M, C] of one image by a loop over the tower's blocks, without hooks."""
    tower = mllm.tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels[None]))[0]
    size = torch.ones(len(hidden))

    def merged(hidden: Tensor, size: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        view = TowerView(layer, hidden[1:], size[1:], torch.arange(len(size) - 1), (12, 12))
        merge = selector.merge(view, plan[layer])
        rows = [
            ((hidden[1:] * size[1:, None])[merge.into == k].sum(0) / size[1:][merge.into == k].sum())
            for k in range(int(merge.into.max()) + 1)
        ]
        sizes = [size[1:][merge.into == k].sum() for k in range(len(rows))]
        return torch.stack([hidden[0], *rows]), torch.stack([size[0], *sizes])

    for number, block in enumerate(tower.encoder.layers[: mllm.tower_depth]):
        attention = block.self_attn
        normed = block.layer_norm1(hidden)
        query, key, value = (
            project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = query @ key.transpose(1, 2) * attention.scale
        if selector.proportional:
            logits = logits + size.log()
        mixed = (logits.softmax(-1) @ value).transpose(0, 1).flatten(1)
        hidden = hidden + attention.out_proj(mixed)
        if number in plan and selector.merge_after == "attention":
            hidden, size = merged(hidden, size, number)
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
        if number in plan and selector.merge_after == "block":
            hidden, size = merged(hidden, size, number)
    return hidden[1:]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("after", ["attention", "block"])
def test_merging_in_the_tower_equals_a_loop_over_its_blocks(
    tiny: MLLM, pictures, after: str, proportional: bool, ragged: bool, monkeypatch
):
    selector = Neighbours(after, proportional, ragged)
    plan = selector.tower(144, 64, tiny.tower_depth)
    inputs = tiny.prepare(pictures[:2], QUESTIONS)
    seen: list[Tensor] = []
    project = tiny.projector.forward
    monkeypatch.setattr(tiny.projector, "forward", lambda tokens: (seen.append(tokens), project(tokens))[1])
    with attach(tiny, selector, 64) as trace, torch.no_grad():
        tiny.model(**inputs)
    rows = [tokens for tokens in seen if tokens.ndim == 2]
    lengths = [len(tokens) for tokens in rows]
    for pixels, found in zip(inputs["pixel_values"], rows, strict=True):
        torch.testing.assert_close(found, oracle(tiny, pixels, selector, plan), atol=2e-5, rtol=1e-4)
    assert [record.entering[0] for record in trace.samples] == lengths
    assert ragged or lengths == [64, 64]
    assert not ragged or lengths[0] != lengths[1]
    for record in trace.samples:
        assert len(record.kept[VISION]) == len(set(record.kept[VISION])) == record.entering[0]
        assert any(record.merged[VISION]) and not all(record.merged[VISION])


def test_a_merged_token_is_the_mean_by_size():
    merge = Merge(torch.tensor([0, 2]), torch.tensor([0, 0, 1]))
    values, size = torch.tensor([[1.0], [4.0], [7.0]]), torch.tensor([2.0, 1.0, 1.0])
    tokens, sizes = join(merge, values, size)
    assert tokens.tolist() == [[(2 * 1 + 4) / 3], [7.0]] and sizes.tolist() == [3, 1]


def test_a_dropped_token_joins_nothing():
    merge = Merge(torch.tensor([2, 0]), torch.tensor([1, -1, 0, 1]))
    values, size = torch.tensor([[1.0], [4.0], [7.0], [5.0]]), torch.tensor([1.0, 2.0, 1.0, 3.0])
    tokens, sizes = join(merge, values, size)
    assert tokens.tolist() == [[7.0], [4.0]] and sizes.tolist() == [1, 4]


@pytest.mark.parametrize(("decides", "extra"), [(False, 5), (True, 5), (True, 0)])
def test_counts_are_exact_but_where_the_image_decides_before_the_last_layer(
    tiny: MLLM, pictures, decides: bool, extra: int
):
    class Loose(Neighbours):
        image_decides = decides

        def merge(self, view: TowerView, keep: int) -> Merge:
            return super().merge(view, keep + (extra if view.layer == 2 or not decides else 5))

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Loose(), 64) as trace, torch.no_grad():
        if extra:
            at = "layer 2, asked for 64" if decides else "layer 0, asked for 104"
            with pytest.raises(ValueError, match=f"Loose merged into .* at tower {at}"):
                tiny.model(**inputs)
            return
        tiny.model(**inputs)
    assert trace.samples[0].entering == [64] * tiny.layers


def test_centres_of_a_smaller_grid():
    assert centres((4, 4), (2, 2), CPU).tolist() == [5, 7, 13, 15]
    assert centres((3, 3), (3, 3), CPU).tolist() == list(range(9))


class Small(TowerSelector):
    """The image at half its height."""

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION: keep}

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        return grid[0] // 2, grid[1]

    def select(self, view: View, keep: int) -> Selection:
        raise AssertionError("the image is smaller")


def test_a_smaller_image_gives_the_towers_tokens_of_it(tiny: MLLM, pictures, monkeypatch):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    seen: list[Tensor] = []
    project = tiny.projector.forward
    monkeypatch.setattr(tiny.projector, "forward", lambda tokens: (seen.append(tokens), project(tokens))[1])
    with attach(tiny, Small(), 72) as trace, torch.no_grad():
        tiny.model(**inputs)
    with torch.no_grad():
        small = F.interpolate(inputs["pixel_values"], (24, 48), mode="bicubic", antialias=True)
        expected = tiny.tower(small, interpolate_pos_encoding=True, output_hidden_states=True)
    found = next(tokens for tokens in seen if tokens.ndim == 2)
    assert trace.samples[0].entering == [72] * tiny.layers and all(trace.samples[0].merged[VISION])
    torch.testing.assert_close(found, expected.hidden_states[-2][0, 1:])


class Cut(Selector):
    """Two stages by norm, and caches cut from layer 1 on."""

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {2: (tokens + keep) // 2, 4: keep}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(view.hidden.norm(dim=-1), keep))

    def cut_caches_from(self, layers: int) -> int | None:
        return 1


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_caches_are_cut_to_the_tokens_that_passed_all_stages(tiny: MLLM, pictures, positions):
    questions = ["is there a red circle above ?", "how many ?"]
    inputs = tiny.prepare(pictures[:2], questions)
    with attach(tiny, Cut(), 20, match="tokens", positions=positions) as trace, torch.no_grad():
        output = tiny.model(**inputs)
    lengths = [layer.keys.shape[2] for layer in output.past_key_values.layers]
    record = trace.samples[0]
    text = record.text
    assert record.entering == [144, 144, 82, 82, 20, 20] and record.cached == [144, 20, 20, 20, 20, 20]
    assert lengths == [cached + text for cached in record.cached]


def test_decoding_sees_the_cut_caches_alone_and_in_a_batch(tiny: MLLM, pictures):
    """One step over caches cut by hand, in every layer its own rows, equals the attached model."""
    questions = ["is there a red circle above ?", "how many ?"]

    def answer(inputs):
        return torch.stack(
            tiny.model.generate(
                **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            ).logits,
            1,
        )  # fmt: skip

    class Uncut(Cut):
        def cut_caches_from(self, layers: int) -> int | None:
            return None

    with attach(tiny, Cut(), 20, match="tokens"):
        together = answer(tiny.prepare(pictures[:2], questions))
        alone = [answer(tiny.prepare([p], [q]))[0] for p, q in zip(pictures, questions, strict=False)]
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=1e-5)
    with attach(tiny, Uncut(), 20, match="tokens"):
        uncut = answer(tiny.prepare(pictures[:2], questions))
    assert torch.equal(uncut[:, 0], together[:, 0])  # the prefill is the same
    assert (uncut[:, 1:] - together[:, 1:]).abs().max() > 1e-3


def test_features_that_wait_for_a_choice_are_no_numbers_for_anybody_else(tiny: MLLM, pictures):
    pixels = tiny.prepare(pictures[:1], ["what is it ?"])["pixel_values"]
    with attach(tiny.model, VisionZip(), keep=4):
        (features,) = tiny.model.get_image_features(pixels).pooler_output
    assert features.isnan().all()
    (features,) = tiny.model.get_image_features(pixels).pooler_output
    assert not features.isnan().any()
