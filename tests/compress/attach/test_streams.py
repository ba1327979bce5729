"""A cache goes on from its own prefill, and compiled or wrapped models are compressed like others."""

from __future__ import annotations

import gc
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from baselines import METHODS
from compress.attach.session import attach
from compress.base import INPUT, Selection, Selector, View, top_k
from compress.micro.world import render, scene
from compress.models.caches import CACHE, cache_in
from compress.models.loading import MLLM, load

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?"]
NEAR = {"atol": 2e-5, "rtol": 1e-5}
pytestmark = pytest.mark.versions


class Largest(Selector):
    """Keeps half of the tokens, those of largest norm; fewer for longer prompts."""

    adaptive = True

    def __init__(self, depth: int):
        self.depth = depth

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(view.hidden.norm(dim=-1), len(view.hidden) // 2 - len(view.text)))


@pytest.fixture(params=["tiny", "tiny_next", "tiny_qwen"])
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[INPUT, 2])
def method(request: pytest.FixtureRequest) -> Largest:
    return Largest(request.param)


def start(mllm: MLLM, pictures, questions=tuple(QUESTIONS)):
    """The cache of a batch that is padded on the left, with images of several shapes."""
    shapes = [pictures[0], pictures[1].resize((60, 30)), pictures[2].resize((26, 40))]
    return cache_in(mllm.model(**mllm.prepare(shapes[: len(questions)], questions), use_cache=True))


def step(mllm: MLLM, cache, ids: Tensor) -> Tensor:
    return mllm.model(ids, **{CACHE: cache}).logits[:, -1]


def token(rows: int, shift: int = 0) -> Tensor:
    return torch.arange(rows)[:, None] + 9 + shift


@torch.no_grad()
def test_copies_of_a_cache_go_on_alike(mllm: MLLM, pictures, method: Largest):
    with attach(mllm, method):
        cache = start(mllm, pictures)
        first, second = deepcopy(cache), deepcopy(cache)
        expected = step(mllm, first, token(3))
        step(mllm, first, token(3))
        assert torch.equal(step(mllm, second, token(3)), expected)
        assert torch.equal(step(mllm, cache, token(3)), expected)


@torch.no_grad()
def test_a_cache_goes_on_from_its_own_prefill(mllm: MLLM, pictures, method: Largest):
    """Not from the latest: prompts of other lengths and other images come in between."""
    with attach(mllm, method):
        expected = step(mllm, start(mllm, pictures), token(3))
        cache = start(mllm, pictures)
        other = start(mllm, pictures[::-1], ["what is the large one left of ?"])
        step(mllm, other, token(1))
        assert torch.equal(step(mllm, cache, token(3)), expected)


@torch.no_grad()
def test_a_cropped_cache_goes_on_as_if_it_had_never_been_longer(mllm: MLLM, pictures, method: Largest):
    turn = torch.tensor([[9, 10, 11]]).expand(3, -1)
    with attach(mllm, method, turns=True):
        cache = start(mllm, pictures)
        step(mllm, cache, token(3))
        shorter = deepcopy(cache)
        expected = step(mllm, cache, turn)
        step(mllm, shorter, turn + 2)
        shorter.crop(-3)
        torch.testing.assert_close(step(mllm, shorter, turn), expected, **NEAR)


