"""The oracle is a plain loop over the decoder's layers without cache or hooks: `recompute`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from compress.attach.session import Record, attach
from compress.base import INPUT, VISION, Selection, Selector, View, top_k
from compress.models.loading import MLLM

QUESTIONS = [
    "what color is the star ?",
    "how many ?",
    "is there a red circle above ?",
    "what shape is large ?",
]
STEPS = 6
pytestmark = pytest.mark.versions


@dataclass
class Stages(Selector):
    """Keeps the tokens with the largest norm, as many as `counts` says for each depth."""

    counts: dict[int, int] = field(default_factory=lambda: {INPUT: 30})

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return self.counts

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(view.hidden.norm(dim=-1), keep))


class Ragged(Stages):
    """Keeps one token less for every word of the prompt."""

    def select(self, view: View, keep: int) -> Selection:
        return super().select(view, keep - len(view.text))


class Falling(Stages):
    """Keeps the longest at the first stage, the longest first, and their order at all later ones."""

    def select(self, view: View, keep: int) -> Selection:
        if view.depth != min(self.counts):
            return super().select(view, keep)
        index = view.hidden.norm(dim=-1).sort(descending=True).indices[:keep]
        return Selection(index, view.hidden[index])


class Fixed(Stages):
    """Keeps every third token, whatever the values."""

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(0, 3 * keep, 3))


class Pairs(Stages):
    """Merges token 2i with token 2i + 1, and puts the mean of all first."""

    def select(self, view: View, keep: int) -> Selection:
        index = torch.cat([torch.tensor([-1]), torch.arange(0, 2 * keep - 2, 2)])
        return Selection(index, merge_pairs(view.hidden, keep))


def merge_pairs(hidden: Tensor, keep: int) -> Tensor:
    return torch.cat([hidden.mean(0, keepdim=True), (hidden[0::2] + hidden[1::2])[: keep - 1] / 2])


def run(mllm: MLLM, inputs, **options):
    """Sequences of new tokens [B, STEPS] and their logits [B, STEPS, V]."""
    output = mllm.model.generate(
        **inputs,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return output.sequences[:, -STEPS:], torch.stack(output.logits, 1)


@torch.no_grad()
def recompute(
    mllm: MLLM, picture, question: str, new: Tensor, record: Record, positions: str, merged: bool = False
) -> Tensor:
    """Logits [STEPS, V] for new tokens [STEPS] of one sample, each layer from scratch under a causal mask."""
    embedded = mllm.embed(picture, question)
    decoder, start, tokens = mllm.decoder, int(embedded.visual[0]), len(embedded.visual)
    rows = torch.cat([embedded.embeds, decoder.embed_tokens(new[:-1])])
    place = torch.arange(len(rows))
    current = torch.arange(tokens)  # untouched indices of the visual tokens in `rows`

    def cut(depth: int, visual: Tensor) -> None:
        nonlocal rows, place, current
        kept = torch.tensor(record.kept[depth])
        at = torch.cat([(current == each).nonzero()[0] if each >= 0 else torch.tensor([0]) for each in kept])
        values = merge_pairs(visual, len(kept)) if merged else visual[at]
        if depth == VISION:
            values = mllm.projector(values)
        end = start + len(current)
        place = torch.cat([place[:start], place[start:end][at], place[end:]])
        rows, current = torch.cat([rows[:start], values, rows[end:]]), kept

    if VISION in record.kept:
        output = mllm.tower(mllm.prepare([picture], [question])["pixel_values"], output_hidden_states=True)
        cut(VISION, output.hidden_states[-2][0, 1:])
    for number, layer in enumerate(decoder.layers):
        if number in record.kept:
            cut(number, rows[start : start + len(current)])
        ids = place if positions == "original" else torch.arange(len(rows))
        mask = torch.full((len(rows), len(rows)), -torch.inf).triu(1)
        tables = decoder.rotary_emb(rows, position_ids=ids[None])
        rows = layer(rows[None], attention_mask=mask[None, None], position_embeddings=tables)[0]
    return mllm.head(decoder.norm(rows[-STEPS:]))


def hooks(mllm: MLLM) -> list[tuple]:
    return [
        (name, *module._forward_hooks.values(), *module._forward_pre_hooks.values())
        for name, module in mllm.model.named_modules()
    ]


SCHEDULES = [
    {VISION: 40},
    {INPUT: 40},
    {1: 40},
    {3: 40},
    {5: 9},
    {INPUT: 60, 2: 30, 4: 12},
    {VISION: 90, 3: 20},
]


# Keeping all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("depth", [VISION, INPUT, 1, 4])
def test_keeping_all_is_bit_identical(tiny: MLLM, pictures, batch: int, depth: int):
    inputs = tiny.prepare(pictures[:batch], QUESTIONS[:batch])
    sequences, logits = run(tiny, inputs)
    with attach(tiny, Stages({depth: 144}), 144) as trace:
        same, identical = run(tiny, inputs)
    assert torch.equal(same, sequences) and torch.equal(identical, logits)
    assert [record.entering for record in trace.samples] == [[144] * 6] * batch


@pytest.mark.parametrize("depth", [VISION, INPUT, 1, 4])
def test_a_sample_that_keeps_all_is_unharmed_by_one_that_does_not(tiny: MLLM, pictures, depth: int):
    """Here the whole machinery runs on a sample that keeps everything: masks, gathering, decoding."""

    class Half(Stages):
        def select(self, view: View, keep: int) -> Selection:
            return Selection(torch.arange(len(view.hidden)) if len(view.text) == 10 else torch.arange(70))

    assert len(tiny.processor.tokenizer.tokenize(tiny.prompt(QUESTIONS[0]))) == 11  # with one image token
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    expected = run(tiny, inputs)[1]
    with attach(tiny, Half({depth: 143}), 143, match="tokens") as trace:
        logits = run(tiny, inputs)[1]
    assert [record.entering[-1] for record in trace.samples] == [144, 70]
    torch.testing.assert_close(logits[0], expected[0], atol=1e-5, rtol=1e-5)
    assert (logits[1, 0] - expected[1, 0]).abs().max() > 0.1


# Decoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "counts", "positions"),
    [
        *product([Stages], SCHEDULES, ["original", "compact"]),
        *product([Ragged, Falling], SCHEDULES[::3], ["original"]),
        *product([Ragged, Falling], SCHEDULES[5:6], ["original", "compact"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_decoding_equals_recomputation_from_scratch(
    tiny: MLLM, pictures, method, counts: dict[int, int], positions: str
):
    """A left-padded batch against one unpadded sample at a time: also shows that batch and singles agree."""
    counts = {depth: count + 30 for depth, count in counts.items()} if method is Ragged else counts
    inputs = tiny.prepare(pictures, QUESTIONS)
    plain = run(tiny, inputs)[1]
    with attach(tiny, method(counts), 16, match="tokens", positions=positions) as trace:
        new, logits = run(tiny, inputs)
    assert len({tuple(sequence) for sequence in new.tolist()}) > 1
    for sample, record in enumerate(trace.samples):
        expected = recompute(tiny, pictures[sample], QUESTIONS[sample], new[sample], record, positions)
        torch.testing.assert_close(logits[sample], expected, atol=2e-5, rtol=1e-5)
        assert (logits[sample, 0] - plain[sample, 0]).abs().max() > 0.05  # and pruning does change the answer


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("depth", [VISION, INPUT, 2])
def test_merged_tokens_go_on_in_their_own_order(tiny: MLLM, pictures, depth: int, positions: str):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    with attach(tiny, Pairs({depth: 21}), 21, match="tokens", positions=positions) as trace:
        new, logits = run(tiny, inputs)
    for sample, record in enumerate(trace.samples):
        assert record.kept[depth] == [-1, *range(0, 40, 2)] and all(record.merged[depth])
        expected = recompute(
            tiny, pictures[sample], QUESTIONS[sample], new[sample], record, positions, merged=True
        )
        torch.testing.assert_close(logits[sample], expected, atol=2e-5, rtol=1e-5)


def test_a_later_stage_keeps_the_order_of_merged_tokens(tiny: MLLM, pictures):
    """What a merging stage put out of order is not out of order for the stages after it."""

    class Turned(Stages):
        def select(self, view: View, keep: int) -> Selection:
            if view.depth == INPUT:
                index = torch.arange(2 * keep - 2, -1, -2)
                return Selection(index, view.hidden[index] + 1)
            return Selection(torch.arange(keep))

    with attach(tiny, Turned({INPUT: 40, 2: 3}), 3, match="tokens") as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], QUESTIONS[:1]))
    assert trace.samples[0].kept[2] == [78, 76, 74]


def test_tokens_that_merging_happened_not_to_change_may_stand_in_any_order(tiny: MLLM, pictures):
    class Unchanged(Stages):
        def select(self, view: View, keep: int) -> Selection:
            index = torch.arange(keep).flip(0)
            return Selection(index, view.hidden[index])

    with attach(tiny, Unchanged({3: 3}), 3, match="tokens") as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], QUESTIONS[:1]))
    assert trace.samples[0].kept[3] == [2, 1, 0]


def test_original_and_compact_positions_differ(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    logits = {}
    for positions in ("original", "compact"):
        with attach(tiny, Stages(), 30, positions=positions):
            logits[positions] = run(tiny, inputs)[1]
    assert (logits["original"] - logits["compact"])[:, 0].abs().max() > 0.05


def test_a_method_brings_its_own_positions(tiny: MLLM, pictures):
    class Compact(Stages):
        positions = "compact"

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Compact(), 30):
        own = run(tiny, inputs)[1]
    with attach(tiny, Stages(), 30, positions="compact"):
        asked = run(tiny, inputs)[1]
    assert torch.equal(own, asked)


@pytest.mark.parametrize("counts", SCHEDULES, ids=str)
def test_the_decoder_and_its_cache_really_are_shorter(tiny: MLLM, pictures, counts: dict[int, int]):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    text = inputs["input_ids"].shape[1] - 144
    with attach(tiny, Stages(counts), 16, match="tokens") as trace, torch.no_grad():
        output = tiny.model(**inputs, use_cache=True)
    (record,) = trace.samples
    lengths = [layer.keys.shape[2] - text for layer in output.past_key_values.layers]
    assert lengths == record.entering and record.text == text
    assert output.logits.shape[1] == text + record.entering[-1]


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("counts", [{INPUT: 30}, {2: 30}])
def test_calling_the_model_by_hand_equals_generate(
    tiny: MLLM, pictures, counts: dict[int, int], positions: str
):
    """Without position ids the model would count its first cache, which is shorter than the sequence."""
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Stages(counts), 16, match="tokens", positions=positions), torch.no_grad():
        new, expected = run(tiny, inputs)
        output = tiny.model(**inputs, use_cache=True)
        for step in range(STEPS):
            torch.testing.assert_close(output.logits[:, -1], expected[:, step], atol=1e-5, rtol=1e-5)
            output = tiny.model(new[:, step : step + 1], past_key_values=output.past_key_values)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("depth", [VISION, INPUT])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_static_cache_of_the_shorter_length_equals_a_dynamic_one(
    tiny: MLLM, pictures, batch: int, depth: int, positions: str
):
    """Before the decoder, nothing knows of dropping: all layers and their caches have one length."""
    inputs = tiny.prepare(pictures[:batch], QUESTIONS[:batch])
    text = int((inputs["input_ids"] != tiny.image_token_id).sum(1).max())
    cache = StaticCache(config=tiny.decoder.config, max_cache_len=text + 30 + STEPS)
    with attach(tiny, Stages({depth: 30}), 30, positions=positions), torch.no_grad():
        new, expected = run(tiny, inputs)
        output = tiny.model(**inputs, past_key_values=cache)
        for step in range(STEPS):
            torch.testing.assert_close(output.logits[:, -1], expected[:, step], atol=1e-5, rtol=1e-5)
            output = tiny.model(new[:, step : step + 1], past_key_values=cache)


@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_no_layer_has_a_hook_of_a_method_before_the_decoder(tiny: MLLM, depth: int):
    def hooks() -> list[int]:
        """transformers leaves some of its own where hidden states were once asked for."""
        return [len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in tiny.decoder.layers]

    before = hooks()
    with attach(tiny, Stages({depth: 30}), 30):
        assert hooks() == before


def test_beams_of_a_batch_equal_beams_of_singles(tiny: MLLM, pictures):
    options = {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    for counts in ({VISION: 20}, {INPUT: 20}, {2: 20}):
        with attach(tiny, Stages(counts), 20, match="tokens", positions="compact") as trace:
            together = tiny.model.generate(**tiny.prepare(pictures, QUESTIONS), **options)[:, -5:]
            assert len(trace.samples) == 4 * 3
            for sample in range(4):
                alone = tiny.prepare(pictures[sample : sample + 1], QUESTIONS[sample : sample + 1])
                assert torch.equal(tiny.model.generate(**alone, **options)[0, -5:], together[sample])


def test_text_without_image_passes_through(tiny: MLLM):
    words = tiny.processor.tokenizer("user : how many ? assistant :", return_tensors="pt")
    expected = run(tiny, words)[1]
    with attach(tiny, Stages(), 30) as trace:
        assert torch.equal(run(tiny, words)[1], expected)
    assert trace.samples[0].entering == [0] * 6 and trace.samples[0].text == 7


@pytest.mark.parametrize("depth", [VISION, INPUT, 2])
def test_text_passes_through_after_an_image_too(tiny: MLLM, pictures, depth: int):
    words = tiny.processor.tokenizer("user : how many ? assistant :", return_tensors="pt")
    expected = run(tiny, words)[1]
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Stages({depth: 30}), 30, match="tokens") as trace:
        run(tiny, inputs)
        assert torch.equal(run(tiny, words)[1], expected)
        tiny.model.get_image_features(inputs["pixel_values"])  # for no call of the model
        assert torch.equal(run(tiny, words)[1], expected)
    assert [record.tokens for record in trace.samples] == [144, 0, 0]


# Dropped means gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [INPUT, 2, 5])
def test_dropped_tokens_cannot_influence_later_layers(tiny: MLLM, pictures, depth: int):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    starts = [(row == tiny.image_token_id).nonzero()[0].item() for row in inputs["input_ids"]]

    def answer(token: int) -> Tensor:
        def disturb(hidden: Tensor) -> Tensor:
            hidden = hidden.clone()
            for sample, start in enumerate(starts if hidden.shape[1] > 1 else []):
                hidden[sample, start + token] += 10
            return hidden

        def whole(module, args, kwargs):
            return args, {**kwargs, "inputs_embeds": disturb(kwargs["inputs_embeds"])}

        def layer(module, args, kwargs):
            return (disturb(args[0]), *args[1:]), kwargs

        module, hook = (tiny.decoder.layers[depth], layer) if depth else (tiny.decoder, whole)
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with attach(tiny, Fixed({depth: 20}), 20, match="tokens"):
                return run(tiny, inputs)[1]
        finally:
            handle.remove()

    with attach(tiny, Fixed({depth: 20}), 20, match="tokens"):
        expected = run(tiny, inputs)[1]
    assert torch.equal(answer(token=4), expected)  # dropped
    assert (answer(token=6) - expected).abs().amax((1, 2)).min() > 0.01  # kept


# What methods see -------------------------------------------------------------------------------------------


class Look(Stages):
    """Remembers its views."""

    tower_layers = (0, -2)

    def __init__(self, counts: dict[int, int]):
        super().__init__(counts)
        self.views: list[View] = []

    def select(self, view: View, keep: int) -> Selection:
        self.views.append(view)
        self.seed, self.cls, self.keys = view.seed(), view.cls(-2), view.keys(0)
        if view.depth > 0:
            self.attention = {layer: view.attention(layer, [-1, 0]) for layer in (view.depth - 1, view.depth)}
        return super().select(view, keep)


def test_views_show_aligned_embeddings_prompt_and_place_at_every_depth(tiny: MLLM, pictures):
    embedded = tiny.embed(pictures[1], QUESTIONS[1])
    is_text = torch.ones(len(embedded.embeds), dtype=torch.bool).index_fill(0, embedded.visual, False)
    look = Look({INPUT: 60, 3: 20})
    with attach(tiny, look, 20, match="tokens") as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:2], QUESTIONS[:2]))  # the second sample is padded
    first, later = look.views[1], look.views[3]
    assert (first.depth, later.depth) == (0, 3)
    for view in (first, later):
        assert view.before == 2 and view.grid == (12, 12)
        torch.testing.assert_close(view.text, embedded.embeds[is_text], atol=1e-5, rtol=1e-5)
        aligned = embedded.embeds[embedded.visual][view.index]
        torch.testing.assert_close(view.visual, aligned, atol=1e-5, rtol=1e-5)
    assert torch.equal(first.hidden, first.visual)
    assert later.index.tolist() == trace.samples[1].kept[INPUT]
    assert not torch.allclose(later.hidden, later.visual)


def test_views_at_vision_show_the_towers_features_and_cls(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    look = Look({VISION: 20})
    with attach(tiny, look, 20), torch.no_grad():
        tiny.model(**inputs)
        expected = None
    with torch.no_grad():
        expected = tiny.tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
    for sample, view in enumerate(look.views):
        assert torch.equal(view.hidden, expected[sample, 1:])
        assert view.cls_token is not None and torch.equal(view.cls_token, expected[sample, :1])
        assert view.visual.shape == (0, 64) and len(view.text) == [10, 7][sample]


def test_attention_rows_are_those_of_eager_attention_in_a_padded_batch(tiny: MLLM, pictures, tiny_folder):
    from transformers import AutoModelForImageTextToText

    eager = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    look = Look({2: 20})
    with torch.no_grad():
        attentions = eager(**inputs, output_attentions=True).attentions
        with attach(tiny, look, 20, match="tokens"):
            tiny.model(**inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(min=0))
    padding = int((inputs["attention_mask"][1] == 0).sum())
    for layer, rows in look.attention.items():  # of the second, padded sample
        expected = attentions[layer][1][:, [-1, padding], padding + 2 : padding + 146]
        assert rows.shape == (4, 2, 144) and expected[:, 0].std() > 1e-3
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)


def test_the_seed_is_the_samples_own(tiny: MLLM, pictures):
    def seeds(order: list[int]) -> list[int]:
        look = Look({INPUT: 20})
        collected = []
        look.select = lambda view, keep: collected.append(view.seed()) or Selection(torch.arange(keep))  # type: ignore
        with attach(tiny, look, 20):
            tiny.model.generate(
                **tiny.prepare([pictures[i] for i in order], [QUESTIONS[i] for i in order]), max_new_tokens=1
            )
        return collected

    together = seeds([0, 1, 2])
    assert len(set(together)) == 3
    assert [seeds([each])[0] for each in range(3)] == together
    assert seeds([2, 0]) == [together[2], together[0]]


def test_signals_that_were_not_declared_are_refused(tiny: MLLM, pictures):
    class Undeclared(Stages):
        def select(self, view: View, keep: int) -> Selection:
            return Selection(top_k(view.cls(-2).sum(0), keep))

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with pytest.raises(ValueError, match="tower_layers lists none"), attach(tiny, Undeclared(), 30):
        tiny.model(**inputs)


def test_a_distant_layers_attention_is_refused(tiny: MLLM, pictures):
    class Distant(Stages):
        def select(self, view: View, keep: int) -> Selection:
            return Selection(top_k(view.attention(0, [-1])[:, 0].sum(0), keep))

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with (
        pytest.raises(ValueError, match="decoder layer 0 cannot be read at this depth, only 2 and 3"),
        attach(tiny, Distant({3: 30}), 30, match="tokens"),
    ):
        tiny.model(**inputs)


# The trace --------------------------------------------------------------------------------------------------


def test_the_trace_is_exact_over_several_calls(tiny: MLLM, pictures):
    with attach(tiny, Stages({VISION: 90, 1: 40, 4: 7}), 7, match="tokens") as trace:
        tiny.answer(pictures[:2], QUESTIONS[:2])
        tiny.answer(pictures[2:3], QUESTIONS[2:3])
    assert len(trace.samples) == 3
    for record in trace.samples:
        assert record.entering == [90, 40, 40, 40, 7, 7]
        assert [len(record.kept[depth]) for depth in (VISION, 1, 4)] == [90, 40, 7]
        assert set(record.kept[4]) < set(record.kept[1]) < set(record.kept[VISION]) < set(range(144))
        assert not any(any(flags) for flags in record.merged.values())
    assert trace.samples[0].kept != trace.samples[2].kept


# Nothing stays behind ---------------------------------------------------------------------------------------


def test_no_hook_remains_even_after_an_exception(tiny: MLLM, pictures):
    class Broken(Stages):
        def select(self, view: View, keep: int) -> Selection:
            raise RuntimeError("broken method")

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    expected = run(tiny, inputs)[1]
    before = hooks(tiny)
    for counts in ({VISION: 20}, {INPUT: 20}, {3: 20}):
        with (
            pytest.raises(RuntimeError, match="broken"),
            attach(tiny, Broken(counts), 20, match="tokens"),
        ):
            assert hooks(tiny) != before
            run(tiny, inputs)
        assert hooks(tiny) == before
    with attach(tiny, Stages(), 30):
        run(tiny, inputs)
    assert hooks(tiny) == before
    assert torch.equal(run(tiny, inputs)[1], expected)


def test_a_failed_call_does_not_disturb_the_next(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Stages(), 30) as trace:
        expected = run(tiny, inputs)[1]
        with pytest.raises(RuntimeError):
            tiny.model(**{**inputs, "pixel_values": inputs["pixel_values"][:, :1]})
        embeds = tiny.embed(pictures[0], QUESTIONS[0]).embeds[None]  # parts of the model are left alone
        assert tiny.decoder(inputs_embeds=embeds).last_hidden_state.shape == embeds.shape
        assert torch.equal(run(tiny, inputs)[1], expected)
    assert len(trace.samples) == 2


def test_features_are_not_taken_for_those_of_the_image_before(tiny: MLLM, pictures):
    first, second = (tiny.prepare([picture], QUESTIONS[:1]) for picture in pictures[:2])
    with torch.no_grad():
        given = {"image": tiny.model.get_image_features(second["pixel_values"])}
    words = {name: second[name] for name in ("input_ids", "attention_mask")}
    with attach(tiny, Look({INPUT: 20}), 20), torch.no_grad():
        tiny.model(**first)
        with pytest.raises(ValueError, match="reads the image: give pixel_values"):
            tiny.model(**words, mm_encoder_outputs=given)


def test_a_bare_model_works_as_the_adapter_does(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Stages(), 30):
        expected = run(tiny, inputs)[1]
    with attach(tiny.model, Stages(), 30):
        assert torch.equal(run(tiny, inputs)[1], expected)


# Refusals ---------------------------------------------------------------------------------------------------


def test_two_methods_at_once_are_refused(tiny: MLLM):
    with attach(tiny, Stages(), 30):
        with pytest.raises(ValueError, match="attached already"), attach(tiny.model, Stages(), 30):
            pass
        assert hooks(tiny)


def test_a_budget_out_of_range_is_refused_before_anything_is_attached(tiny: MLLM):
    before = hooks(tiny)
    with (
        pytest.raises(ValueError, match="keep=200: choose between 1 and the 144"),
        attach(tiny, Stages(), 200),
    ):
        pass
    with (
        pytest.raises(ValueError, match="'original' or 'compact'"),
        attach(tiny, Stages(), 9, positions="packed"),
    ):  # type: ignore[arg-type]
        pass
    assert hooks(tiny) == before


def test_another_kind_of_model_is_refused():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    with (
        pytest.raises(ValueError, match="LlamaForCausalLM is not"),
        attach(LlamaForCausalLM(config), Stages()),
    ):
        pass


def test_a_tower_layer_that_does_not_exist_is_refused(tiny: MLLM):
    class Deep(Stages):
        tower_layers = (22,)

    with pytest.raises(ValueError, match="reads tower layer 22: the tower has 4"), attach(tiny, Deep(), 30):
        pass


def test_a_static_cache_is_refused_where_layers_differ_in_length(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    refused = pytest.raises(ValueError, match="Stages drops tokens between them: use the default")
    with attach(tiny, Stages({2: 30}), 30, match="tokens"), torch.no_grad(), refused:
        tiny.model.generate(**inputs, max_new_tokens=2, cache_implementation="static")


def test_inputs_that_cannot_be_compressed_are_refused(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    embeds = tiny.merge(inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with attach(tiny, Stages(), 30) as trace, torch.no_grad():
        with pytest.raises(ValueError, match="masks of the untouched length for a static cache"):
            tiny.model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        with pytest.raises(ValueError, match="inputs_embeds"):
            tiny.model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=2)
        with pytest.raises(ValueError, match="labels do not line up"):
            tiny.model(**inputs, labels=ids)
        with pytest.raises(ValueError, match="pad on the left"):
            tiny.model(**{**inputs, "attention_mask": mask.flip(1)})
        with pytest.raises(ValueError, match="2-D mask"):
            tiny.model(**{**inputs, "attention_mask": mask[:, None, None]})
        with pytest.raises(ValueError, match="284 of the 288 visual tokens of the images: give every"):
            tiny.model(torch.cat([ids[:1, 1:], ids[:1, :-2]], 1)[:, 5:], inputs["pixel_values"])
        with pytest.raises(ValueError, match="one token at a time"):
            output = tiny.model(**inputs, use_cache=True)
            tiny.model(ids[:, -2:], past_key_values=output.past_key_values)
        with pytest.raises(ValueError, match="without prefill_chunk_size"):
            tiny.model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=100)
    assert len(trace.samples) == 2


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(torch.tensor([3, 3, 5])), "unique, ascending unless tokens are"),
        (Selection(torch.tensor([5, 3])), "unique, ascending unless tokens are"),
        (Selection(torch.tensor([5, 3, 5]), reordered=True), "unique, ascending unless tokens are"),
        (Selection(torch.tensor([5, 3, 5]), torch.zeros(3, 64)), "unique, ascending unless tokens are"),
        (Selection(torch.zeros(0, dtype=torch.long)), "give 1 to N int64 rows"),
        (Selection(torch.ones(144, dtype=torch.bool)), "give 1 to N int64 rows"),
        (Selection(torch.arange(3), torch.zeros(2, 64)), r"give \[K, C\]"),
    ],
)
def test_a_method_that_breaks_the_contract_is_told_so(
    tiny: MLLM, pictures, selection: Selection, message: str
):
    class Wrong(Stages):
        def select(self, view: View, keep: int) -> Selection:
            return selection

    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with pytest.raises(ValueError, match=message), attach(tiny, Wrong(), 30):
        tiny.model(**inputs)


@dataclass
class Listening(Selector):
    """Keeps the first tokens and remembers the view."""

    at: int = 3
    tower_layers = (-1, 0)

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION: 100, self.at: keep}

    def select(self, view: View, keep: int) -> Selection:
        self.seen = view
        self.signals = (view.cls(-1), view.scores(0), view.keys(0))
        if view.depth > 0:
            self.rotated = view.decoder_keys(view.depth - 1), view.decoder_keys(view.depth)
        order = torch.arange(len(view.hidden) - 1, -1, -1)
        return Selection(order[:keep].sort().values)


def test_a_view_inside_the_decoder_has_the_signals_of_its_own_tokens(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    selector = Listening()
    with attach(tiny, selector, 40, match="tokens"), torch.no_grad():
        tiny.model(**inputs)
        attention, scores, keys = selector.signals
    with torch.no_grad():
        tower = tiny.tower(inputs["pixel_values"], output_hidden_states=True, output_attentions=False)
    layer, hidden = (
        tiny.tower_layers[0].self_attn,
        tiny.tower_layers[0].layer_norm1(tower.hidden_states[0][0]),
    )
    projected = layer.k_proj(hidden).unflatten(-1, (layer.num_heads, -1))
    query = layer.q_proj(hidden[0]).unflatten(-1, (layer.num_heads, -1))
    view = selector.seen
    torch.testing.assert_close(keys, projected[1:][view.index])
    expected = (projected * query).sum(-1).T * layer.scale
    torch.testing.assert_close(scores[:, :1], expected[:, :1])
    torch.testing.assert_close(scores[:, 1:], expected[:, 1:][:, view.index])
    assert attention.shape == (4, 100) and (attention.sum(1) < 1).all()
    assert (
        view.inputs is not None and view.inputs.shape == (100, 64) and torch.equal(view.inputs, view.visual)
    )
    assert view.context is not None and view.context.shape == (len(view.text), 64)
    torch.testing.assert_close(view.norm(view.hidden), tiny.decoder.norm(view.hidden))


def test_rotated_keys_are_those_that_the_layer_caches(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    selector = Listening()
    with attach(tiny, selector, 40, match="tokens"), torch.no_grad():
        cache = tiny.model(**inputs).past_key_values
    (visual, text), (_, _) = selector.rotated
    cached = cache.layers[2].keys[0].transpose(0, 1)  # [L, H, d]
    before = selector.seen.before
    torch.testing.assert_close(visual, cached[before : before + 100])
    torch.testing.assert_close(text, torch.cat([cached[:before], cached[before + 100 :]]))


def test_the_flops_of_the_selection_are_counted_when_asked_for(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    for count in (True, False):
        with attach(tiny, Listening(), 40, match="tokens", count_flops=count) as trace, torch.no_grad():
            tiny.model(**inputs)
        if count:
            # The keys of 145 rows alone are 2 * 145 * 48 * 48, and are asked for three times.
            assert all(record.selection_flops > 1e6 for record in trace.samples)
        else:
            assert [record.selection_flops for record in trace.samples] == [None, None]


@dataclass
class Threshold(Selector):
    """Keeps what is longer than the mean: as many as that may be."""

    adaptive: bool = True

    def select(self, view: View, keep: int) -> Selection:
        assert keep == 0
        norm = view.hidden.norm(dim=-1)
        return Selection((norm > norm.mean()).nonzero()[:, 0])


def test_an_adaptive_method_decides_how_many_tokens_stay(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures, QUESTIONS)
    with attach(tiny, Threshold(), 7) as trace, torch.no_grad():
        tiny.model(**inputs)
    counts = [record.entering[0] for record in trace.samples]
    assert len(set(counts)) > 1 and all(7 < count < 144 for count in counts)


def several_images(mllm: MLLM, pictures):
    """A prompt of two images with text around them, and one of three in a row, left-padded."""
    image = "<image> "
    prompts = [
        f"user : {image}what is the {image}left of ? assistant :",
        f"user : {image}{image}{image}how many ? assistant :",
    ]
    inputs = mllm.processor(
        images=[pictures[:2], [pictures[2], pictures[3], pictures[0]]], text=prompts, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    alone = [
        mllm.processor(images=[pictures[:2]], text=prompts[:1], return_tensors="pt"),
        mllm.processor(
            images=[[pictures[2], pictures[3], pictures[0]]], text=prompts[1:], return_tensors="pt"
        ),
    ]
    return inputs, alone


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize(
    "counts", [{INPUT: 30}, {VISION: 40}, {1: 50, 4: 20}, {VISION: 100, INPUT: 60, 3: 30}]
)
def test_every_image_of_a_prompt_is_selected_from_by_itself(tiny: MLLM, pictures, counts, positions):
    together, alone = several_images(tiny, pictures)
    last = min(counts.values())
    with attach(tiny, Stages(counts), last, match="tokens", positions=positions) as trace:
        _, batch = run(tiny, together)
        singles = torch.cat([run(tiny, inputs)[1] for inputs in alone])
    torch.testing.assert_close(batch, singles, atol=2e-5, rtol=1e-5)
    assert len(trace.samples) == 10 and trace.samples[:5] == trace.samples[5:]
    assert all(record.entering[-1] == last and record.tokens == 144 for record in trace.samples)
    assert trace.samples[0].kept != trace.samples[1].kept  # different images, different tokens


def test_all_tokens_of_several_images_are_the_untouched_model(tiny: MLLM, pictures):
    together, _ = several_images(tiny, pictures)
    expected = run(tiny, together)[1]
    with attach(tiny, Stages({VISION: 144}), 144):
        assert torch.equal(run(tiny, together)[1], expected)


def test_a_second_image_that_keeps_all_leaves_only_the_first_shorter(tiny: MLLM, pictures):
    """Equal to a mask over what the first image dropped."""

    class First(Stages):
        def select(self, view: View, keep: int) -> Selection:
            return Selection(top_k(view.hidden.norm(dim=-1), keep if view.before < 4 else len(view.hidden)))

    inputs = several_images(tiny, pictures)[1][0]
    with attach(tiny, First(), 30) as trace, torch.no_grad():
        logits = tiny.model(**inputs).logits[0, -1]
    assert [record.entering[0] for record in trace.samples] == [30, 144]
    images = (inputs["input_ids"][0] == tiny.image_token_id).nonzero()[:, 0]
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, images[:144]] = 0
    mask[0, images[torch.tensor(trace.samples[0].kept[INPUT])]] = 1
    with torch.no_grad():
        positions = torch.arange(mask.shape[1])[None]
        expected = tiny.model(**{**inputs, "attention_mask": mask}, position_ids=positions).logits[0, -1]
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
