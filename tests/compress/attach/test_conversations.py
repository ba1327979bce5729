"""Several turns and several images, in every family, against a plain loop over the decoder's layers."""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from torch import Tensor

from baselines import METHODS
from compress.attach.prefill import Record
from compress.attach.session import attach
from compress.base import INPUT, VISION, Selection, View, top_k
from compress.models.conversation import Turn
from compress.models.loading import MLLM
from tests.methods import OF_IMAGES, REPRESENTATIVES, make
from tests.own_selectors import Share

STEPS = 4
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=["tiny", "tiny_next", "tiny_qwen"])
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def talks(pictures) -> list[list[Turn]]:
    """Two images in the first turn and one in the last; one image, asked about twice; a late image."""
    wide, high = pictures[1].resize((60, 30)), pictures[2].resize((20, 44))
    return [
        [
            Turn("user", "what color is the star ?", [pictures[0], wide]),
            Turn("assistant", "red"),
            Turn("user", "how many are there ?", [high]),
        ],
        [
            Turn("user", "is there a circle ?", [high]),
            Turn("assistant", "yes"),
            Turn("user", "what color ?"),
        ],
        [
            Turn("user", "how many ?"),
            Turn("assistant", "one"),
            Turn("user", "what shape is large ?", [wide]),
        ],
    ]


class Seen(Share):
    """Keeps the tokens that the tower's CLS token attends to."""

    tower_layers = (-2,)

    def select(self, view: View, keep: int) -> Selection:
        count = max(1, round(self.shares[view.depth] * len(view.hidden)))
        return Selection(top_k(view.cls(-2).mean(0), count))


SHARES = [{INPUT: 0.3}, {2: 0.3}, {1: 0.5, 4: 0.2}]


def run(mllm: MLLM, inputs) -> tuple[Tensor, Tensor]:
    output = mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return output.sequences[:, -STEPS:], torch.stack(output.logits, 1)


@torch.no_grad()
def recompute(mllm: MLLM, inputs, new: Tensor, records: list[Record]) -> Tensor:
    """Logits [1 + n, V] after the prompt and after each of `new` [n], without cache or hooks.

    What an image dropped before a layer is absent from it and all deeper ones.
    """
    ids = inputs["input_ids"]
    hidden = torch.cat([mllm.merge(inputs), mllm.decoder.embed_tokens(new[None])], 1)
    positions = mllm.positions(inputs, len(new))
    tables = mllm.decoder.rotary_emb(hidden, positions[:, None] if positions.ndim == 2 else positions[None])
    visual = (ids[0] == mllm.image_token_id).nonzero()[:, 0].tolist()
    images = [[visual.pop(0) for _ in range(record.tokens)] for record in records]
    rows = list(range(hidden.shape[1]))
    for number, layer in enumerate(mllm.decoder.layers):
        for image, record in zip(images, records, strict=True):
            if number in record.kept:
                gone = set(image) - {image[index] for index in record.kept[number]}
                stay = [place for place, row in enumerate(rows) if row not in gone]
                hidden, tables = hidden[:, stay], tuple(table[:, stay] for table in tables)
                rows = [rows[place] for place in stay]
        length = hidden.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=tables)
    return mllm.head(mllm.decoder.norm(hidden))[0, -len(new) - 1 :]


def test_a_prompt_holds_every_turn_and_every_image(mllm: MLLM, talks):
    inputs = mllm.prepare_conversations(talks)
    text = mllm.processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
    assert text.split() == (
        "user : what color is the star ? assistant : red user : how many are there ? assistant :".split()
    )
    assert len(mllm.pictures(inputs)) == 5
    assert (inputs["attention_mask"][:, -1] == 1).all()


def test_one_turn_is_a_question(mllm: MLLM, pictures):
    asked = mllm.prepare(pictures[:1], ["how many ?"])
    told = mllm.prepare_conversations([[Turn("user", "how many ?", pictures[:1])]])
    assert all(torch.equal(asked[name], told[name]) for name in asked)
    assert mllm.reply([[Turn("user", "how many ?", pictures[:1])]]) == mllm.answer(
        pictures[:1], ["how many ?"]
    )


