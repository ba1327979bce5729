"""The budget of visual tokens: a count, or a ratio that is converted to a count for every image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from numbers import Integral, Real
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator

from evosearch.registry import cut

DIGITS = 4  # maximum decimals of a percentage; ratios that need more are written as fractions
FINEST = 10**6  # largest denominator for a float: the float 1 / 9 becomes exactly a ninth


WRITTEN = re.compile(r"(\d{1,9}|\d{0,9}\.\d{1,18})\s?%?|\d{1,9}/\d{1,9}")


def _read(text: str) -> Fraction:
    if not WRITTEN.fullmatch(text := text.strip()):
        raise ValueError("no number, percentage or fraction")
    return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)


def _nearest(share: Fraction) -> Fraction:
    """The nearest share above 0 with a denominator of at most FINEST."""
    return max(share.limit_denominator(FINEST), Fraction(1, FINEST))


def _refuse(given: object) -> NoReturn:
    raise ValueError(
        f"keep={cut(repr(given))}: give a count of visual tokens from 1, or a ratio of each image's, as "
        f"'11.1%', '1/9' or a float between 0 and 1"
    )


class Ratio(str):
    """A share of each image's visual tokens, above 0 and at most 1: "11.1%", "1/9" or "0.111".

    It is a string in a canonical form: equal ratios are equal, and JSON, YAML and Parquet store it unchanged.
    Text with very many decimals is rounded like a float: "0.1111111111111111" is 1/9. ValueError for text
    that is no such share.
    """

    __slots__ = ()

    def __new__(cls, share: str | Fraction) -> Ratio:
        try:
            read = _read(share) if isinstance(share, str) else share
        except (ValueError, ZeroDivisionError):
            _refuse(share)
        if not 0 < read <= 1:
            _refuse(share)
        if read.denominator >= 10**9:  # a fraction that `WRITTEN` would not read again
            read = _nearest(read)
        percent = read * 100
        exact = percent * 10**DIGITS
        text = f"{float(percent):.{DIGITS + 2}f}".rstrip("0").rstrip(".") + "%"
        return super().__new__(cls, text if exact.denominator == 1 else str(read))

    @property
    def share(self) -> Fraction:
        """The exact share, for instance 111/1000."""
        return _read(self)

    def of(self, tokens: int) -> int:
        """The number of tokens to keep of an image with `tokens`: the nearest whole number, at least 1."""
        return max(1, round(self.share * tokens))


Keep = int | Ratio  # a count for every image, or a share of each
MOST = 10**9  # of tokens, samples, epochs and the like
NINTH = Ratio("1/9")  # 64 of 576, the default of all commands and functions


def read_keep(given: object) -> Keep:
    """Convert a count (any integer type) or a ratio (text, or a float between 0 and 1) to a `Keep`.

    Text may be a count too. ValueError for everything else.
    """
    if isinstance(given, Ratio):
        return given
    if isinstance(given, str):
        text = given.strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            return Ratio(text)
        given = int(text)
    if isinstance(given, Integral) and not isinstance(given, bool) and 1 <= int(given) <= MOST:
        return int(given)
    if isinstance(given, Real) and not isinstance(given, Integral) and 0 < float(given) < 1:
        return Ratio(_nearest(Fraction(float(given))))
    _refuse(given)


StoredKeep = Annotated[Any, AfterValidator(read_keep)]  # a Keep in a stored document


def count_of(keep: Keep, tokens: int) -> int:
    """The number of tokens that `keep` means for an image that has `tokens`; a count may exceed them."""
    return keep.of(tokens) if isinstance(keep, Ratio) else keep


def limit_of(keep: Keep, tokens: int) -> float:
    """The most that a method may spend on an image if it cannot spend exactly `keep`.

    A count is exact. A ratio may be exceeded by one token, because a small image may have no nearer count,
    for instance if early layers see all of its tokens.
    """
    return float(keep.share * tokens) + 1 if isinstance(keep, Ratio) else keep


def in_order(keeps: Iterable[Keep]) -> list[Keep]:
    """Distinct budgets, the largest first: counts, then ratios."""
    counts = {keep for keep in keeps if not isinstance(keep, Ratio)}
    ratios = {keep for keep in keeps if isinstance(keep, Ratio)}
    return [*sorted(counts, reverse=True), *sorted(ratios, key=lambda ratio: ratio.share, reverse=True)]


def budget_name(keep: Keep) -> str:
    """The budget for a label: "16 tokens", or "11.1% of tokens"."""
    return f"{keep} of tokens" if isinstance(keep, Ratio) else f"{keep} tokens"


def in_words(keep: Keep, tokens: int) -> str:
    """The budget for a title; `tokens` is the count of the largest image."""
    if isinstance(keep, Ratio):
        return f"{keep} of each image's visual tokens"
    return f"{keep} of {tokens} visual tokens"
