"""The oracle is a loop over the tower's blocks and tokens, CLS among them, without hooks: `merged_tower`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.tome import ToMe
from compress.attach.session import attach
from compress.base import VISION, TowerView
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?"]


def removed(tokens: int, keep: int, layers: int, **options: float) -> list[int]:
    left = [tokens, *ToMe(**options).tower(tokens, keep, layers).values()]
    return [before - after for before, after in zip(left, left[1:], strict=False)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(192, [17] * 16 + [16] * 7), (128, [20] * 11 + [19] * 12), (64, [23] * 6 + [22] * 17)],
)
def test_the_layers_share_the_removals_of_576_patches_evenly(keep: int, expected: list[int]):
    assert removed(576, keep, 23) == expected


@pytest.mark.parametrize("inflection", [-1.0, -0.5, 0.0, 0.3, 1.0])
@pytest.mark.parametrize(("tokens", "layers"), [(144, 3), (576, 23), (7, 2), (9, 1)])
def test_no_layer_merges_more_than_half_and_the_last_leaves_the_budget(
    tokens: int, layers: int, inflection: float
):
    for keep in range(-(-tokens // 2**layers), tokens):
        taken = removed(tokens, keep, layers, inflection=inflection)
        left = tokens
        for each in taken:
            assert 0 <= each <= left // 2
            left -= each
        assert left == keep and len(taken) == layers


def test_what_the_last_layers_cannot_take_the_first_ones_do():
    assert removed(144, 20, 3) == [64, 40, 20]
    assert removed(576, 10, 23) == [26] * 11 + [25] * 10 + [20, 10]


def test_inflection_moves_merging_to_later_or_earlier_layers():
    assert removed(576, 506, 7, inflection=1.0) == [0, 4, 7, 10, 13, 16, 20]  # 70 on a line from 0
    late, early = removed(576, 300, 12, inflection=0.5), removed(576, 300, 12, inflection=-0.5)
    assert late == sorted(late) and early == sorted(early, reverse=True)
    assert late[0] == pytest.approx(0.5 * 276 / 12, abs=1) and late[-1] == pytest.approx(1.5 * 23, abs=1)


def test_impossible_wishes_are_refused(tiny: MLLM):
    with (
        pytest.raises(ValueError, match="keep=17: tome merges at most half.*3 tower layers.*18 of 144"),
        attach(tiny, ToMe(), 17),
    ):
        pass
    with (
        pytest.raises(ValueError, match="inflection=2.0: choose between -1 and 1"),
        attach(tiny, ToMe(inflection=2.0), 48),
    ):
        pass


def test_a_patch_joins_the_most_similar_one_of_the_other_half():
    """With CLS in front patches 1 and 3 stand at even positions and join 0, 2 or 4."""
    up, right, left = [0.0, 1.0], [1.0, 0.1], [-1.0, 0.0]
    keys = torch.tensor([right, left, left, right, up])
    view = TowerView(
        layer=0, hidden=keys, size=torch.ones(5), index=torch.arange(5), grid=(1, 5),
        keys=lambda: keys[:, None],
    )  # fmt: skip
    merge = ToMe().merge(view, 4)
    assert merge.index.tolist() == [3, 0, 2, 4] and merge.into.tolist() == [1, 2, 2, 0, 3]  # 1 joins 2
    merge = ToMe().merge(view, 3)
    assert merge.index.tolist() == [0, 2, 4] and merge.into.tolist() == [0, 1, 1, 0, 2]
    match = ToMe.match(keys, 2, cls=False)  # 0, 2 and 4 stand at even positions
    assert dict(zip(match.source.tolist(), match.target.tolist(), strict=True)) == {0: 3, 2: 1}
    assert match.stay.tolist() == [4] and match.others.tolist() == [1, 3]


def test_keys_are_averaged_over_heads():
    heads = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0))
    mean = heads.mean(1, keepdim=True)
    views = [
        TowerView(0, heads[:, 0], torch.ones(6), torch.arange(6), (2, 3), lambda k=k: k)
        for k in (heads, mean)
    ]  # type: ignore[misc]
    first, second = (ToMe().merge(view, 4) for view in views)
    assert torch.equal(first.into, second.into) and torch.equal(first.index, second.index)


@torch.no_grad()
def merged_tower(mllm: MLLM, pixels: Tensor, counts: dict[int, int], proportional: bool) -> Tensor:
    """Features [M, C] of one image, position by position, CLS at 0."""
    hidden = mllm.tower.pre_layrnorm(mllm.tower.embeddings(pixels[None]))[0]
    size = torch.ones(len(hidden))
    for number in range(mllm.tower_depth):
        block = mllm.tower_layers[number]
        attention, normed = block.self_attn, block.layer_norm1(hidden)
        query, key, value = (
            project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = query @ key.transpose(1, 2) * attention.scale
        if proportional:
            logits = logits + size.log()
        mixed = (logits.softmax(-1) @ value).transpose(0, 1).flatten(1)
        hidden = hidden + attention.out_proj(mixed)

        metric = key.mean(0)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        pairs = []
        for source in range(2, len(hidden), 2):
            alike = {target: float(metric[source] @ metric[target]) for target in range(1, len(hidden), 2)}
            target = max(alike, key=lambda place: alike[place])
            pairs.append((alike[target], source, target))
        gone = {
            source: target
            for _, source, target in sorted(pairs, reverse=True)[: len(hidden) - 1 - counts[number]]
        }
        stay = [place for place in range(0, len(hidden), 2) if place not in gone]
        order = [*stay, *range(1, len(hidden), 2)]
        groups = [[place, *(source for source in gone if gone[source] == place)] for place in order]
        rows = [sum(hidden[at] * size[at] for at in group) / size[group].sum() for group in groups]
        hidden, size = torch.stack(rows), torch.stack([size[group].sum() for group in groups])

        hidden = hidden + block.mlp(block.layer_norm2(hidden))
    return hidden[1:]


@pytest.mark.parametrize("keep", [18, 48, 100])
@pytest.mark.parametrize("proportional", [True, False])
def test_the_tower_runs_shorter_and_gives_the_features_of_a_plain_loop(
    tiny: MLLM, pictures, proportional: bool, keep: int, monkeypatch
):
    inputs = tiny.prepare(pictures[:2], QUESTIONS)
    method = ToMe(proportional=proportional)
    counts = method.tower(144, keep, tiny.tower_depth)
    seen, attended, mixed = [], [], []
    project = tiny.projector.forward
    monkeypatch.setattr(tiny.projector, "forward", lambda rows: (seen.append(rows), project(rows))[1])
    with attach(tiny, method, keep) as trace, torch.no_grad():
        watch = [
            handle
            for layer in tiny.tower_layers
            for handle in (
                layer.self_attn.register_forward_hook(lambda _, args, out: attended.append(out[0].shape[1])),
                layer.mlp.fc1.register_forward_pre_hook(lambda _, args: mixed.append(args[0].shape[1])),
            )
        ]
        try:
            tiny.model(**inputs)
        finally:
            for handle in watch:
                handle.remove()
    assert attended == [145, *(1 + count for count in counts.values())]  # the last layer is not read
    assert mixed[:3] == [1 + count for count in counts.values()]
    for record, pixels, rows in zip(
        trace.samples, inputs["pixel_values"], (rows for rows in seen if rows.ndim == 2), strict=True
    ):
        assert record.entering == [keep] * tiny.layers and any(record.merged[VISION])
        expected = merged_tower(tiny, pixels, counts, proportional)
        torch.testing.assert_close(rows, expected, atol=2e-5, rtol=1e-4)


def test_attention_by_size_matters(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    logits = []
    for proportional in (True, False):
        with attach(tiny, ToMe(proportional=proportional), 36), torch.no_grad():
            logits.append(tiny.model(**inputs).logits)
    assert (logits[0] - logits[1]).abs().max() > 0.01
