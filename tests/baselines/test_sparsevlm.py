from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.sparsevlm import SparseVLM
from compress.attach.session import attach
from compress.base import View
from compress.budget import plan
from compress.models.loading import MLLM

GOLDEN = np.load(
    Path(__file__).parents[2] / "bench" / "fidelity" / "golden" / "sparsevlm.npz"
)  # Gumpest/SparseVLMs, executed


def view(
    hidden: Tensor, attention: Tensor, inputs: Tensor, text: Tensor, before: int = 0, seed: int = 0
) -> View:
    """Before layer 3: attention [H, T', N] are the rows, in layer 2, of the T' words after the image."""

    def rows(layer: int, asked: Sequence[int] | Tensor | None) -> Tensor:
        assert layer == 2 and asked is not None
        return attention[:, torch.as_tensor(asked) - before]

    return View(
        depth=3,
        hidden=hidden,
        visual=hidden,
        text=text,
        index=torch.arange(len(hidden)),
        grid=(1, len(hidden)),
        before=before,
        inputs=inputs,
        attention=rows,
        seed=lambda: seed,
    )


@pytest.mark.parametrize("case", range(int(GOLDEN["n_cases"])))
def test_a_stage_gives_what_the_official_code_gives(case: int):
    data = {
        name.split("/")[1]: torch.as_tensor(GOLDEN[name])
        for name in GOLDEN
        if name.startswith(f"case{case}/")
    }
    start, tokens, after = (data[name].item() for name in ("image_start", "num_visual", "num_visual_after"))
    embeddings, hidden = data["input_embeds"][0], data["layer_hidden_states"][0, start : start + tokens]
    text = torch.cat([embeddings[:start], embeddings[start + tokens :]])
    seen = view(hidden, data["text_to_visual_attention"], embeddings[start : start + tokens], text, start)
    selection = SparseVLM().select(seen, after)
    centres = data["recycle_candidates_in_score_order"][data["cluster_centre_candidate_slots"]]
    assert selection.index.tolist() == [*data["kept_image_indices"].tolist(), *centres.tolist()]
    expected = data["output_hidden_states"][0, start : start + after]
    torch.testing.assert_close(selection.tokens, expected, atol=1e-4, rtol=1e-4)


PUBLISHED = [  # kept before recycling and clusters after layers 2, 6 and 15, average that leaves a layer
    (113, [300, 200, 110], [9, 4, 3], 192.03),
    (39, [303, 110, 36], [9, 7, 3], 128.63),
    (27, [238, 48, 26], [11, 7, 1], 96.94),
    (18, [66, 30, 17], [16, 2, 1], 64.81),
]


@pytest.mark.parametrize(("last", "kept", "clusters", "leaving"), PUBLISHED)
def test_the_published_counts_are_met(last: int, kept: list[int], clusters: list[int], leaving: float):
    schedule = plan(SparseVLM(), 576, last, 32, "tokens")
    assert list(schedule) == [3, 7, 16] and schedule[16] == last
    before = [576, *schedule.values()]
    found = [SparseVLM.kept_of(count, tokens) for tokens, count in zip(before, before[1:], strict=False)]
    assert found == kept
    assert [
        SparseVLM.clusters(tokens - count) for tokens, count in zip(before, found, strict=False)
    ] == clusters
    average = (2 * 576 + 4 * schedule[3] + 9 * schedule[7] + 17 * schedule[16]) / 32
    assert average == pytest.approx(leaving, abs=0.01)


@pytest.mark.parametrize("layers", [1 + 1, 6, 12, 28, 32])
@pytest.mark.parametrize("tokens", [144, 576])
def test_other_counts_lie_between(tokens: int, layers: int):
    spent = 0
    for keep in range(1, tokens + 1):
        counts = list(SparseVLM().schedule(tokens, keep, layers).values())
        assert counts[-1] == keep and max(counts) <= tokens and counts == sorted(counts, reverse=True)
        assert sum(counts) >= spent - 1
        spent = sum(counts)
    assert SparseVLM().schedule(2880, 90, 32) == {3: 410, 7: 160, 16: 90}


@pytest.mark.parametrize("tokens", [2, 31, 144, 576])
def test_kept_and_merged_tokens_are_exactly_the_count(tokens: int):
    least = SparseVLM.clusters(tokens)
    for count in range(1, tokens):
        kept = SparseVLM.kept_of(count, tokens)
        if count < least:
            assert kept == 0  # all are merged, into fewer clusters than the official number
        else:
            assert kept + SparseVLM.clusters(tokens - kept) == count


def test_raters_are_the_words_that_the_image_resembles_more_than_the_mean():
    visual = torch.tensor([[4.0, 0.0], [3.0, 0.0]])
    words = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    relevance = SparseVLM.relevance(visual, words)
    assert relevance.sum() == pytest.approx(1.0)
    assert SparseVLM.raters(relevance).tolist() == [1]


def test_without_a_word_above_the_mean_all_are_raters():
    assert SparseVLM.raters(torch.tensor([1.0])).tolist() == [0]
    assert SparseVLM.raters(torch.tensor([0.5, 0.5])).tolist() == [0, 1]


