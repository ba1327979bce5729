"""Searches one sample for the visual tokens with which the model answers best (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.keep import NINTH, Keep, count_of, read_keep
from compress.labels.fitness import AnswerLoss
from compress.models.loading import MLLM, Embedded
from evosearch import (
    GROUPERS,
    STRATEGIES,
    Callback,
    Evolution,
    Grouper,
    Grouping,
    Result,
    Strategy,
    pick,
    search,
)

if TYPE_CHECKING:
    from compress.video import Visual


@dataclass(frozen=True, eq=False)
class SampleSearch:
    """The outcome of a search on one sample.

    `response` is the text whose loss was minimised, `groups` the search space, `result.indices` [K] the kept
    visual tokens, `result.loss` their loss and `loss_full` the loss with all N visual tokens.
    """

    response: str
    embedded: Embedded
    groups: Grouping
    result: Result
    loss_full: float

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept visual tokens, ascending."""
        return tuple(self.result.indices.tolist())


def group_tokens(
    mllm: MLLM, embedded: Embedded, keep: Keep = NINTH, grouper: str | Grouper = "vocabulary", seed: int = 0
) -> Grouping:
    """Group a sample's visual tokens into `keep` groups.

    `grouper` is a grouper or a spec such as "dpc-knn:neighbours=4".
    """
    visual = embedded.embeds[embedded.visual].float().cpu().numpy()
    if isinstance(grouper, str):
        words = mllm.decoder.embed_tokens.weight.detach().float().cpu().numpy()
        offered = {
            "groups": count_of(keep, len(visual)), "anchors": words, "grid": embedded.grid, "seed": seed,
        }  # fmt: skip
        grouper = pick(GROUPERS, grouper, "grouper", **offered)
    return grouper(visual)


def search_sample(
    mllm: MLLM,
    image: Visual,
    question: str,
    answer: str | None = None,
    keep: Keep | str | float = NINTH,
    *,
    grouper: str | Grouper = "vocabulary",
    strategy: str | Strategy | None = None,
    evaluations: int = 408,
    patience: int | None = None,
    positions: str = "original",
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
) -> SampleSearch:
    """Search for the `keep` visual tokens of `image` with the lowest loss of `answer` to `question`.

    Default of `answer`: the untouched model's own answer. `keep` is a count or a ratio of the image's tokens
    ("11.1%", "1/9"). `grouper` and `strategy` are objects or specs such as "evolution:population=32"; the
    default strategy is the paper's evolution. `positions` is "original" or "compact". Raises ValueError for
    an empty answer and for a `keep` larger than the image's number of tokens.
    """
    response = (mllm.answer([image], [question])[0] if answer is None else answer).strip()
    if not response:
        raise ValueError("there is no answer to score: give one (--answer on the command line)")
    embedded = mllm.embed(image, question, response)
    wanted, tokens = read_keep(keep), len(embedded.visual)
    if count_of(wanted, tokens) > tokens:
        raise ValueError(f"keep={wanted}: choose between 1 and the {tokens} visual tokens of this image")
    groups = group_tokens(mllm, embedded, wanted, grouper, seed)
    loss = AnswerLoss(mllm, embedded, positions=positions)
    if strategy is None:
        strategy = Evolution()
    elif isinstance(strategy, str):
        strategy = pick(STRATEGIES, strategy, "strategy")
    result = search(
        groups, loss, strategy, seed=seed, budget=evaluations, patience=patience, callbacks=callbacks
    )
    return SampleSearch(response, embedded, groups, result, loss.full)
