"""The busy world: scenes, questions about them and the growth of the model, without its weights."""

import numpy as np
import pytest
import torch

from compress.micro import busy_questions as q
from compress.micro.busy_language import tokenizer, words
from compress.micro.busy_world import (
    CHARACTERS,
    KINDS,
    BusyScene,
    BusyThing,
    Region,
    paint,
    render,
    rng_of,
    scene,
)
from compress.micro.language import tokenizer as micro_tokenizer
from compress.micro.recipe.busy_decoder import Course, new_model, tokens_of
from compress.micro.world import SPLITS
from compress.models.loading import MODELS, load

THINGS = (
    BusyThing("star", "red", "dots", 20, 20, 15, 15),
    BusyThing("star", "green", "bricks", 120, 20, 15, 15),
    BusyThing("ring", "blue", "dots", 42, 21, 15, 15),
    BusyThing("sign", "yellow", "bricks", 101, 101, 35, 13, text="4k7"),
)
SMALL = BusyScene("train", 0, THINGS, (Region("dots", 40, 96), Region("bricks", 150, 96)))


def test_scenes_follow_from_split_and_seed():
    assert scene("test", 4) == scene("test", 4) != scene("val", 4)
    assert render(scene("test", 4)).tobytes() == render(scene("test", 4)).tobytes()
    drawn = {render(scene(split, seed)).tobytes() for split in SPLITS for seed in range(4)}
    assert len(drawn) == 12


def test_even_scenes_are_crowded_and_odd_ones_sparser():
    for seed in range(40):
        count = len(scene("train", seed).things)
        assert (28 <= count <= 40) if seed % 2 == 0 else (8 <= count <= 20)


@pytest.mark.parametrize("seed", range(4))
def test_every_character_has_a_patch_of_its_own_sign(seed):
    made = scene("train", seed)
    _, patches = paint(made)
    for number, thing in enumerate(made.things):
        mine = (patches.owner == number) & (patches.character >= 0)
        assert "".join(CHARACTERS[c] for c in patches.character[mine]) == thing.text


def test_things_stand_apart_and_on_one_ground():
    for seed in range(20):
        made = scene("train", seed)
        taken = np.zeros((192, 192), int)
        for thing in made.things:
            taken[thing.top : thing.top + thing.height, thing.left : thing.left + thing.width] += 1
            nearest = min(made.regions, key=lambda r: np.hypot(r.x - thing.x, r.y - thing.y))
            assert nearest.ground == thing.ground
        assert taken.max() == 1


@pytest.mark.parametrize(
    ("family", "words", "answer", "about"),
    [
        (q.color, "star on the bricks", "green", (1,)),
        (q.color, "star next to the blue ring", "red", (0, 2)),
        (q.read, "yellow sign", "4 k 7", (3,)),
        (q.ground, "red star", "dots", (0,)),
        (q.total, "many star", "two", (0, 1)),
    ],
)
def test_answers_follow_from_the_scene(family, words, answer, about):
    rng = np.random.default_rng(0)
    made = (family(SMALL, rng) for _ in range(600))
    found = next(one for one in made if one and words in one.text)
    assert (found.answer, found.about) == (answer, about)


def test_a_question_names_things_that_only_they_fit():
    for seed in range(30):
        view = q.SceneView(scene("train", seed))
        for parts in (("kind", "ground"), ("color", "kind"), ("color", "ground")):
            for number, _, phrase in view.unique(*parts):
                assert [i for i, t in view.seen if phrase.fits(t)] == [number]


def test_every_word_said_is_known_and_every_word_occurs():
    said, unsaid = set[str](), {"user", "assistant", "and"}
    for seed in range(800):
        for question in q.mixture(scene("train", seed % 200), rng_of("train", seed, 9), 16):
            said.update(f"{question.text} {question.answer}".split())
        if seed >= 200 and set(words()) - said <= unsaid:  # enough of scenes once every word occurred
            break
    assert said <= set(words())
    assert set(words()) - said <= unsaid
    assert tokenizer().unk_token_id not in tokenizer()(" ".join(words()))["input_ids"]


def test_a_course_shows_more_visual_tokens_and_more_things_from_step_to_step():
    course = Course("all", steps=10, steady=5, visual={0: (112,), 4: (256, 576)}, things=(8, 40))
    assert [course.counts(step) for step in (0, 3, 4, 9)] == [(112,), (112,), (256, 576), (256, 576)]
    rng = torch.Generator().manual_seed(0)
    most = [max(course.most(step, rng) for _ in range(200)) for step in (0, 9)]
    assert most[0] == 8 and 30 <= most[1] <= 36


def test_asked_tokens_come_in_turns_and_characters_first():
    owner = np.array([0, 0, 0, 1, 1, -1], np.int8)
    kind = np.array([len(KINDS) - 1, -100, len(KINDS) + 2, 3, 3, -1], np.int8)
    assert tokens_of(owner, kind, (0, 1), 3) == [2, 3, 0]
    assert tokens_of(owner, kind, (), 3) == []


@pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")
def test_the_grown_decoder_computes_what_micro_does():
    micro = load("micro").model
    grown = new_model(micro)
    assert grown.config.text_config.head_dim == 32
    said = "<s> user is there a red star ? assistant yes".split()
    features = torch.randn(1, 144, 96, generator=torch.Generator().manual_seed(1))

    def states(model, index):
        ids = torch.tensor([[index[word] for word in said]])
        inside = model.model.language_model
        embeds = torch.cat([model.model.multi_modal_projector(features), inside.embed_tokens(ids)], 1)
        return inside(inputs_embeds=embeds).last_hidden_state

    with torch.no_grad():
        old = states(micro, micro_tokenizer().get_vocab())
        new = states(grown, tokenizer().get_vocab())
    assert torch.allclose(new[..., :96], old, atol=1e-3)
    assert not new[..., 96:].any()
