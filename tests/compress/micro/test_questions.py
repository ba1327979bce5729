"""Questions: the answer is what the scene says, in both languages, in words the tokenizer knows."""

import numpy as np
import pytest

from compress.micro import questions as q
from compress.micro.language import CHINESE, COUNTS, LETTERS, tokenizer, words
from compress.micro.world import Scene, Thing, rng_of, scene


@pytest.fixture
def three() -> Scene:
    """A red star left of a blue circle, and a green number 47 below."""
    things = (
        Thing("star", "red", 20, 20, 16, 16),
        Thing("circle", "blue", 70, 22, 16, 16),
        Thing("number", "green", 40, 70, 30, 22, digits=(0, 1), text="47"),
    )
    return Scene("train", 0, things, "dots", 1)


def ask(family, scene, wanted, **options):
    """The first question of a family that satisfies `wanted`."""
    rng = np.random.default_rng(0)
    made = (family(scene, rng, **options) for _ in range(400))
    return next(question for question in made if question and wanted(question.text))


@pytest.mark.parametrize(
    ("family", "word", "answer", "about"),
    [
        (q.color, "star", "red", (0,)),
        (q.shape, "blue", "circle", (1,)),
        (q.read, "number", "4 7", (2,)),
        (q.count, "many objects", "three", (0, 1, 2)),
        (q.texture, "behind", "dots", ()),
        (q.where, "star", "q2", (0,)),
        (q.caption, "describe", "red star , blue circle , green number", (0, 1, 2)),
    ],
)
def test_answers_follow_from_the_scene(three, family, word, answer, about):
    found = ask(family, three, lambda text: f" {word} " in f" {text} ")
    assert (found.answer, found.about) == (answer, about)


def test_relations_are_true_both_ways(three):
    for text, answer in {"the star left of the circle": "yes", "the star right of the circle": "no"}.items():
        assert ask(q.relation, three, lambda said, text=text: text in said).answer == answer


def test_adversarial_negatives_mix_what_is_there(three):
    found = ask(q.exist, three, lambda text: True, negative="adversarial")
    assert found.answer == "no"
    colours, kinds = {t.color for t in three.things}, {t.kind for t in three.things}
    mixed = [
        ask(q.exist, three, lambda text, c=c, k=k: f"{c} {k}" in text, negative="adversarial")
        for c, k in [("blue", "star")]
    ]
    assert mixed and {"blue"} <= colours and {"star"} <= kinds


def test_choices_letter_the_right_option(three):
    rng = np.random.default_rng(1)
    for _ in range(50):
        found = q.choose(three, rng)
        if found:
            right = found.options[LETTERS.index(found.answer)]
            assert right in {"red", "blue", "green", "star", "circle", "number", "dots", *COUNTS}
            assert len(set(found.options)) == 4


def test_missing_asks_about_what_is_not_there(three):
    for seed in range(20):
        found = q.missing(three, np.random.default_rng(seed))
        assert found and found.answer == "unanswerable"
        assert not {"star", "circle"} & set(found.text.split())


def test_every_word_said_is_in_the_vocabulary_and_every_word_of_it_occurs():
    tok, vocabulary, said = tokenizer(), set(words()), set[str]()
    unsaid = {"user", "assistant", "and", "object", "written", "bushi", *CHINESE.values()}
    scenes = [scene("train", seed) for seed in range(400)]
    for seed in range(3000):
        for question in q.mixture(scenes[seed % 400], rng_of("train", seed, 9), 8):
            said.update(f"{question.text} {question.answer}".split())
        if seed >= 400 and vocabulary - said <= unsaid:  # enough of scenes once every word occurred
            break
    assert said <= vocabulary
    assert tok.unk_token_id not in tok(" ".join(sorted(said)))["input_ids"]
    assert vocabulary - said <= unsaid
    assert len(vocabulary) >= 200
