"""Videos of every family that reads them, on a tiny random model of each; the oracle is the stock model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from baselines import METHODS
from compress.attach.session import attach
from compress.base import INPUT, Selection, View
from compress.labels.fitness import AnswerLoss
from compress.models import frames
from compress.models.conversation import Turn
from compress.models.loading import MLLM, adapt, load
from compress.models.shapes import random_inputs
from compress.video import Video
from tests.compress.models.test_battery import at_the_tower, hidden_from, last, logits, made, with_tokens
from tests.own_selectors import Share, images_of
from tests.tiny_families import AT_INPUT, BUILDERS, VIDEO, onevision

STEPS = 4
QUESTIONS = ["what color is the star ?", "how many ?"]


def video_of(count: int, size: tuple[int, int] = (48, 32), seed: int = 0, step: float = 1.0) -> Video:
    """A patch that moves over a still ground."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 80, (size[1], size[0], 3), dtype=np.uint8)
    shown = []
    for number in range(count):
        pixels = ground.copy()
        pixels[8:20, 4 * number : 4 * number + 12] = rng.integers(100, 255, 3)
        shown.append(Image.fromarray(pixels))
    return Video(tuple(shown), tuple(step * number for number in range(count)))


@pytest.fixture(scope="module", params=VIDEO)
def mllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(VIDEO[request.param](tmp_path_factory.mktemp("models") / request.param)))


@pytest.fixture(scope="module")
def video() -> Video:
    return video_of(6)


def run(mllm: MLLM, inputs: Any, **options: Any) -> Any:
    """What is generated never stands for a visual token."""
    return mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, suppress_tokens=[mllm.image_token_id, mllm.video_token_id], **options,
    )  # fmt: skip


def longer(mllm: MLLM, inputs: Any, new: Tensor) -> dict[str, Any]:
    """The prompt and these tokens, at the positions that `generate` gives them: behind the last text."""
    positions = mllm.positions(inputs, len(new))
    return {**with_tokens(inputs, new), "position_ids": positions[:, None] if mllm.mrope else positions[None]}


def rows(mllm: MLLM, inputs: Any) -> Tensor:
    return mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]


@pytest.mark.parametrize("depth", [INPUT, 2])
def test_a_stage_that_keeps_all_of_a_video_changes_no_bit(mllm: MLLM, video: Video, depth: int):
    inputs = mllm.prepare([video], QUESTIONS[:1])
    expected = logits(run(mllm, inputs))
    with attach(mllm, Share({depth: 1.0})) as trace:
        assert torch.equal(logits(run(mllm, inputs)), expected)
    assert [record.tokens for record in trace.samples] == [mllm.tokens_of(video)] == [len(rows(mllm, inputs))]


@pytest.mark.versions
@pytest.mark.parametrize("shares", [{INPUT: 0.3}, {1: 0.4}, {INPUT: 0.7, 1: 0.5, 4: 0.3}], ids=str)
@pytest.mark.parametrize("count", [6, 5, 1])
def test_dropping_tokens_of_a_video_equals_hiding_them(mllm: MLLM, shares, count: int):
    inputs = mllm.prepare([video_of(count)], QUESTIONS[:1])
    untouched = logits(run(mllm, inputs))
    with attach(mllm, Share(shares)) as trace:
        output = run(mllm, inputs)
    new = output.sequences[0, -STEPS:]
    with hidden_from(mllm, trace.samples[0].kept, rows(mllm, inputs)), torch.no_grad():
        whole = mllm.model(**longer(mllm, inputs, new[:-1]), use_cache=False).logits[:, -STEPS:]
    torch.testing.assert_close(logits(output), whole, atol=3e-5, rtol=1e-5)
    assert (logits(output) - untouched)[:, 0].abs().max() > 0.01