def test_keeping_all_is_the_untouched_model(mllm: MLLM, talks):
    inputs = mllm.prepare_conversations(talks)
    expected = run(mllm, inputs)[1]
    with attach(mllm, METHODS["random"](), mllm.visual_tokens):
        assert torch.equal(run(mllm, inputs)[1], expected)


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_answers_equal_an_independent_recomputation(mllm: MLLM, talks, shares):
    """Alone and in a left-padded batch; every image keeps its own share."""
    untouched = [run(mllm, mllm.prepare_conversations([talk]))[1][0, 0] for talk in talks]
    with attach(mllm, Share(shares)) as trace:
        new, logits = run(mllm, mllm.prepare_conversations(talks))
    records, deepest = list(trace.samples), max(shares)
    for number, talk in enumerate(talks):
        images = sum(len(turn.images) for turn in talk)
        mine, records = records[:images], records[images:]
        assert all(0 < len(record.kept[deepest]) < record.tokens for record in mine)
        expected = recompute(mllm, mllm.prepare_conversations([talk]), new[number], mine)[:-1]
        torch.testing.assert_close(logits[number], expected, **TOLERANCE)
        assert (logits[number, 0] - untouched[number]).abs().max() > 0.05
    assert not records


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"),
    reason="generate itself gives beams the wrong ones of several images",
)
@pytest.mark.parametrize("depth", [VISION, INPUT, 2])
@pytest.mark.parametrize("method", [Share, Seen])
def test_beams_share_the_images_of_their_prompt(mllm: MLLM, talks, method: type[Share], depth: int):
    if (depth == VISION or method is Seen) and not mllm.clip_tower:
        pytest.skip("the family has no CLIP tower")
    inputs = mllm.prepare_conversations(talks)
    found = []
    for beams in (1, 3):
        with attach(mllm, method({depth: 0.3})) as trace:
            mllm.model.generate(**inputs, num_beams=beams, max_new_tokens=2, do_sample=False)
        found.append(trace.samples)
    alone, together = found
    assert together == [*alone[:3] * 3, *alone[3:4] * 3, *alone[4:] * 3]


def check_a_batch(mllm: MLLM, talks, name: str, keep: int) -> None:
    with attach(mllm, make(name, mllm), keep, match="tokens") as trace:
        together = run(mllm, mllm.prepare_conversations(talks))[1]
        alone = [run(mllm, mllm.prepare_conversations([talk]))[1][0] for talk in talks]
    torch.testing.assert_close(together, torch.stack(alone), **TOLERANCE)
    assert trace.samples[:5] == trace.samples[5:]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_method_gives_the_same_alone_and_in_a_batch(tiny_next: MLLM, talks, name: str):
    check_a_batch(tiny_next, talks, name, 30)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if name != "none"])
@pytest.mark.parametrize(("family", "keep"), [("tiny", 20), ("tiny_qwen", 12)])
def test_the_other_families_give_the_same_too(
    request: pytest.FixtureRequest, talks, name: str, family: str, keep: int
):
    mllm: MLLM = request.getfixturevalue(family)
    try:
        check_a_batch(mllm, talks, name, keep)
    except ValueError as problem:
        assert "CLIP tower" in str(problem) and not mllm.clip_tower


def test_a_view_shows_the_text_of_all_turns_and_where_its_image_stands(mllm: MLLM, talks):
    class Look(Share):
        def select(self, view: View, keep: int) -> Selection:
            seen.append((view.before, len(view.text)))
            return super().select(view, keep)

    seen: list[tuple[int, int]] = []
    inputs = mllm.prepare_conversations(talks[:1])
    with attach(mllm, Look()), torch.no_grad():
        mllm.model(**inputs)
    visual = inputs["input_ids"][0] == mllm.image_token_id
    text = int((~visual).sum())
    starts = [0]
    for picture in mllm.pictures(inputs):
        starts.append(starts[-1] + len(picture))
    places = visual.nonzero()[:, 0][torch.tensor(starts[:-1])]
    before = [int((~visual[:place]).sum()) for place in places]
    assert seen == [(count, text) for count in before]
    between = "what color is the star ? assistant : red user :".split()
    assert before[2] - before[1] >= len(between)  # and what marks an image, if the family does that


