"""Prompts with any number of images in any family: answered and scored as one by one, and as by hand."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from baselines import KeepAll
from baselines.fastv import FastV
from bench.lmms.asking import Asker, Decoding
from compress.base import Selection, Selector, View
from compress.models.loading import MLLM, load
from compress.video import Video

GREEDY = Decoding.of({"max_new_tokens": 4, "min_new_tokens": 4})
SHAPES = [(48, 48), (60, 30), (20, 70)]  # width, height


class First(Selector):
    """Keeps the first tokens, and notes what it was shown."""

    def __init__(self) -> None:
        self.texts: list[int] = []

    def select(self, view: View, keep: int) -> Selection:
        self.texts.append(len(view.text))
        return Selection(torch.arange(keep))


@pytest.fixture(params=["tiny", "tiny_next", "tiny_qwen"])
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def images(pictures: list[Image.Image]) -> list[Image.Image]:
    return [picture.resize(size) for picture, size in zip(pictures, SHAPES, strict=False)]


def text_of(mllm: MLLM, prompt: str) -> str:
    return " ".join(prompt.replace(mllm.processor.image_token, "IMAGE").split())


def test_images_come_first_unless_the_text_says_where(mllm: MLLM, images):
    asker = Asker(mllm, KeepAll(), mllm.visual_tokens)
    assert asker.prompt("how many ?", images[:1]).text == mllm.prompt("how many ?")
    two = text_of(mllm, asker.prompt("what color ?", images[:2]).text)
    assert two.count("IMAGE") == 2 and two.rindex("IMAGE") < two.index("what color ?")
    placed = text_of(mllm, asker.prompt("is <image> left of <image> ?", images[:2]).text)
    before, between, after = placed.split("IMAGE")
    assert "is" in before.split() and "left of" in between and "?" in after
    assert "IMAGE" not in text_of(mllm, asker.prompt("how many ?", []).text)


def test_a_text_that_names_more_or_fewer_images_is_refused(tiny: MLLM, images):
    asker = Asker(tiny, KeepAll(), 144)
    with pytest.raises(ValueError, match="names 2 images or videos and 1 are given: '<image> or <image>"):
        asker.prompt("<image> or <image> ?", images[:1])
    with pytest.raises(ValueError, match="the text names 1 images or videos and 0 are given"):
        asker.prompt("<image> ?", [])


def test_videos_and_images_in_one_batch_equal_their_prompts_one_by_one(tiny_qwen: MLLM, images):
    asker = Asker(tiny_qwen, First(), 4)
    film = Video(tuple(image.resize((56, 56)) for image in images), (0.0, 0.5, 1.0))
    prompts = [
        asker.prompt("what color is the star ?", [film]),
        asker.prompt("is <image> in the <video> ?", [images[0], film]),
        asker.prompt("how many ?", images[:1]),
    ]
    token = tiny_qwen.video_token
    assert [prompt.text.count(token) for prompt in prompts] == [1, 1, 0]
    placed = prompts[1].text
    assert placed.index(tiny_qwen.processor.image_token) < placed.index("in the") < placed.index(token)
    together = asker.answer(prompts, GREEDY)
    seen = [(record.frames, record.tokens) for record in asker.records]
    assert [frames for frames, _ in seen] == [2, 0, 2, 0]  # two frames to a token, the last one twice
    asker.records.clear()
    assert together == [asker.answer([prompt], GREEDY)[0] for prompt in prompts]
    assert [(record.frames, record.tokens) for record in asker.records] == seen
    losses = asker.loss(prompts[:1], ["red circle"])
    assert losses[0][0] > 0


def test_a_video_is_refused_where_the_model_reads_none(tiny: MLLM, images):
    film = Video((images[0],), (0.0,))
    with pytest.raises(ValueError, match="reads no videos: give their frames as images"):
        Asker(tiny, KeepAll(), 144).prompt("what ?", [film])


def test_a_batch_of_any_numbers_of_images_equals_its_prompts_one_by_one(mllm: MLLM, images):
    asker = Asker(mllm, First(), 9)
    prompts = [
        asker.prompt("what color is the star ?", images[:1]),
        asker.prompt("how many ?", []),
        asker.prompt("is <image> left of <image> ?", images[1:]),
    ]
    together = asker.answer(prompts, GREEDY)
    seen = list(asker.records)
    asker.records.clear()
    assert together == [asker.answer([prompt], GREEDY)[0] for prompt in prompts]
    assert len(seen) == 3 and asker.records == seen  # one for each image
    assert all(record.entering[-1] == 9 for record in seen)
    losses = asker.loss(prompts, ["red circle", "two", "yes"])
    for prompt, answer, (loss, greedy) in zip(prompts, ["red circle", "two", "yes"], losses, strict=True):
        ((alone, same),) = asker.loss([prompt], [answer])
        assert loss == pytest.approx(alone, abs=2e-5) and greedy is same


def test_nothing_is_attached_where_there_is_no_image(tiny: MLLM):
    asker = Asker(tiny, FastV(), 500)  # a budget that no image has
    (answer,) = asker.answer([asker.prompt("how many ?", [])], GREEDY)
    assert answer.tokens == 4 and asker.records == []


def test_answers_are_those_of_the_adapter(tiny: MLLM, images):
    asker = Asker(tiny, KeepAll(), 144)
    questions = ["what color is the star ?", "how many ?"]
    answers = asker.answer(
        [asker.prompt(question, [image]) for question, image in zip(questions, images, strict=False)],
        Decoding.of({"max_new_tokens": 16}),
    )
    assert [one.text for one in answers] == tiny.answer(images[:2], questions)


def test_an_answer_ends_before_its_first_stop_string(tiny: MLLM, images):
    asker = Asker(tiny, KeepAll(), 144)
    prompt = asker.prompt("what color is the star ?", images[:1])
    (whole,) = asker.answer([prompt], Decoding.of({"max_new_tokens": 8, "min_new_tokens": 8}))
    words = whole.text.split()
    end = " ".join(words[1:3])
    (cut,) = asker.answer([prompt], Decoding.of({"max_new_tokens": 8, "until": ["no such words", end]}))
    assert cut.text == whole.text.partition(end)[0].strip()
    assert cut.tokens <= 3 < whole.tokens == 8  # decoding went no further


@torch.no_grad()
def test_losses_equal_a_forward_pass_with_the_answer_behind_the_prompt(mllm: MLLM, images):
    """Of the untouched model, and with what was dropped before the decoder masked away."""
    for selector, keep in ((KeepAll(), mllm.visual_tokens), (First(), 9)):
        asker = Asker(mllm, selector, keep)
        prompt = asker.prompt("what color is the star ?", images[1:2])
        for answer in "red circle", "two":
            ((loss, greedy),) = asker.loss([prompt], [answer])
            embedded = mllm.embed(images[1], "what color is the star ?", answer)
            mask = torch.ones(1, len(embedded.embeds), dtype=torch.long)
            mask[0, embedded.visual[keep:]] = 0
            positions = embedded.positions
            hidden = mllm.decoder(
                inputs_embeds=embedded.embeds[None], attention_mask=mask,
                position_ids=positions[:, None] if positions.ndim == 2 else positions[None],
            ).last_hidden_state  # fmt: skip
            logits = mllm.head(hidden)[0, -len(embedded.response) - 1 : -1]
            assert loss == pytest.approx(F.cross_entropy(logits, embedded.response).item(), abs=2e-5)
            assert greedy is bool((logits.argmax(-1) == embedded.response).all())


def test_the_greedy_answer_is_known_as_such(images):
    asker = Asker(load("micro"), First(), 48)
    prompts = [asker.prompt("how many ?", [image]) for image in images[:2]]
    said = [one.text for one in asker.answer(prompts, Decoding.of({"max_new_tokens": 20}))]
    assert all(greedy for _, greedy in asker.loss(prompts, said))
    others = [f"{text} {text}" for text in said]
    assert not any(greedy for _, greedy in asker.loss(prompts, others))


def test_a_method_never_sees_the_answer_that_is_scored(tiny: MLLM, images):
    selector = First()
    asker = Asker(tiny, selector, 9)
    prompt = asker.prompt("what color is the star ?", images[:1])
    asker.loss([prompt, prompt], ["red", "red circle above the blue star"])
    asker.answer([prompt], GREEDY)
    assert len(set(selector.texts)) == 1 and len(selector.texts) == 3


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        ({}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "max_new_tokens": 16},
         {"max_new_tokens": 16, "do_sample": False, "num_beams": 1}),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": None},
         {"max_new_tokens": 1024, "do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.7, "do_sample": False}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"do_sample": True}, {"max_new_tokens": 1024, "do_sample": False}),
    ],
    ids=["defaults", "greedy", "sampled", "forbidden", "without a temperature"],
)  # fmt: skip
def test_settings_of_tasks_become_arguments_of_generate(wanted, arguments):
    assert Decoding.of(wanted).arguments == arguments


def test_stop_strings_are_one_or_several_and_never_empty():
    assert Decoding.of({"until": "\n\n"}).until == ("\n\n",)
    assert Decoding.of({"until": ["</s>", "", "\n"]}).until == ("</s>", "\n")
    assert Decoding.of({"until": ""}).until == () == Decoding.of({"until": None}).until


def test_settings_of_other_models_are_left_out_and_told(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert "image_aspect_ratio" not in Decoding.of({"image_aspect_ratio": "pad"}).arguments
    assert "left out: image_aspect_ratio" in caplog.text


def test_several_answers_to_a_question_are_refused():
    with pytest.raises(ValueError, match="num_return_sequences=4: this model gives one answer"):
        Decoding.of({"num_return_sequences": 4})
