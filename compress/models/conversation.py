"""Several turns with several images: what a chat holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compress.video import Visual


@dataclass(frozen=True)
class Turn:
    """What one side says, after the images and videos that come with it."""

    role: Literal["user", "assistant"]
    text: str
    images: Sequence[Visual] = ()


Conversation = Sequence[Turn]


def check(conversation: Conversation, number: int) -> None:
    """ValueError, with the conversation's number, unless user and assistant alternate and the user ends."""
    roles = [turn.role for turn in conversation]
    if len(roles) % 2 == 0 or roles != [("user", "assistant")[place % 2] for place in range(len(roles))]:
        raise ValueError(
            f"conversation {number} has turns of {', '.join(roles) or 'nobody'}: user and assistant take "
            f"turns, and the user is first and last"
        )
    for place, turn in enumerate(conversation):
        if not turn.text.strip():
            raise ValueError(f"conversation {number}, turn {place} is empty: {turn.role} says something")