@torch.no_grad()
def test_a_cache_may_be_cropped_into_the_text_behind_its_images_only(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    words = inputs["input_ids"][:, -3:]
    with attach(tiny, Largest(2), turns=True):
        output = tiny.model(**inputs, use_cache=True)
        cache = cache_in(output)
        cache.crop(-3)
        torch.testing.assert_close(step(tiny, cache, words), output.logits[:, -1], **NEAR)
        cache.crop(-9)
        with pytest.raises(ValueError, match="cropped by 9 tokens of the prompt, of which only the last 8"):
            step(tiny, cache, words)


@torch.no_grad()
def test_the_rows_of_a_cache_may_be_moved(mllm: MLLM, pictures, method: Largest):
    with attach(mllm, method):
        cache = start(mllm, pictures)
        step(mllm, cache, token(3))
        moved, chosen, repeated = deepcopy(cache), deepcopy(cache), deepcopy(cache)
        expected = step(mllm, cache, token(3, 3))
        moved.reorder_cache(torch.tensor([2, 0, 1]))
        chosen.batch_select_indices(torch.tensor([1]))
        repeated.batch_repeat_interleave(2)
        order = torch.tensor([2, 0, 1])
        torch.testing.assert_close(step(mllm, moved, token(3, 3)[order]), expected[order], **NEAR)
        torch.testing.assert_close(step(mllm, chosen, token(3, 3)[1:2]), expected[1:2], **NEAR)
        twice = torch.tensor([0, 0, 1, 1, 2, 2])
        torch.testing.assert_close(step(mllm, repeated, token(3, 3)[twice]), expected[twice], **NEAR)


@torch.no_grad()
def test_one_prompt_goes_on_in_several_ways(mllm: MLLM, pictures, method: Largest):
    with attach(mllm, method):
        cache = start(mllm, pictures, QUESTIONS[:1])
        expected = torch.cat([step(mllm, deepcopy(cache), each[None]) for each in token(4)])
        cache.batch_repeat_interleave(4)
        torch.testing.assert_close(step(mllm, cache, token(4)), expected, **NEAR)


@torch.no_grad()
def test_caches_from_elsewhere_are_refused(tiny: MLLM, pictures):
    unknown = pytest.raises(ValueError, match="was not filled inside this `with` block")
    outside = start(tiny, pictures)
    with attach(tiny, Largest(2)):
        inside = start(tiny, pictures)
        with unknown:
            step(tiny, outside, token(3))
        bare = DynamicCache()
        bare.layers = inside.layers
        with unknown:
            step(tiny, bare, token(3))
        with pytest.raises(ValueError, match="input_ids have 2 rows, and the cache has 3"):
            step(tiny, inside, token(2))
        cut = deepcopy(inside)
        cut.layers[0].crop(-1)
        with pytest.raises(ValueError, match="cut to one length, but compression left them at several"):
            step(tiny, cut, token(3))
    with attach(tiny, Largest(2)), unknown:
        step(tiny, inside, token(3))


@torch.no_grad()
def test_nothing_keeps_what_a_dropped_cache_needed(tiny: MLLM, pictures, monkeypatch: pytest.MonkeyPatch):
    sessions = []
    monkeypatch.setattr("compress.attach.session._attached", type("Spy", (set,), {})())
    from compress.attach import session as module

    made = module._Session
    monkeypatch.setattr(module, "_Session", lambda *given: sessions.append(made(*given)) or sessions[0])
    with attach(tiny, Largest(2)):
        cache = start(tiny, pictures)
        copy = deepcopy(cache)
        del cache
        gc.collect()
        assert len(sessions[0].prefills) == 1
        del copy
        gc.collect()
        assert len(sessions[0].prefills) == 0


@pytest.fixture(scope="module")
def micro() -> MLLM:
    return load("micro")


@pytest.mark.parametrize("name", ["none", "grid", "fastv"])
def test_guidance_by_another_prompt_has_a_stream_of_its_own(micro: MLLM, name: str):
    """Against two streams decoded apart, each over its whole sequence."""
    x = micro.prepare([render(scene("test", 9))], ["what color is the diamond ?"])
    words = micro.processor.tokenizer("describe the picture please .", return_tensors="pt")["input_ids"]
    selector = METHODS[name]()
    with attach(micro, selector, 144 if name == "none" else 48), torch.no_grad():
        guided = micro.model.generate(
            **x, guidance_scale=1.5, negative_prompt_ids=words, min_new_tokens=6, max_new_tokens=6,
            do_sample=False,
        )[0, -6:].tolist()  # fmt: skip
        output, aside = micro.model(**x, use_cache=True), micro.model(words, use_cache=True)
        apart, ends = [], micro.processor.tokenizer.eos_token_id
        caches = cache_in(output), cache_in(aside)
        scores = [each.logits[:, -1].log_softmax(-1) for each in (output, aside)]
        for _ in range(6):
            mixed = 1.5 * (scores[0] - scores[1]) + scores[1]
            mixed[:, ends] = -torch.inf
            apart.append(int(mixed.argmax()))
            ids = torch.tensor([apart[-1:]])
            scores = [step(micro, cache, ids).log_softmax(-1) for cache in caches]
    assert guided == apart
    if name == "grid":
        assert guided == [9, 37, 36, 38, 41, 23]


# Compiled and wrapped models -------------------------------------------------------------------------------


@pytest.fixture
def own(tiny_folder) -> MLLM:
    """A tiny model that a test may change."""
    return load(str(tiny_folder))


@pytest.fixture
def own_shallow(tiny_shallow) -> MLLM:
    return load(tiny_shallow.name)


def answer(model, inputs) -> list[int]:
    return model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)[0, -4:].tolist()


