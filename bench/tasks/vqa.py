"""VQA accuracy (Antol et al. 2015, arXiv:1505.00468): normalised answers compared with ten human answers.

    The Cat's two toys. -> cat 's 2 toys

The steps and their quirks are those of the reference evaluation of VQA (punctuation, digits and articles) and
of TextVQA (the tokeniser step before them), which VizWiz, LLaVA and lmms-eval build on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import nan

MARKS = ';/[]"{}()=+\\_-><@`,?!'
PERIODS = 32  # the reference passes a flag as the number of substitutions
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = ("a", "an", "the")
# Recognised if a single apostrophe is missing. Without im, ive and the like: the reference searches for them
# with a capital, which no text has at that point.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
SPELLING = {
    word[:at] + word[at + 1 :]: word for word in CONTRACTIONS for at, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}  # the reference maps this one in the wrong direction


def tokenised(text: str) -> str:
    """Step 1: lower case, no commas and question marks, the possessive separated."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def without_marks(text: str) -> str:
    """Step 3: remove a mark that is next to a space anywhere, or if digits have a comma; else put a space."""
    done = text
    grouped = re.search(r"\d,\d", text)
    for mark in MARKS:
        alone = f"{mark} " in text or f" {mark}" in text
        done = done.replace(mark, "" if alone or grouped else " ")
    return re.sub(r"\.(?!\d)", "", done, count=PERIODS)


def plain_words(text: str) -> str:
    """Step 4: digits for number words, no articles, contractions with their apostrophe."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(SPELLING.get(word, word) for word in words if word not in ARTICLES)


def normalised(text: str, tokenise: bool = True) -> str:
    """Apply all steps; without `tokenise` as in the official tool of VQAv2 and lmms-eval's VQAv2."""
    text = tokenised(text) if tokenise else text
    return plain_words(without_marks(text.replace("\n", " ").replace("\t", " ").strip()))


def agreement(matches: int, humans: int = 10) -> float:
    """Accuracy of an answer given by `matches` of the humans.

    It is the mean of min(1, matches among the others / 3) over leaving out each human. For ten: 0, 0.3, 0.6,
    0.9, 1.
    """
    if humans == 1:
        return float(matches)
    inside, outside = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (inside * matches + outside * (humans - matches)) / humans


def accuracy(answers: Sequence[str], said: str, tokenise: bool = True) -> float:
    """Agreement of a prediction with human answers, both normalised; NaN without human answers."""
    if not answers:
        return nan
    mine = normalised(said, tokenise)
    return agreement(sum(normalised(one, tokenise) == mine for one in answers), len(answers))


def official_accuracy(answers: Sequence[str], said: str) -> float:
    """Accuracy of VQAv2's own tool: human answers lose only their marks, and only if they differ."""
    if not answers:
        return nan
    mine = normalised(said, tokenise=False)
    humans: Iterable[str] = answers if len(set(answers)) == 1 else map(without_marks, answers)
    return agreement(sum(one == mine for one in humans), len(answers))