@pytest.mark.versions
def test_images_and_videos_of_a_batch_have_a_budget_each(mllm: MLLM, video: Video):
    """In any order inside a prompt, and in prompts of their own."""
    image, other = *images_of([(40, 40)]), video_of(6, seed=3, step=0.5)
    talks = [[Turn("user", QUESTIONS[0], [video, image, other])], [Turn("user", QUESTIONS[1], [image])],
             [Turn("user", QUESTIONS[1], [other])]]  # fmt: skip
    inputs = [mllm.prepare_conversations([talk]) for talk in talks]
    together = mllm.prepare_conversations(talks)
    counts = [[len(picture) for picture in mllm.visuals(each)] for each in inputs]
    pairs = mllm.visuals(inputs[0])[0].tiles
    assert counts[0] == [mllm.tokens_of(video), mllm.visuals(inputs[1])[0].__len__(), mllm.tokens_of(other)]
    for shares in ({INPUT: 0.3}, {INPUT: 0.8, 2: 0.3}):
        with attach(mllm, Share(shares)) as trace:
            found, alone = logits(run(mllm, together)), [run(mllm, each) for each in inputs]
        torch.testing.assert_close(found, torch.cat([logits(each) for each in alone]), atol=3e-5, rtol=1e-5)
        assert [record.tokens for record in trace.samples] == 2 * sum(counts, [])
        assert [record.frames for record in trace.samples] == 2 * [pairs, 0, pairs, 0, pairs]
        starts = np.cumsum([0, *counts[0]])
        kept = {
            depth: [start + at for start, record in zip(starts, trace.samples[:3], strict=False)
                    for at in record.kept[depth]]
            for depth in shares
        }  # fmt: skip
        new = alone[0].sequences[0, -STEPS:]
        with hidden_from(mllm, kept, rows(mllm, inputs[0])), torch.no_grad():
            whole = mllm.model(**longer(mllm, inputs[0], new[:-1]), use_cache=False).logits[:, -STEPS:]
        torch.testing.assert_close(logits(alone[0]), whole, atol=3e-5, rtol=1e-5)


@pytest.mark.versions
def test_beams_share_their_video(mllm: MLLM, video: Video):
    talks = [[Turn("user", QUESTIONS[0], [video, *images_of([(40, 40)])])],
             [Turn("user", QUESTIONS[1], [video_of(6, seed=3)])]]  # fmt: skip
    with attach(mllm, Share({2: 0.3})) as trace:
        together = run(mllm, mllm.prepare_conversations(talks), num_beams=3).sequences[:, -STEPS:]
        alone = [
            run(mllm, mllm.prepare_conversations([talk]), num_beams=3).sequences[0, -STEPS:] for talk in talks
        ]
    assert torch.equal(together, torch.stack(alone))
    assert len(trace.samples) in (6, 18)  # releases expand beams before or after the prefill


def test_a_view_says_which_frame_each_token_is_of(mllm: MLLM, video: Video):
    seen: list[View] = []

    class Looks(Share):
        tower_layers = (1, -1)
        cls = "received"

        def select(self, view: View, keep: int) -> Selection:
            if view.depth == INPUT:
                seen.append(view)
                self.signals = [view.received(1), view.received(-1), view.keys(1), view.queries(1)]
            return super().select(view, keep)

    looks = Looks({INPUT: 0.5, 1: 0.5})
    inputs = mllm.prepare([video], QUESTIONS[:1])
    with attach(mllm, looks):
        run(mllm, inputs)
    (view,) = seen
    picture = mllm.visuals(inputs)[0]
    size = view.grid[0] * view.grid[1]
    assert view.crop is None and view.frame is not None
    assert view.frames * size == int((view.frame >= 0).sum())
    assert view.frame[view.frame >= 0].tolist() == sorted(list(range(view.frames)) * size)
    assert view.frame.tolist() == picture.tile.tolist()
    # The tower sees each frame alone: what it makes of the same frame elsewhere is the same.
    swapped = Video(video.frames[2:4] + video.frames[:2] + video.frames[4:], video.times)
    first = [signal.clone() for signal in looks.signals]
    with attach(mllm, looks):
        run(mllm, mllm.prepare([swapped], QUESTIONS[:1]))
    pairs = view.frames == 3  # two frames are one in the tower
    order = [1, 0, 2] if pairs else [2, 3, 0, 1, 4, 5]
    moved = torch.tensor([frame * size + at for frame in order for at in range(size)])
    for before, after in zip(first, looks.signals, strict=True):
        token = 1 if before.ndim == 2 else 0
        torch.testing.assert_close(
            after.movedim(token, 0)[: len(moved)], before.movedim(token, 0)[moved], atol=1e-6, rtol=1e-5
        )
    assert (first[0][:, :size] - first[0][:, size : 2 * size]).abs().max() > 1e-4


