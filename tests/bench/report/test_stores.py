"""Statistics of label stores whose labels are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from bench.report.stores import difference, summarise
from compress.labels import LabellingRun, LabelStore

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """A store in memory; one run made its labels in ten seconds, of fourteen that it is for."""

    folder = Path("labels")
    quarantine = ("lost",)

    def __init__(self, after: Sequence[float], ids: str = "abcd") -> None:
        self.columns: dict[str, Any] = {
            "id": list(ids), "loss_before": [4.0] * 4, "loss_after": list(after), "loss_full": [3.0] * 4,
            "evaluations": [10, 20, 30, 40], "seconds": [1.0, 2.0, 4.0, 50.0],
        }  # fmt: skip

    def __len__(self) -> int:
        return 4

    def table(self, names: Sequence[str]) -> pa.Table:
        return pa.table({name: self.columns[name] for name in names})

    def runs(self) -> list[LabellingRun]:
        return [LabellingRun("labels", "local", 1, ("cpu",), BEGAN, BEGAN + timedelta(seconds=10), 4, 14)]

    def setting(self, name: str) -> str:
        return name


def store(after: Sequence[float], ids: str = "abcd") -> LabelStore:
    return cast(LabelStore, Store(after, ids))


def test_a_summary_s_numbers_by_hand() -> None:
    """Four labels and one sample in quarantine of fourteen; three labels beat 4 nats and two of them 3."""
    told = summarise(store([1.0, 2.0, 3.5, 5.5]))
    assert (told["samples"], told["in quarantine"], told["not done yet"]) == (4, 1, 9)
    assert told["samples per second"] == pytest.approx(0.4)
    assert told["hours left"] == pytest.approx(9 / 0.4 / 3600)
    losses = ("loss of a random candidate", "loss of the label", "loss of all tokens")
    assert [told[name] for name in losses] == [4, 3, 3]
    assert told["its 5th, 50th and 95th percentile"] == pytest.approx([1.15, 2.75, 5.2])
    assert (told["better than a random candidate, %"], told["better than all tokens, %"]) == (75, 50)
    assert (told["evaluations per sample"], told["median seconds per sample"]) == (25, 3)
    assert summarise(store([1.0, 2.0, 3.5, 5.5]), ["a", "b"])["loss of the label"] == 1.5


def test_a_difference_is_the_second_store_s_minus_the_first_s_over_the_samples_of_both() -> None:
    first, second = store([1.0, 2.0, 3.0, 9.0], "abcx"), store([3.0, 9.0, 1.0, 1.0], "cyab")
    told = difference(first, second)  # c: 3 - 3, a: 1 - 1, b: 1 - 2
    assert told["common samples"] == 3
    assert told["difference"]["difference"] == pytest.approx(-1 / 3)
    assert told["better on, %"] == pytest.approx(100 / 3)
    assert difference(first, second, ["a", "b"])["difference"]["difference"] == -0.5
    with pytest.raises(ValueError, match="share 1 samples; a comparison needs two or more"):
        difference(first, second, ["a", "x"])
