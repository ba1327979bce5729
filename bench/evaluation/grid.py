"""A comparison of methods given by their specs: options are checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.evaluation.batches import Batches
from bench.evaluation.compare import DIFFICULTY, Entry, PreparedComparison, compare, prepare
from bench.evaluation.comparison import VANILLA, Comparison
from bench.evaluation.compressors import buildable, selectors_for
from bench.evaluation.opening import Loader, by_source
from bench.tasks import Task
from compress.base import Positions, Selector
from compress.budget import Match
from compress.keep import Keep
from compress.models.loading import MLLM
from compress.parallel.engine import Engine
from compress.progress import Progress
from compress.samples import Sample
from evosearch.registry import specs


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison; `methods` are comma-separated specs, or "all".

    None selects a default: the `reference` is the last method, `difficulty` is "downsample" if it is
    compared, the `compressor` is the one shipped with the model, no other model selects (`source`),
    `positions` are each method's own, and the `batch` is halved when memory runs out.
    """

    keeps: Sequence[Keep]
    methods: str = "random,grid,fastv,visionzip,evocomp"
    match: Match = "equivalent"
    reference: str | None = None
    difficulty: str | None = None
    margin: float = 2.0
    compressor: str | None = None
    source: str | None = None
    positions: Positions | None = None
    batch: int | None = None

    def selectors(self, model: str) -> dict[str, Selector]:
        """Build the methods from their specs, for selection on `source` or else on `model`.

        ValueError for options that do not fit together.
        """
        chooser = self.source or model
        every = self.methods.strip() == "all"
        listed = buildable(chooser, self.compressor) if every else specs(self.methods)
        methods = [spec for spec in listed if spec != VANILLA]  # its row is always in the table
        if not methods:
            raise ValueError(
                f"--methods {self.methods}: name a method besides {VANILLA} (evocomp list methods)"
            )
        for name, chosen in (("reference", self.reference), ("difficulty", self.difficulty)):
            if chosen and chosen not in methods:
                raise ValueError(f"--{name} {chosen}: choose one of {', '.join(methods)}")
        return selectors_for(methods, chooser, self.compressor)

    def run(
        self, mllm: MLLM, source: MLLM | None, selectors: Mapping[str, Selector],
        data: Mapping[Task, Sequence[Sample]], folder: Path | None = None, *,
        engine: Engine | None = None, workers: int = 1, loads: Loader | None = None,
        progress: Progress = lambda done, total: None, say: Callable[[str], object] = lambda text: None,
    ) -> Comparison:  # fmt: skip
        """Run `compare` with these selectors; `source` is the loaded model that selects. None: `mllm` itself.

        Workers of an `engine` on other machines or devices load their model by `loads`.
        """
        given = self._given(mllm, source, selectors, data, folder, engine, loads, say)
        return compare(
            **given, reference=self._named(self.reference or [*selectors][-1]),
            difficulty=self._named(self.difficulty or DIFFICULTY), margin=self.margin, workers=workers,
            progress=progress,
        )  # fmt: skip

    def prepare(
        self, mllm: MLLM, source: MLLM | None, selectors: Mapping[str, Selector],
        data: Mapping[Task, Sequence[Sample]], folder: Path | None = None, *, engine: Engine | None = None,
        loads: Loader | None = None, say: Callable[[str], object] = lambda text: None,
    ) -> PreparedComparison:  # fmt: skip
        """Run `prepare` with these selectors: as `run`, without the work."""
        return prepare(**self._given(mllm, source, selectors, data, folder, engine, loads, say))

    def _given(
        self, mllm: MLLM, source: MLLM | None, selectors: Mapping[str, Selector],
        data: Mapping[Task, Sequence[Sample]], folder: Path | None, engine: Engine | None,
        loads: Loader | None, say: Callable[[str], object],
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments that `compare` and `prepare` share."""
        kind = loads.kind if loads else mllm.model.device.type
        return {
            "mllm": mllm, "keeps": self.keeps, "data": data, "batch": Batches.of(self.batch, kind),
            "entries": [Entry(self._named(spec), selector, source) for spec, selector in selectors.items()],
            "match": self.match, "positions": self.positions, "engine": engine, "loads": loads,
            "folder": folder, "say": say,
        }  # fmt: skip

    def _named(self, spec: str) -> str:
        return by_source(spec, self.source) if self.source else spec
