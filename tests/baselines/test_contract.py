"""What every registered method owes: a new line in METHODS is tested the moment it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import METHODS
from compress.attach.session import attach
from compress.budget import entering, plan
from compress.models.loading import MLLM, MODELS, load
from tests.methods import OF_IMAGES, REPRESENTATIVES, make, way

QUESTIONS = [
    "what color is the star ?",
    "how many ?",
    "is there a red circle above ?",
    "what shape is large ?",
]
COMPRESSING = sorted(set(OF_IMAGES) - {"none"})
# `make versions` runs the marked ones: how a method acts may depend on transformers, its rule does not
EVERY = [pytest.param(name, marks=[pytest.mark.versions] * (name in REPRESENTATIVES)) for name in OF_IMAGES]
IMPOSSIBLE = {  # what methods cannot do on the tiny model, and the nearest that they offer instead
    ("downsample", 143): "132 and 144",
    ("tome", 16): "18 of 144",
    ("tome", 2): "18 of 144",
    ("tome", 1): "18 of 144",
}


def budgets(*counts: int) -> list[tuple[str, int]]:
    return [pair for pair in product(COMPRESSING, counts) if pair not in IMPOSSIBLE]


def run(mllm: MLLM, inputs, steps: int = 2):
    output = mllm.model.generate(
        **inputs,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits, 1)


def hooks(mllm: MLLM) -> int:
    modules = mllm.model.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_does(name: str):
    assert METHODS[name].__doc__ and not METHODS[name].__doc__.startswith(METHODS[name].__name__ + "(")


def test_every_way_to_act_has_a_representative(tiny: MLLM):
    methods = {name: make(name, tiny) for name in OF_IMAGES}
    known = [way(methods[name]) for name in REPRESENTATIVES]
    assert {name for name, method in methods.items() if way(method) not in known} == set()


@cache
def reachable(mllm: MLLM, name: str) -> list[float]:
    """Visual tokens per decoder layer of all schedules of a method."""
    schedules = [plan(make(name, mllm), 144, last, mllm.layers, "tokens") for last in range(1, 145)]
    return [sum(entering(schedule, 144, mllm.layers)) / mllm.layers for schedule in schedules]


@pytest.mark.parametrize(("name", "keep"), budgets(143, 64, 40))
def test_the_average_budget_is_met_to_the_nearest_token(tiny: MLLM, pictures, name: str, keep: int):
    """To half a token; a method whose counts come in larger steps has no schedule that is nearer."""
    nearest = min(abs(mean - keep) for mean in reachable(tiny, name))
    with attach(tiny, make(name, tiny), keep) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:2], QUESTIONS[:2]))
    for record in trace.samples:
        assert abs(sum(record.entering) / tiny.layers - keep) <= max(0.5, nearest) <= 1


@pytest.mark.parametrize(("name", "keep"), IMPOSSIBLE)
def test_an_impossible_budget_is_refused_with_the_nearest_possible(tiny: MLLM, name: str, keep: int):
    before = hooks(tiny)
    with (
        pytest.raises(ValueError, match=f"keep={keep}: .*{IMPOSSIBLE[name, keep]}"),
        attach(tiny, make(name, tiny), keep),
    ):
        pass
    assert hooks(tiny) == before


@pytest.mark.parametrize(("name", "keep"), budgets(143, 16, 2, 1))
def test_the_nominal_budget_is_exact(tiny: MLLM, pictures, name: str, keep: int):
    with attach(tiny, make(name, tiny), keep, match="tokens") as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:2], QUESTIONS[:2]))
    for record in trace.samples:
        assert record.entering[-1] == keep
        last = record.kept[max(record.kept)]
        places = [place for place in last if place >= 0]
        assert len(last) == keep and len(set(places)) == len(places) and set(places) <= set(range(144))


@pytest.mark.parametrize("name", EVERY)
def test_keeping_all_is_the_untouched_model(tiny: MLLM, pictures, name: str):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    expected = run(tiny, inputs)
    with attach(tiny, make(name, tiny), 144):
        assert torch.equal(run(tiny, inputs), expected)


def check_a_batch(mllm: MLLM, pictures, name: str, positions: str) -> None:
    with attach(mllm, make(name, mllm), 40, positions=positions) as trace:
        together = run(mllm, mllm.prepare(pictures[:3], QUESTIONS[:3]), 3)
        alone = [
            run(mllm, mllm.prepare([picture], [question]), 3)[0]
            for picture, question in zip(pictures[:3], QUESTIONS[:3], strict=True)
        ]
    assert torch.equal(together.argmax(-1), torch.stack(alone).argmax(-1))
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert trace.samples[:3] == trace.samples[3:]


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_equals_its_samples_one_by_one(tiny: MLLM, pictures, name: str):
    check_a_batch(tiny, pictures, name, "original")


@pytest.mark.versions
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_batch_of_compact_positions_equals_its_samples(tiny: MLLM, pictures, name: str):
    check_a_batch(tiny, pictures, name, "compact")


@pytest.mark.parametrize("name", COMPRESSING)
def test_compression_changes_the_answer(tiny: MLLM, pictures, name: str):
    """Otherwise the equalities above would mean nothing."""
    inputs = tiny.prepare(pictures, QUESTIONS)
    expected = run(tiny, inputs, 1)
    with attach(tiny, make(name, tiny), 40):
        assert ((run(tiny, inputs, 1) - expected)[:, 0].abs().amax(1) > 0.05).all()


@pytest.mark.parametrize("name", OF_IMAGES)
def test_the_same_run_twice_gives_the_same_tokens_whatever_the_global_seed(tiny: MLLM, pictures, name: str):
    inputs = tiny.prepare(pictures[:2], QUESTIONS[:2])
    method, found = make(name, tiny), []
    with attach(tiny, method, 40) as trace:
        for seed in 1, 2:
            torch.manual_seed(seed)
            found.append(run(tiny, inputs))
    assert torch.equal(*found) and trace.samples[:2] == trace.samples[2:]


@pytest.mark.parametrize("name", EVERY)
def test_nothing_stays_attached(tiny: MLLM, pictures, name: str):
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    expected, before = run(tiny, inputs), hooks(tiny)
    with attach(tiny, make(name, tiny), 40):
        run(tiny, inputs)
    assert hooks(tiny) == before and torch.equal(run(tiny, inputs), expected)


@pytest.fixture(scope="module")
def half(tiny_folder: Path) -> MLLM:
    return load(str(tiny_folder), dtype=torch.bfloat16)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_half_precision_works(half: MLLM, pictures, name: str):
    with attach(half, make(name, half), 40) as trace:
        logits = run(half, half.prepare(pictures[:2], QUESTIONS[:2]))
    assert torch.isfinite(logits).all() and len(trace.samples) == 2


@pytest.mark.parametrize("name", OF_IMAGES)
def test_no_gradient_and_no_weight_is_touched(tiny: MLLM, pictures, name: str):
    before = tiny.fingerprint()
    with attach(tiny, make(name, tiny), 40):
        tiny.answer(pictures[:1], QUESTIONS[:1], max_new_tokens=2)
    assert tiny.fingerprint() == before


@pytest.mark.parametrize("name", EVERY)
def test_the_cache_of_every_layer_holds_what_the_record_says(tiny: MLLM, pictures, name: str):
    """Several stages leave caches of several lengths, and cut ones are short from the first stage on."""
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with attach(tiny, make(name, tiny), 40) as trace, torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
    (record,) = trace.samples
    assert [layer.keys.shape[2] for layer in cache.layers] == [record.text + kept for kept in record.cached]
    assert all(cached <= entered for cached, entered in zip(record.cached, record.entering, strict=True))


@pytest.mark.parametrize("name", COMPRESSING)
def test_lines_of_pixels_are_compressed_like_images(tiny_next: MLLM, name: str):
    """Of some of them no crop has a token, only the thumbnail."""
    shapes = [(1, 1), (60, 30), (200, 1), (1, 180)]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in shapes]
    with attach(tiny_next, make(name, tiny_next), 30, match="tokens") as trace, torch.no_grad():
        tiny_next.model(**tiny_next.prepare(images, QUESTIONS))
    assert trace.samples[2].tokens == tiny_next.tile_tokens
    assert all(1 <= record.entering[-1] <= 30 for record in trace.samples)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_only_methods_that_read_the_text_depend_on_the_question(tiny: MLLM, pictures, name: str):
    chosen = []
    for question in QUESTIONS[0], QUESTIONS[2]:
        with attach(tiny, make(name, tiny), 40, match="tokens") as trace, torch.no_grad():
            tiny.model(**tiny.prepare(pictures, [question] * len(pictures)))
        chosen.append([record.kept for record in trace.samples])
    reading = METHODS[name].reads_text or name == "random"  # which draws by the question
    assert (chosen[0] != chosen[1]) == reading, "reads_text says whether the question counts"


@pytest.mark.parametrize("name", OF_IMAGES)
def test_the_order_of_a_batch_does_not_matter(tiny: MLLM, pictures, name: str):
    with attach(tiny, make(name, tiny), 40) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures, QUESTIONS))
        tiny.model(**tiny.prepare(pictures[::-1], QUESTIONS[::-1]))
    assert trace.samples[:4] == trace.samples[:3:-1]


OTHERS = {"tiny_next": 30, "tiny_next_fixed": 30, "tiny_wide": 40, "tiny_qwen": 14}
TWINS = {"micro-next": 125, "micro-qwen": 16, "micro-qwen3": 16, "micro-wide": 20}


@pytest.fixture(scope="module", params=OTHERS.items(), ids=lambda family: family[0])
def other(request: pytest.FixtureRequest) -> tuple[MLLM, int]:
    """A random model of another family or size, and a budget."""
    name, keep = request.param
    return request.getfixturevalue(name), keep


@pytest.fixture(
    scope="module", params=[each for each in TWINS.items() if each[0] in MODELS], ids=lambda each: each[0]
)
def twin(request: pytest.FixtureRequest) -> tuple[MLLM, int]:
    """A trained one. In double precision: sums of its large logits depend on the batch in the fifth digit."""
    name, keep = request.param
    return load(name, dtype=torch.float64), keep


@contextmanager
def running_or_refused(mllm: MLLM) -> Iterator[None]:
    """Methods of a CLIP tower, or of a text tower, may be refused where there is none, and only there."""
    try:
        yield
    except ValueError as problem:
        if "names no CLIP" in str(problem):
            assert not hasattr(mllm.model.config, "mm_vision_tower")
        else:
            assert "CLIP tower" in str(problem) and not mllm.clip_tower


def check_all_kept(mllm: MLLM, pictures, name: str) -> None:
    inputs = mllm.prepare([pictures[0], pictures[1].resize((60, 30))], QUESTIONS[:2])
    expected, before = run(mllm, inputs), hooks(mllm)
    with running_or_refused(mllm), attach(mllm, make(name, mllm), mllm.visual_tokens):
        assert torch.equal(run(mllm, inputs), expected)
    assert hooks(mllm) == before


def check_shapes(mllm: MLLM, pictures, name: str, keep: int) -> None:
    shapes = [pictures[1].resize((60, 30)), pictures[2].resize((26, 40))]
    inputs = mllm.prepare(shapes, QUESTIONS[:2])
    with running_or_refused(mllm), attach(mllm, make(name, mllm), keep, match="tokens") as trace:
        together = run(mllm, inputs)
        alone = [
            run(mllm, mllm.prepare([picture], [question]))[0]
            for picture, question in zip(shapes, QUESTIONS, strict=False)
        ]
        assert torch.equal(together.argmax(-1), torch.stack(alone).argmax(-1))
        torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
        assert trace.samples[:2] == trace.samples[2:]


@pytest.mark.versions
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_other_families_are_untouched_while_all_is_kept(pictures, name: str, other: tuple[MLLM, int]):
    check_all_kept(other[0], pictures, name)


@pytest.mark.parametrize("name", EVERY)
def test_other_families_give_the_same_in_a_batch(pictures, name: str, other: tuple[MLLM, int]):
    check_shapes(other[0], pictures, name, other[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_trained_models_of_other_families_do_both(pictures, name: str, twin: tuple[MLLM, int]):
    check_all_kept(twin[0], pictures, name)
    check_shapes(twin[0], pictures, name, twin[1])