def compile_whole(model, inputs):
    return torch.compile(model, backend="eager")


def compile_in_place(model, inputs):
    model.compile(backend="eager")
    return model


def compile_forward(model, inputs):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compile_decoder(model, inputs):
    model.model.language_model = torch.compile(model.model.language_model, backend="eager")
    return model


def compile_decoder_in_place(model, inputs):
    model.model.language_model.compile(backend="eager")
    return model


def compile_layers(model, inputs):
    for layer in [*model.model.language_model.layers, *model.model.vision_tower.encoder.layers]:
        layer.compile(backend="eager")
    return model


WAYS = [
    compile_whole, compile_in_place, compile_forward, compile_decoder, compile_decoder_in_place,
    compile_layers,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("compiled", WAYS)
def test_a_compiled_model_is_compressed_like_another(
    tiny_shallow: MLLM, own_shallow: MLLM, pictures, compiled
):
    inputs = tiny_shallow.prepare(pictures[:1], QUESTIONS[:1])
    untouched = answer(tiny_shallow.model, inputs)
    model = compiled(own_shallow.model, inputs)
    assert answer(model, inputs) == untouched  # and so it is compiled before a method is there
    for name in ("grid", "fastv", "visionzip", "tome"):
        with attach(tiny_shallow, METHODS[name](), 60) as expected, torch.no_grad():
            tokens, logits = answer(tiny_shallow.model, inputs), tiny_shallow.model(**inputs).logits
        with attach(model, METHODS[name](), 60) as found, torch.no_grad():
            assert answer(model, inputs) == tokens
            torch.testing.assert_close(model(**inputs).logits, logits)
        assert found.samples == expected.samples and len(found.samples) == 2
    assert answer(model, inputs) == untouched


@pytest.mark.slow
def test_a_model_compiled_inside_the_block_is_compressed(tiny_shallow: MLLM, own_shallow: MLLM, pictures):
    inputs = tiny_shallow.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny_shallow, METHODS["fastv"](), 60), torch.no_grad():
        expected = tiny_shallow.model(**inputs).logits
    with attach(own_shallow, METHODS["fastv"](), 60) as trace, torch.no_grad():
        torch.testing.assert_close(
            torch.compile(own_shallow.model, backend="eager")(**inputs).logits, expected
        )
    assert len(trace.samples) == 1


def test_a_layer_that_is_not_reached_is_an_error(tiny: MLLM, pictures):
    """As when something calls the decoder's forward past its hooks."""
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, Largest(INPUT)) as trace, torch.no_grad():
        tiny.decoder._forward_pre_hooks.clear()
        with pytest.raises(RuntimeError, match="was asked at 0 of 6 decoder layers.*without its hooks"):
            tiny.model(**inputs)
    assert not trace.samples


