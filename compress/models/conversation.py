"""Conversations of several turns with several images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compress.video import Visual


@dataclass(frozen=True)
class Turn:
    """The text of one speaker in a turn, after the images and videos that come with it."""

    role: Literal["user", "assistant"]
    text: str
    images: Sequence[Visual] = ()


Conversation = Sequence[Turn]


def check(conversation: Conversation, number: int) -> None:
    """ValueError, with the conversation's number, for empty turns or a wrong order of turns.

    User and assistant must alternate, and the user is first and last.
    """
    roles = [turn.role for turn in conversation]
    if len(roles) % 2 == 0 or roles != [("user", "assistant")[place % 2] for place in range(len(roles))]:
        raise ValueError(
            f"conversation {number} has turns of {', '.join(roles) or 'nobody'}: user and assistant take "
            f"turns, and the user is first and last"
        )
    for place, turn in enumerate(conversation):
        if not turn.text.strip():
            raise ValueError(f"conversation {number}, turn {place} is empty: {turn.role} says something")
