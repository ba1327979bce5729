"""The oracle is a plain loop over tower and decoder, without hooks and caches: `Plain`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.mustdrop import MustDrop
from compress.attach.session import attach
from compress.base import VISION, TowerView, View
from compress.budget import entering, plan
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?"]
STEPS = 5


def tower_view(hidden: Tensor, grid: tuple[int, int]) -> TowerView:
    return TowerView(0, hidden, torch.ones(len(hidden)), torch.arange(len(hidden)), grid)


def decoder_view(attention: Tensor, cls: Tensor, entered: int) -> View:
    """A view at depth 3 with text-to-image attention [T, N] and CLS attention [N]; one text token before."""
    tokens, hidden = len(cls), torch.zeros(len(cls), 2)
    return View(
        depth=3, hidden=hidden, visual=hidden, text=torch.zeros(1 + len(attention), 2),
        index=torch.arange(tokens), grid=(1, tokens), before=1, inputs=torch.zeros(entered, 2),
        cls=lambda layer: {-1: cls[None]}[layer],
        attention=lambda layer, rows: {2: attention[torch.as_tensor(rows) - 1][None]}[layer],
    )  # fmt: skip


# In the tower -----------------------------------------------------------------------------------------------


def test_a_windows_score_is_the_mean_cosine_of_its_pairs():
    hidden = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # 2 of 6 pairs are parallel
    score, patches = MustDrop.windows(hidden, (2, 2), 2)
    assert score.tolist() == pytest.approx([1 / 3]) and patches.tolist() == [[0, 1, 2, 3]]


def test_uniform_windows_become_one_token_and_go_first():
    """Of four windows the lower left is uniform and the upper right nearly so."""
    rows, columns = torch.arange(36) // 6, torch.arange(36) % 6
    hidden = F.one_hot(torch.arange(36)).float()
    hidden[(rows >= 3) & (columns < 3)] = 1.0
    hidden[(rows < 3) & (columns >= 3), 0] = 2.0
    merge = MustDrop().merge(tower_view(hidden, (6, 6)), 36 - 16)
    assert merge.index[:2].tolist() == [4 * 6 + 1, 1 * 6 + 4]  # their middles
    upper_left_and_lower_right = [n for n in range(36) if (n // 6 < 3) == (n % 6 < 3)]
    assert merge.index[2:].tolist() == upper_left_and_lower_right
    assert (merge.into.reshape(6, 6)[3:, :3] == 0).all() and (merge.into.reshape(6, 6)[:3, 3:] == 1).all()
    assert torch.equal(merge.into[merge.index], torch.arange(20))


def test_the_threshold_decides_when_adaptive():
    hidden = torch.randn(36, 8, generator=torch.Generator().manual_seed(0))
    hidden.reshape(6, 6, 8)[:3, :3] = 1.0
    view = tower_view(hidden, (6, 6))
    assert len(MustDrop(adaptive=True).merge(view, 0).index) == 36 - 8
    assert len(MustDrop(adaptive=True, similarity=-1.0).merge(view, 0).index) == 4
    untouched = MustDrop(adaptive=True, similarity=1.1).merge(view, 0)
    assert untouched.index.tolist() == untouched.into.tolist() == list(range(36))


def test_patches_beyond_the_last_full_window_stay():
    hidden = torch.ones(5 * 7, 2)
    merge = MustDrop().merge(tower_view(hidden, (5, 7)), 35 - 16)  # both windows of the first three rows
    beyond = [n for n in range(35) if n // 7 >= 3 or n % 7 == 6]
    assert merge.index.tolist() == [8, 11, *beyond]
    with pytest.raises(ValueError, match="11 patches cannot be reached.*5 x 7 have 2 windows.*leave 19"):
        MustDrop().merge(tower_view(hidden, (5, 7)), 11)


# Budgets ----------------------------------------------------------------------------------------------------


def test_stages_lie_after_the_papers_layers_and_scale():
    assert list(MustDrop().schedule(576, 100, 32)) == [VISION, 3, 7, 11, 15]
    assert list(MustDrop().schedule(144, 16, 12)) == [VISION, 1, 3, 4, 6]
    assert [MustDrop().cut_caches_from(layers) for layers in (32, 12)] == [2, 0]


def test_each_stage_passes_on_the_same_share():
    counts = MustDrop().schedule(576, 18, 32)  # a half, five times
    assert counts == {VISION: 288, 3: 144, 7: 72, 11: 36, 15: 18}
    assert plan(MustDrop(), 576, 192, 32) == {VISION: 424, 3: 310, 7: 227, 11: 166, 15: 122}


@pytest.mark.parametrize(("tokens", "window"), [(144, 3), (144, 2), (576, 3), (36, 3)])
def test_windows_are_whole_and_every_last_count_is_possible(tokens: int, window: int):
    means = []
    for keep in range(1, tokens):
        counts = list(MustDrop(window).schedule(tokens, keep, 32).values())
        assert counts == sorted(counts, reverse=True) and counts[-1] == keep
        assert (tokens - counts[0]) % (window**2 - 1) == 0 and counts[0] >= tokens / window**2
        means.append(sum(entering(MustDrop(window).schedule(tokens, keep, 32), tokens, 32)))
    assert means == sorted(means)


def test_the_tower_alone_merges_whole_windows():
    alone = MustDrop(stages="tower")
    for keep, windows in ((192, 48), (128, 56), (64, 64)):  # as LightCompress does
        assert plan(alone, 576, keep, 32) == {VISION: keep}
        assert alone.tower(576, keep, 23) == {0: keep} and 576 - 8 * windows == keep
    assert alone.cut_caches_from(32) is None and alone.tower_layers == ()


@pytest.mark.parametrize(
    ("keep", "near"), [(48, "48"), (50, "48 and 56"), (143, "136 and 144"), (9, "16$"), (1, "16$")]
)
def test_a_budget_of_no_whole_windows_names_the_nearest(tiny: MLLM, keep: int, near: str):
    alone = MustDrop(stages="tower")
    if near == "48":
        with attach(tiny, alone, keep):
            return
    with (
        pytest.raises(ValueError, match=f"keep={keep}: one window of 3 x 3.*nearest possible.*are {near}"),
        attach(tiny, alone, keep),
    ):
        pass


def test_a_window_of_one_patch_is_refused():
    with pytest.raises(ValueError, match="window=1: choose 2 or more"):
        plan(MustDrop(window=1), 144, 48, 12)


# In the decoder ---------------------------------------------------------------------------------------------


def test_the_text_decides_but_key_tokens_stay():
    attention = torch.tensor([[0.1, 0.3, 0.0, 0.2, 0.0], [0.1, 0.0, 0.0, 0.3, 0.0]])
    cls = torch.tensor([0.0, 0.1, 0.0, 0.0, 0.9])
    view = decoder_view(attention, cls, entered=5)
    method = MustDrop(key_rate=0.2)
    assert [method.select(view, keep).index.tolist() for keep in (1, 2, 3, 4)] == [
        [4], [3, 4], [1, 3, 4], [0, 1, 3, 4],
    ]  # fmt: skip
    assert MustDrop(key_rate=0.0).select(view, 2).index.tolist() == [1, 3]


def test_cls_decides_among_key_tokens_that_do_not_all_fit():
    attention, cls = torch.tensor([[0.9, 0.0, 0.0, 0.0]]), torch.tensor([0.0, 0.1, 0.3, 0.2])
    view = decoder_view(attention, cls, entered=30)  # 3 of the 30 that entered are key tokens
    assert MustDrop(key_rate=0.1).select(view, 2).index.tolist() == [2, 3]


def test_the_share_of_key_tokens_is_that_of_the_tokens_that_entered():
    cls = torch.rand(1, 100, generator=torch.Generator().manual_seed(0))
    assert [len(MustDrop.key_tokens(cls, 0.08, entered)) for entered in (1, 12, 13, 100)] == [1, 1, 2, 8]


def test_thresholds_decide_when_adaptive():
    attention = torch.tensor([[0.4, 0.1, 0.02, 0.0], [0.4, 0.0, 0.02, 0.06]])  # sums .8, .1, .04, .06 of 1
    view = decoder_view(attention, torch.tensor([0.0, 0.0, 1.0, 0.0]), entered=4)

    def kept(**options: float) -> list[int]:
        return MustDrop(adaptive=True, **options).select(view, 0).index.tolist()  # type: ignore[arg-type]

    assert kept(global_threshold=0.08, individual_threshold=1.0, key_rate=0.0) == [0, 1]
    assert kept(global_threshold=0.08, individual_threshold=0.06, key_rate=0.0) == [0, 1, 3]
    assert kept(global_threshold=0.9, individual_threshold=0.9, key_rate=0.25) == [2]
    assert MustDrop().global_threshold == MustDrop().individual_threshold == 0.001


# Attached ---------------------------------------------------------------------------------------------------


@dataclass
class Plain:
    """What MustDrop does to one sample, by the description of the method."""

    mllm: MLLM
    method: MustDrop
    counts: dict[int, int]  # as scheduled; 0 = thresholds

    def answer(
        self, pixels: Tensor, embeds: Tensor, first: int, new: Tensor
    ) -> tuple[Tensor, list[list[int]]]:
        """Logits [STEPS, V] of the answer `new`, and the tokens of each decoder layer, by their row there.

        embeds [S, D] are the untouched prompt, whose 144 visual tokens begin at row `first`.
        """
        decoder = self.mllm.decoder
        features, cls = self.tower(pixels)
        key = cls.topk(ceil(self.method.key_rate * len(features))).indices.tolist()
        rows = torch.cat([embeds[:first], self.mllm.projector(features), embeds[first + 144 :]])
        current = list(range(len(features)))
        inputs: list[tuple[Tensor, list[int]]] = []
        for number, layer in enumerate(decoder.layers):
            if number in self.counts:
                attention = self.weights(decoder.layers[number - 1], inputs[-1][0])
                attention = attention[first + len(current) :, first : first + len(current)]
                stays = self.stays(
                    attention, [current.index(each) for each in key if each in current], number
                )
                end = first + len(current)
                rows = torch.cat([rows[:first], rows[first:end][stays], rows[end:]])
                current = [current[place] for place in stays]
            inputs.append((rows, current))
            rows = self.run(layer, rows, torch.arange(len(rows)))[0]
        logits = [rows[-1]]

        past = []
        for number, (rows, tokens) in enumerate(inputs):
            left = [place for place, token in enumerate(tokens) if token in current]
            if number < self.method.cut_caches_from(len(inputs)):
                left = list(range(len(tokens)))
            image = [first + place for place in left]
            kept = [*range(first), *image, *range(first + len(tokens), len(rows))]
            past.append((rows[kept], torch.tensor(kept), len(rows)))
        for step, token in enumerate(new[:-1]):
            row = decoder.embed_tokens(token[None])
            for number, layer in enumerate(decoder.layers):
                rows, places, length = past[number]
                rows, places = torch.cat([rows, row]), torch.cat([places, torch.tensor([length + step])])
                past[number] = rows, places, length
                row = self.run(layer, rows, places)[0, -1:]
            logits.append(row[0])
        return self.mllm.head(decoder.norm(torch.stack(logits))), [tokens for _, tokens in inputs]

    def tower(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features [M, C] and attention of CLS in the last layer [M], mean over heads."""
        tower, depth = self.mllm.tower, self.mllm.tower_depth
        *blocks, last = self.mllm.tower_layers
        outputs = [tower.pre_layrnorm(tower.embeddings(pixels[None]))]
        for number, block in enumerate(blocks):
            hidden = block(outputs[-1], None)
            if number == 0 and VISION in self.counts:
                hidden = torch.cat([hidden[:, :1], self.merged(hidden[0, 1:])[None]], 1)
            outputs.append(hidden)
        attention, normed = last.self_attn, last.layer_norm1(outputs[-1][0])
        query, key = (
            project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj)
        )
        weights = (query @ key.transpose(1, 2) * attention.scale).softmax(-1)
        return outputs[depth][0, 1:], weights[:, 0, 1:].mean(0)

    def merged(self, patches: Tensor) -> Tensor:
        side = self.method.window
        scored = []
        for top, left in product(range(0, 12, side), repeat=2):
            window = [12 * (top + down) + left + across for down, across in product(range(side), repeat=2)]
            cosines = [
                float(F.cosine_similarity(patches[one], patches[other], dim=0))
                for one, other in product(window, repeat=2)
                if one != other
            ]
            scored.append((sum(cosines) / len(cosines), window))
        scored.sort(key=lambda pair: -pair[0])
        count = sum(score >= self.method.similarity for score, _ in scored)
        if self.counts[VISION]:
            count = (144 - self.counts[VISION]) // (side**2 - 1)
        best = [window for _, window in scored[:count]]
        alone = [patch for patch in range(144) if not any(patch in window for window in best)]
        return torch.stack([patches[each].mean(0) for each in [*best, *([patch] for patch in alone)]])

    def stays(self, attention: Tensor, key: list[int], number: int) -> list[int]:
        total, largest = attention.sum(0), attention.max(0).values
        if self.counts[number]:
            others = [each for each in total.argsort(descending=True).tolist() if each not in key]
            return sorted([*key, *others][: self.counts[number]])
        seen = (total >= self.method.global_threshold * total.sum()) | (
            largest >= self.method.individual_threshold
        )
        return sorted({*seen.nonzero()[:, 0].tolist(), *key})

    def weights(self, layer, rows: Tensor) -> Tensor:
        """Causal attention [L, L], mean over heads."""
        attention, normed = layer.self_attn, layer.input_layernorm(rows)
        tables = self.mllm.decoder.rotary_emb(rows, position_ids=torch.arange(len(rows))[None])
        turned = []
        for project in (attention.q_proj, attention.k_proj):
            states = project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
            one, other = states.chunk(2, -1)
            turned.append(states * tables[0] + torch.cat([-other, one], -1) * tables[1])
        query, key = turned
        key = key.repeat_interleave(len(query) // len(key), 0)
        future = torch.ones(len(rows), len(rows)).triu(1).bool()
        scores = (query @ key.transpose(1, 2) * attention.head_dim**-0.5).masked_fill(future, -torch.inf)
        return scores.softmax(-1).mean(0)

    def run(self, layer, rows: Tensor, places: Tensor) -> Tensor:
        mask = torch.full((len(rows), len(rows)), -torch.inf).triu(1)
        tables = self.mllm.decoder.rotary_emb(rows, position_ids=places[None])
        return layer(rows[None], attention_mask=mask[None, None], position_embeddings=tables)


METHODS = {
    "budget 20": (MustDrop(), 20),
    "budget 5": (MustDrop(), 5),  # fewer than key tokens
    "small windows": (MustDrop(window=2), 30),
    "thresholds": (
        MustDrop(adaptive=True, similarity=0.9, global_threshold=0.007, individual_threshold=0.05), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_features_prefill_and_decoding_equal_a_plain_loop(tiny: MLLM, pictures, name: str, monkeypatch):
    """A left-padded batch against one unpadded sample at a time."""
    method, keep = METHODS[name]
    inputs = tiny.prepare(pictures[:3], QUESTIONS)
    seen, lengths = [], []
    project = tiny.projector.forward
    monkeypatch.setattr(tiny.projector, "forward", lambda rows: (seen.append(rows), project(rows))[1])
    with attach(tiny, method, keep, match="tokens") as trace:
        handle = tiny.tower_layers[1].register_forward_pre_hook(
            lambda _, args: lengths.append(args[0].shape[1])
        )
        try:
            output = tiny.model.generate(
                **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        finally:
            handle.remove()
    new, logits = output.sequences[:, -STEPS:], torch.stack(output.logits, 1)
    features = [rows for rows in seen if rows.ndim == 2]
    assert lengths == [1 + max(map(len, features))] and lengths[0] < 145

    counts = plan(method, 144, keep, tiny.layers, "tokens")
    plain = Plain(tiny, method, counts)
    for sample, record in enumerate(trace.samples):
        embedded = tiny.embed(pictures[sample], QUESTIONS[sample])
        with torch.no_grad():
            pixels = inputs["pixel_values"][sample]
            torch.testing.assert_close(features[sample], plain.tower(pixels)[0], atol=2e-5, rtol=1e-4)
            expected, tokens = plain.answer(pixels, embedded.embeds, int(embedded.visual[0]), new[sample])
        assert record.entering == list(map(len, tokens))
        assert record.cached == [record.entering[-1]] * tiny.layers
        torch.testing.assert_close(logits[sample], expected, atol=5e-5, rtol=1e-4)
    if method.adaptive:
        assert len({record.entering[0] for record in trace.samples}) > 1  # every image as it is
        assert all(record.entering[-1] < record.entering[0] for record in trace.samples)
