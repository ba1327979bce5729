"""TextVQA in miniature: read the number. Its validation split chooses checkpoints.

what is the red number ? -> 4 7
"""

from __future__ import annotations

from bench.tasks.base import Task
from bench.tasks.micro import asked, sample
from compress.micro import questions as q
from compress.samples import Sample


class TextVQA(Task):
    """Read the handwritten number, ten agreeing annotators (TextVQA; validation)."""

    name = "textvqa"
    metric = "soft accuracy"

    def micro(self, n: int, split: str = "val") -> list[Sample]:
        made = asked(self.name, split, n, [q.read])
        return [
            sample(self.name, i, p, question, (question.answer,) * 10) for i, (p, question) in enumerate(made)
        ]
