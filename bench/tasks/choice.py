"""The option that an answer to a multiple choice means: by its letter, else by its text, else None.

    "It is a dog", options A cat, B dog -> B

These are rules, without a judge: `vlmevalkit` behaves like VLMEvalKit's matcher, `lmms_eval` like the older
one inside lmms-eval; `any_script` also finds letters in text without spaces between words, such as Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

Matcher = Callable[[str, Mapping[str, str]], str | None]  # (answer, texts of the options by letter) -> letter

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
NEAR_END = 4  # words: a letter earlier in the answer may be a word
DECORATIONS = [form.split("_") for form in "_. _, _: _) _). (_) (_). :_ :_, :_. :_) :_).".split()]
LETTER = r"(?<![A-Za-z0-9']){}(?![A-Za-z0-9'])"  # not part of a Latin word


def vlmevalkit(said: str, options: Mapping[str, str]) -> str | None:
    """A lone capital letter near the end; else "answer is X"; else the only option whose text occurs."""
    if any(refusal in said for refusal in REFUSALS):
        return None
    words = said.translate(MARKS).split()
    letter = _only(options, words)
    if letter and words.index(letter) >= len(words) - NEAR_END:
        return letter
    if letter is None and not any(one in words for one in options) and "Z" in words:
        return None
    told = re.search(r"answer\s+is\s+\**([A-D])\**", said, re.IGNORECASE)
    if told and told[1].upper() in options:
        return told[1].upper()
    if len(said) > 2 * sum(map(len, options.values())):
        return None
    return by_text(said, options)


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """A lone letter A to E between spaces, then in decorations; else the only option whose text occurs."""
    words = said.split()
    letter = _only("ABCDE", words)
    if letter and not ("A" in words and len(words) > 3):  # "A" may be the article
        return letter
    for before, after in DECORATIONS:
        dressed = {f"{before}{one}{after}": one for one in "ABCDE"}
        if found := _only(dressed, words):
            return dressed[found]
    return by_text(said, options)


def any_script(said: str, options: Mapping[str, str]) -> str | None:
    """As `vlmevalkit`; else the only capital letter of an option without adjacent Latin letters."""
    found = vlmevalkit(said, options)
    if found or any(refusal in said for refusal in REFUSALS):
        return found
    return _only(options, [one for one in options if re.search(LETTER.format(one), said)])


def by_text(said: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text occurs in the answer, ignoring case."""
    return _only(options, [letter for letter, text in options.items() if text.lower() in said.lower()])


def _only(candidates: Collection[str], words: Collection[str]) -> str | None:
    """The only candidate among the words; None if there are several or none."""
    there = [one for one in candidates if one in words]
    return there[0] if len(there) == 1 else None


MATCHERS: dict[str, Matcher] = {
    "vlmevalkit": vlmevalkit,
    "lmms-eval": lmms_eval,
    "any-script": any_script,
}