def test_raters_come_from_all_tokens_that_entered_not_from_those_left():
    words = torch.eye(2)
    entered = torch.tensor([[0.0, 1.0]] * 5 + [[9.0, 0.0]] * 30)
    attention = torch.zeros(1, 2, 5)
    attention[0, 0, 3], attention[0, 1, 1] = 0.9, 0.9  # the first word looks at 3, the second at 1
    seen = view(torch.randn(5, 2), attention, entered, words)
    assert SparseVLM().select(seen, 2).index[0] == 3


def test_the_best_of_the_rest_are_merged_into_their_means_and_come_last():
    # 40 tokens, 6 stay: of 34 others 11 are recycled, in 2 clusters
    scores = torch.linspace(1, 0, 40)
    hidden = torch.zeros(40, 2)
    hidden[6:11] = torch.tensor([5.0, 0.0]) + 0.01 * torch.arange(5)[:, None] ** 2
    hidden[11:17] = torch.tensor([-5.0, 0.0])
    hidden[11:17, 1] = 0.02 * torch.arange(6) ** 2
    parts = SparseVLM.recycle(scores, hidden, kept=6, clusters=2)
    assert parts.kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert parts.candidates.tolist() == list(range(6, 17))
    members = [hidden[parts.candidates[parts.assignment == cluster]] for cluster in range(2)]
    torch.testing.assert_close(parts.merged, torch.stack([each.mean(0) for each in members]))
    assert parts.assignment[parts.centres].tolist() == [0, 1]


def test_noise_separates_equal_densities_and_is_drawn_from_the_sample():
    hidden = torch.zeros(40, 2)
    hidden[::2, 0] = 1.0  # two clumps of identical tokens: everything is equal
    attention, words = torch.linspace(1, 0, 40).expand(1, 1, 40), torch.ones(1, 2)
    seen = [view(hidden, attention, hidden, words, seed=seed) for seed in (1, 1, 2, 3, 4)]
    kept = [SparseVLM(noise=True).select(one, 8).index.tolist() for one in seen]
    assert kept[0] == kept[1] and len({tuple(one) for one in kept}) > 1
    assert len({tuple(SparseVLM().select(one, 8).index.tolist()) for one in seen}) == 1


def test_version_1_keeps_as_many_as_the_rank_says():
    attention = torch.zeros(1, 3, 40)
    attention[0, 0, :20], attention[0, 1, 20:], attention[0, 2, :20] = 0.1, 0.2, 0.3  # rank 2
    words, hidden = torch.zeros(3, 2), torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    selection = SparseVLM(adaptive=True, scale=4.5, bias=3.0).select(
        view(hidden, attention, torch.zeros(40, 2), words), 0
    )
    kept = 12
    assert len(selection.index) == kept + SparseVLM.clusters(40 - kept)
    assert selection.tokens is not None
    assert torch.equal(selection.tokens[:kept], hidden[selection.index[:kept]])


def test_version_1_drops_nothing_where_the_rank_is_full():
    attention, words, hidden = torch.eye(3)[None], torch.zeros(3, 2), torch.randn(3, 2)
    selection = SparseVLM(adaptive=True, scale=0.5).select(view(hidden, attention, hidden, words), 0)
    assert selection.index.tolist() == [0, 1, 2]


def test_version_1_has_four_stages():
    assert SparseVLM(adaptive=True).schedule(576, 0, 32) == {3: 0, 7: 0, 16: 0, 20: 0}


def test_a_prompt_without_words_after_the_image_is_refused():
    hidden = torch.zeros(9, 2)
    with pytest.raises(ValueError, match="words after the image"):
        SparseVLM().select(view(hidden, torch.zeros(1, 0, 9), hidden, torch.zeros(4, 2), before=4), 3)


def test_positions_are_renumbered():
    assert SparseVLM().positions == "compact"


def test_the_decoder_gets_kept_tokens_then_merged_ones(tiny: MLLM, pictures):
    with attach(tiny, SparseVLM(), 40, match="tokens") as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
    (record,) = trace.samples
    first, *_ = record.kept
    kept, merged = record.kept[first], record.merged[first]
    clusters = sum(merged)
    assert clusters > 0 and merged == [False] * (len(kept) - clusters) + [True] * clusters
    assert kept[:-clusters] == sorted(kept[:-clusters])


@pytest.mark.parametrize("options", [{"adaptive": True, "scale": 4.0}, {"noise": True}])
def test_a_batch_equals_its_samples_under_every_option(tiny: MLLM, pictures, options: dict):
    questions = ["what color is the star ?", "how many ?"]
    with attach(tiny, SparseVLM(**options), 40) as trace:
        together = tiny.answer(pictures[:2], questions, max_new_tokens=2)
        alone = [
            tiny.answer([picture], [question], max_new_tokens=2)[0]
            for picture, question in zip(pictures, questions, strict=False)
        ]
    assert together == alone and trace.samples[:2] == trace.samples[2:]