class Wrapper(torch.nn.Module):
    """Calls as the wrapper of the peft library does: forward past hooks, generate of the model itself."""

    def __init__(self, model):
        super().__init__()
        self.peft_config, self.base_model = {}, model

    def get_base_model(self):
        return self.base_model

    def forward(self, *args, **kwargs):
        return self.base_model.forward(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base_model.generate(*args, **kwargs)


def test_a_model_with_adapters_around_it_is_compressed(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    model = Wrapper(tiny.model)
    with attach(tiny, Largest(2)) as expected, torch.no_grad():
        tokens, logits = answer(tiny.model, inputs), tiny.model(**inputs).logits
    with attach(model, Largest(2)) as trace, torch.no_grad():
        assert answer(model, inputs) == tokens
        torch.testing.assert_close(model(**inputs).logits, logits)
        with pytest.raises(ValueError, match="attached already"), attach(tiny, Largest(2)):
            pass
    assert trace.samples == expected.samples


def test_a_wrapper_that_is_unknown_is_refused(tiny: MLLM):
    model = torch.nn.Sequential(tiny.model)
    with pytest.raises(ValueError, match="Sequential is not a supported"), attach(model, Largest(2)):
        pass


# Other paths -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_outputs_may_be_tuples(mllm: MLLM, pictures, method: Largest):
    inputs = mllm.prepare(pictures[:1], QUESTIONS[:1])
    with attach(mllm, method) as trace:
        expected = mllm.model(**inputs, use_cache=True)
        logits, cache, *_ = mllm.model(**inputs, use_cache=True, return_dict=False)
        assert torch.equal(logits, expected.logits)
        after = mllm.model(token(1), return_dict=False, **{CACHE: cache})[0][:, -1]
        assert torch.equal(after, step(mllm, cache_in(expected), token(1)))
    assert len(trace.samples) == 2


@pytest.mark.parametrize("name", ["none", "fastv"])
def test_generate_without_a_cache_is_refused_or_right(mllm: MLLM, pictures, name: str):
    inputs = mllm.prepare(pictures[:1], QUESTIONS[:1])
    expected = answer(mllm.model, inputs)
    with attach(mllm, METHODS[name](), 14, match="tokens"):
        try:
            new = mllm.model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, use_cache=False)
        except ValueError as problem:
            assert "leave use_cache at True" in str(problem)
        else:
            assert name != "none" or new[0, -4:].tolist() == expected


def test_layers_that_run_again_in_the_backward_pass_are_refused(own: MLLM, pictures):
    inputs = own.prepare(pictures[:1], QUESTIONS[:1])
    own.model.train()
    own.model.gradient_checkpointing_enable()
    again = pytest.raises(ValueError, match="call model.gradient_checkpointing_disable")
    for name in ("tome", "fastv"):
        with attach(own, METHODS[name](), 40), again:
            own.model(**inputs)
    with attach(own, METHODS["grid"](), 40):  # the decoder gets fewer rows, and no layer is changed
        own.model(**inputs, use_cache=False).logits.sum().backward()
    assert own.tower_layers[0].mlp.fc1.weight.grad is not None
    own.model.gradient_checkpointing_disable()
    with attach(own, METHODS["tome"](), 40):
        own.model(**inputs).logits.sum().backward()


def state(mllm: MLLM) -> list:
    """Hooks and attributes of every module, and attributes that an object of a class has of its own."""
    return [
        (name, key, tuple(value) if isinstance(value, dict) else id(value))
        for name, module in mllm.model.named_modules()
        for key, value in vars(module).items()
        if key not in ("_parameters", "_buffers", "_modules", "rope_deltas")
    ]


class Broken(Selector):
    def __init__(self, depth: int):
        self.depth = depth

    def select(self, view: View, keep: int) -> Selection:
        raise KeyError("broken")


def test_no_attribute_stays_after_the_block(mllm: MLLM, pictures):
    inputs = mllm.prepare(pictures[:1], QUESTIONS[:1])
    before = state(mllm)
    for depth in (INPUT, 3):
        with attach(mllm, Largest(depth)):
            assert state(mllm) != before
            answer(mllm.model, inputs)
        assert state(mllm) == before
        with pytest.raises(KeyError), attach(mllm, Broken(depth), 14, match="tokens"):
            answer(mllm.model, inputs)
        assert state(mllm) == before


def test_methods_of_the_users_own_are_there_again_after_the_block(own: MLLM, pictures):
    inputs = own.prepare(pictures[:1], QUESTIONS[:1])
    seen = []
    forward, encode = own.model.forward, own.model.model.get_image_features
    own.model.forward = mine = lambda *args, **kwargs: seen.append("forward") or forward(*args, **kwargs)
    own.model.model.get_image_features = theirs = lambda *args, **kw: (
        seen.append("images") or encode(*args, **kw)
    )
    with attach(own, Largest(2)), torch.no_grad():
        own.model(**inputs)
    assert set(seen) == {"forward", "images"}
    assert own.model.forward is mine and own.model.model.get_image_features is theirs
