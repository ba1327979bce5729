"""Labels of training samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import pyarrow as pa

from bench.evaluation.compressors import SHIPPED
from bench.evaluation.protocol import Facts, apart_from_code
from bench.recipe.steps.base import SamplePool, Step, Workspace
from compress.labels import Label, LabelConfig, Labeller, LabelStore, label, read_labels, sample_key
from compress.labels.campaign import usual_together
from compress.labels.labelling import code_of
from compress.labels.store import schema, write_shard
from compress.progress import Bar, Progress
from compress.samples import Sample


@dataclass(frozen=True, eq=False)
class LabelStep(Step):
    """Labels of the first `count` samples of a pool; a larger `count` extends the same store.

    Labels that the package ships for the same model and settings are not searched again: a label depends only
    on sample, model and settings.
    """

    kind = "label"
    unit = counted = "samples"

    shop: Workspace
    title: str
    name: str  # of the model
    config: LabelConfig
    pool: SamplePool
    count: int

    @property
    def model(self) -> str:
        return self.name

    @cached_property
    def resolved(self) -> LabelConfig:
        return self.config.resolved(self.shop.load(self.name))

    @property
    def code(self) -> tuple[object, ...]:
        return code_of(self.shop.load(self.name), self.config)

    @cached_property
    def facts(self) -> Facts:
        return {
            "model": self.shop.fingerprint(self.name)[:16],
            **asdict(self.resolved),
            "data": dict(self.pool.facts),
        }

    @cached_property
    def samples(self) -> list[Sample]:
        return self.pool.take(self.count)

    @property
    def units(self) -> int:
        return self.count

    @cached_property
    def settings(self) -> Facts:
        return Labeller(self.shop.load(self.name), self.config).about

    @cached_property
    def ready(self) -> LabelStore | None:
        """The shipped label store for the same model and settings, if any; a test repeats some searches."""
        if not (self.shop.shipped and self.pool.shipped):
            return None
        wanted = apart_from_code(self.settings)
        stores = map(read_labels, sorted((SHIPPED / self.name / "labels").glob("*")))
        return next((store for store in stores if apart_from_code(store.settings) == wanted), None)

    @cached_property
    def shipped(self) -> list[str]:
        """Keys of this step's samples whose labels the package ships."""
        if not self.ready:
            return []  # do not load the samples of a long file for this
        ready = set(self.ready.ids.to_pylist())
        return [key for key in map(sample_key, self.samples) if key in ready]

    @property
    def finished(self) -> int:
        found = set(self.shipped)
        if any(self.folder.glob("*.parquet")):
            store = self.store()
            found |= set(map(sample_key, self.samples)) & {*store.ids.to_pylist(), *store.quarantine}
        return len(found)

    def do(self, bar: Bar) -> bool:
        here = set(self.store().ids.to_pylist()) if any(self.folder.glob("*.parquet")) else set()
        if self.ready and (missing := [key for key in self.shipped if key not in here]):
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = [asdict(self.ready[key]) for key in missing]
            table = pa.Table.from_pylist(rows, schema(self.settings))
            write_shard(table, self.folder / f"shipped-{len(here):05d}.parquet")
        return super().do(bar)

    @property
    def forwards(self) -> float:
        searched = self.resolved.strategy or self.resolved.kind.startswith("group-attribution")
        return 2.0 + (self.resolved.evaluations if searched else 1)

    @property
    def workers(self) -> int:
        return self.shop.workers

    def work(self, report: Progress) -> None:
        shop = self.shop
        label(
            shop.loader(self.name) or shop.load(self.name), self.samples, self.folder, self.config,
            workers=self.workers, engine=shop.engine,
            together=usual_together(shop.load(self.name).model.device.type), progress=report,
        )  # fmt: skip

    def store(self) -> LabelStore:
        """The label store, which may hold more than this step's samples."""
        return read_labels(self.folder)

    def labels(self) -> list[Label]:
        """The labels of this step's samples, in their order, without samples in quarantine."""
        store = self.store()
        return [store[key] for key in map(sample_key, self.samples) if key in store]