def test_the_tower_tells_of_images_and_videos_of_a_prompt_each_ones_own(mllm: MLLM, video: Video):
    """The tower gets images first, whatever comes first in the prompt."""
    got: list[Tensor] = []

    class Looks(Share):
        tower_layers = (1,)
        cls = "received"

        def select(self, view: View, keep: int) -> Selection:
            got.append(torch.cat([view.received(1), view.keys(1).flatten(1).T]))
            return super().select(view, keep)

    (image,) = images_of([(40, 40)])
    shown = [video, image, video_of(6, seed=3)]
    with attach(mllm, Looks({INPUT: 0.5})), torch.no_grad():
        mllm.model(**mllm.prepare_conversations([[Turn("user", QUESTIONS[0], shown)]]))
        for one in shown:
            mllm.model(**mllm.prepare([one], QUESTIONS[:1]))
    together, alone = got[:3], got[3:]
    for found, expected in zip(together, alone, strict=True):
        if found.shape == expected.shape:  # OneVision cuts an image into crops where it is alone
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert [found.shape[1] for found in together[::2]] == [expected.shape[1] for expected in alone[::2]]


@pytest.mark.versions
def test_losses_of_a_video_equal_hiding(mllm: MLLM, video: Video):
    embedded = mllm.embed(video, QUESTIONS[0], "red circle")
    inputs = mllm.prepare([video], QUESTIONS[:1])
    rng, count = np.random.default_rng(0), len(embedded.visual)
    kept = np.sort(np.stack([rng.permutation(count)[: count // 3] for _ in range(3)]), 1)
    response = embedded.response
    for indices, found in zip(kept, AnswerLoss(mllm, embedded)(kept), strict=True):
        with hidden_from(mllm, {INPUT: indices.tolist()}, embedded.visual), torch.no_grad():
            whole = mllm.model(**longer(mllm, inputs, response[:-1]), use_cache=False)
        expected = torch.nn.functional.cross_entropy(whole.logits[0, -len(response) :], response)
        assert found == pytest.approx(expected.item(), abs=3e-5)
    picture = mllm.visuals(inputs)[0]
    assert embedded.grid == (picture.tiles * picture.grid[0], picture.grid[1])


def test_every_method_compresses_a_video_or_says_why_not(mllm: MLLM, video: Video):
    asked = [(video, QUESTIONS[0]), (video_of(6, seed=4), QUESTIONS[1])]
    both = mllm.prepare([shown for shown, _ in asked], [question for _, question in asked])
    single = mllm.prepare([video], QUESTIONS[:1])
    untouched, most = last(mllm, single), mllm.tokens_of(video)
    refused, compared = set(), set()
    for name in METHODS:
        method = made(mllm, name)
        if at_the_tower(mllm, method) or name == "none":
            continue
        with attach(mllm, method, max(most, mllm.visual_tokens)):
            assert torch.equal(last(mllm, single), untouched), name
        try:
            with attach(mllm, method, 12, match="tokens", positions="original") as trace:
                together, alone = last(mllm, both)[:1], last(mllm, single)
        except ValueError as told:
            assert "\n" not in str(told) and ("video" in str(told) or "thumbnail" in str(told)), (name, told)
            refused.add(name)
            continue
        torch.testing.assert_close(
            together, alone, atol=5e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}"
        )
        record = trace.samples[2]
        assert trace.samples[0] == record, name
        if not method.adaptive:
            assert record.entering[-1] == 12, name
        merges = any(map(any, record.merged.values())) or any(
            index != sorted(index) for index in record.kept.values()
        )
        if merges or method.cut_caches_from(mllm.layers) is not None:
            continue
        with hidden_from(mllm, record.kept, rows(mllm, single)):
            whole = last(mllm, {**single, "use_cache": False})
        torch.testing.assert_close(
            alone, whole, atol=5e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}"
        )
        compared.add(name)
    assert {"random", "fastv", "divprune", "evocomp"} <= compared
    assert refused <= {"hired", "globalcom2"}


def test_a_video_of_one_picture_has_the_pixels_of_an_image(mllm: MLLM):
    """What stock image processors make of a frame is what the tower gets of it."""
    (image,) = images_of([(48, 48)])
    inputs = mllm.prepare([image], QUESTIONS[:1])
    films = mllm.prepare([Video((image, image), (0.0, 0.5))], QUESTIONS[:1])
    found, expected = films["pixel_values_videos"], inputs["pixel_values"]
    if found.ndim == 5:
        found, expected = found[0, 0], expected.reshape(-1, *expected.shape[-3:])[0]
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    if found.ndim == 2:
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_prompts_of_qwen3_tell_the_time(tmp_path):
    mllm = load(str(BUILDERS["qwen3_vl"](tmp_path / "qwen3")))
    said = mllm.video_prompt(video_of(5, step=0.5))
    assert [part.partition(">")[0] for part in said.split("<") if "seconds" in part] == [
        "0.2 seconds", "1.2 seconds", "2.0 seconds"
    ]  # fmt: skip


def test_positions_of_qwen25_follow_the_rate(tmp_path):
    mllm = load(str(VIDEO["qwen2_5_vl"](tmp_path / "qwen")))
    slow, fast = (
        mllm.positions(mllm.prepare([video_of(6, step=step)], QUESTIONS[:1]), 2) for step in (2.0, 1.0)
    )
    per_second = mllm.model.config.vision_config.tokens_per_second
    times = [sorted({int(at) for at in found[0, 8:-12]}) for found in (slow, fast)]
    assert np.diff(times[0])[:2].tolist() == [4 * per_second] * 2
    assert np.diff(times[1])[:2].tolist() == [2 * per_second] * 2


@pytest.mark.parametrize("shares", [{INPUT: 1.0}, {2: 1.0}, {INPUT: 0.4}, {2: 0.4}], ids=str)
def test_plain_calls_go_on_behind_a_video_that_is_longer_than_its_text(tmp_path, shares):
    """The model's own calls go on after the last position of all, which is that of the last frames."""
    mllm = load(str(VIDEO["qwen2_5_vl"](tmp_path / "qwen")))
    inputs = mllm.prepare([video_of(6, step=9.0)], QUESTIONS[:1])
    prompt = mllm.positions(inputs, 0)
    assert prompt.max() > prompt[:, -1].max() + 10

    def two_steps() -> Tensor:
        with torch.no_grad():
            first = mllm.model(**inputs, use_cache=True)
            again = mllm.model(input_ids=torch.tensor([[30]]), past_key_values=first.past_key_values)
        return torch.cat([first.logits[0, -1:], again.logits[0, -1:]])

    stock = two_steps()
    with attach(mllm, Share(shares)) as trace:
        found = two_steps()
    if 1.0 in shares.values():
        assert torch.equal(found, stock)
        return
    after = torch.full((3, 1), int(prompt.max()) + 1)
    longer_prompt = {**with_tokens(inputs, torch.tensor([30])), "use_cache": False}
    longer_prompt["position_ids"] = torch.cat([prompt, after], 1)[:, None]
    with hidden_from(mllm, trace.samples[0].kept, rows(mllm, inputs)), torch.no_grad():
        whole = mllm.model(**longer_prompt).logits[0, -2:]
    torch.testing.assert_close(found, whole, atol=3e-5, rtol=1e-5)


def test_recurrent_decoders_read_videos_before_their_first_layer(tmp_path, video: Video):
    mllm = load(str(AT_INPUT["qwen3_5"](tmp_path / "qwen3_5")))
    inputs = mllm.prepare([video, video_of(6, seed=4)], QUESTIONS)
    with attach(mllm, METHODS["divprune"](), 12) as trace:
        together = last(mllm, inputs)
        alone = last(mllm, mllm.prepare([video], QUESTIONS[:1]))
    torch.testing.assert_close(together[:1], alone, atol=5e-5, rtol=1e-5)
    assert [record.entering[0] for record in trace.samples] == [12] * 3


def test_a_pooling_head_tells_of_frames_what_it_makes_of_them(tmp_path, video: Video):
    mllm = load(str(onevision(tmp_path / "headed", head=True)))
    got: list[tuple[Tensor, Tensor]] = []

    class Looks(Share):
        def select(self, view: View, keep: int) -> Selection:
            got.append(view.probe())
            return super().select(view, keep)

    inputs = mllm.prepare([video], QUESTIONS[:1])
    with attach(mllm, Looks({INPUT: 0.5})), torch.no_grad():
        mllm.model(**inputs)
        expected = mllm.tower(inputs["pixel_values_videos"][0])
    pooled, weights = got[0]
    torch.testing.assert_close(pooled, expected.pooler_output)
    rows_, columns = mllm.frame_grid
    assert weights.shape == (6 * rows_ * columns + 1,) and weights[-1] == 0
    torch.testing.assert_close(weights[:-1].view(6, -1).mean(1), torch.full((6,), 1 / 64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["internvl", "glm4v"])
def test_other_families_ask_for_frames_as_images(tmp_path, family: str):
    mllm = load(str(BUILDERS[family](tmp_path / family)))
    for given in (lambda: mllm.prepare([video_of(2)], ["?"]), lambda: mllm.tokens_of(video_of(2))):
        with pytest.raises(ValueError, match="reads no videos: give their frames as images"):
            given()


def test_videos_of_several_lengths_are_refused_where_towers_want_one(tmp_path):
    mllm = load(str(BUILDERS["llava_onevision"](tmp_path / "onevision")))
    with pytest.raises(ValueError, match="the videos have 4, 6 frames: .* one length in a batch"):
        mllm.prepare([video_of(4), video_of(6)], QUESTIONS)


@pytest.mark.parametrize(
    ("size", "least", "most", "count", "expected"),
    [
        ((1920, 1080), 128 * 28 * 28, 768 * 28 * 28, 1, (1008, 560)),
        ((48, 32), 16**2, 96**2, 1, (48, 32)),
        ((640, 480), 256 * 32 * 32, 32 * 32 * 768, 16, (256, 192)),
        ((64, 48), 128 * 32 * 32, 32 * 32 * 768, 4, (224, 160)),
    ],
)
def test_sizes_keep_limits_and_shape(size, least, most, count, expected):
    unit = 32 if count > 1 else {(48, 32): 8}.get(size, 28)
    width, height = frames.fitted_size(size, unit, least, most, count, 2 if count > 1 else 1)
    assert (width, height) == expected and width % unit == height % unit == 0
    assert count * width * height <= most


@pytest.mark.parametrize(
    ("shown", "times", "message"),
    [
        ([], (), "at least one frame"),
        ([(8, 8)], (0.0, 1.0), "1 frames and 2 times"),
        ([(8, 8), (8, 8)], (1.0, 1.0), "must rise"),
        ([(8, 8), (8, 9)], (0.0, 1.0), "the first has 8 x 8 pixels, another 8 x 9"),
    ],
)
def test_a_video_is_checked_where_it_is_made(shown, times, message: str):
    with pytest.raises(ValueError, match=message):
        Video(tuple(images_of(shown)), times)


def test_videos_of_noise_are_as_long_as_their_prompts_say(mllm: MLLM):
    """To measure time with: every family makes them without a processor."""
    inputs = random_inputs(adapt(mllm.model), text=7, batch=2, frames=5)
    (picture, _) = mllm.visuals(inputs)
    assert len(picture) == len(rows(mllm, inputs)) and picture.tiles in (3, 5)
    with attach(mllm, METHODS["random"](), "1/4") as trace, torch.no_grad():
        mllm.model(**inputs)
    assert [record.tokens for record in trace.samples] == [len(picture)] * 2