@pytest.mark.parametrize("shares", [*SHARES, {VISION: 0.5}], ids=str)
def test_another_turn_goes_on_from_the_compressed_cache(mllm: MLLM, talks, shares):
    if VISION in shares and not mllm.clip_tower:
        pytest.skip("the family has no CLIP tower")
    inputs = mllm.prepare_conversations([talks[1][:1]])
    further = mllm.processor.tokenizer(" user : what color ? assistant :", return_tensors="pt")["input_ids"]
    said: list[Tensor] = []
    logits: list[Tensor] = []
    with attach(mllm, Share(shares), turns=True) as trace, torch.no_grad():
        output = mllm.model(**inputs, use_cache=True)
        for following in [None, None, further, None]:  # two words, the next question, and a word
            logits.append(output.logits[0, -1])
            ids = output.logits[:, -1:].argmax(-1)
            ids = ids if following is None else torch.cat([ids, following], 1)
            said.append(ids[0])
            output = mllm.model(input_ids=ids, past_key_values=output.past_key_values)
        logits.append(output.logits[0, -1])
    if VISION in shares:  # a choice before the projector is one at the input
        (record,) = trace.samples
        record.kept[INPUT] = record.kept.pop(VISION)
    new = torch.cat(said)
    expected = recompute(mllm, inputs, new, trace.samples)
    ends = torch.tensor([0, *map(len, said)]).cumsum(0)
    torch.testing.assert_close(torch.stack(logits), expected[ends], **TOLERANCE)


def test_other_ways_to_go_on_are_refused(tiny: MLLM, talks):
    inputs = tiny.prepare_conversations([talks[1][:1]])
    ids = tiny.processor.tokenizer(" user : what color ? assistant :", return_tensors="pt")["input_ids"]
    image = torch.full((1, 144), tiny.image_token_id)
    with attach(tiny, Share(), turns=True), torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="text only: for a new image give the whole conversation"):
            tiny.model(input_ids=torch.cat([ids, image], 1), past_key_values=cache)
        holes = torch.ones(1, inputs["input_ids"].shape[1] + ids.shape[1], dtype=torch.long)
        holes[0, -3] = 0
        with pytest.raises(ValueError, match="has no padding: give turns of one length"):
            tiny.model(input_ids=ids, attention_mask=holes, past_key_values=cache)
    with attach(tiny, Share()), torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="for another turn of a conversation, turns=True"):
            tiny.model(input_ids=ids, past_key_values=cache)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "conversation 0 has turns of nobody"),
        ([Turn("assistant", "red")], "the user is first and last"),
        ([Turn("user", "how ?"), Turn("assistant", "red")], "has turns of user, assistant: user and"),
        ([Turn("user", "how ?"), Turn("user", "what ?"), Turn("user", "what ?")], "take turns"),
        ([Turn("user", "how ?"), Turn("assistant", " "), Turn("user", "what ?")], "turn 1 is empty: assist"),
    ],
)
def test_what_is_no_conversation_is_refused(tiny: MLLM, turns, message: str):
    with pytest.raises(ValueError, match=message):
        tiny.prepare_conversations([turns])


def test_a_conversation_without_images_is_answered(mllm: MLLM):
    talk = [Turn("user", "how many ?"), Turn("assistant", "one"), Turn("user", "what ?")]
    expected = mllm.reply([talk])
    with attach(mllm, Share()) as trace:
        assert mllm.reply([talk]) == expected
    assert trace.samples[0].tokens == 0


def test_images_of_all_modes_are_taken(tiny: MLLM):
    talk = [Turn("user", "how many ?", [Image.new("L", (9, 9)), Image.new("RGBA", (5, 7))])]
    assert len(tiny.pictures(tiny.prepare_conversations([talk]))) == 2
