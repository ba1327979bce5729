"""The edge benchmark: a model on one runtime, timed and compared with the same quantised weights in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from bench.edge.bundle import DECODER, GGUF
from bench.edge.chain import Chain, EdgePrompt
from bench.edge.extras import optional
from bench.edge.parts import check_family
from bench.edge.precision import Precision
from bench.edge.prepare import PreparedModel, exported, made_up, prepare, question
from bench.edge.protocol import Protocol
from bench.edge.runtimes.registry import Runtime
from bench.edge.timing import Measurement, measure, parity
from bench.evaluation.compressors import random_compressor, selector_for
from bench.evaluation.ledger import DecoderShape
from bench.evaluation.opening import load_model
from bench.evaluation.times import ClockKind
from bench.tasks.load import load_tasks
from compress.base import Positions
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import Compressor
from compress.keep import Keep, count_of
from compress.micro.worlds import world_of
from compress.models.loading import MLLM
from compress.models.shapes import build
from compress.progress import Bar

WORDS = 40  # number of tokens of a made-up prompt
TASK = "gqa"  # the miniature that provides the questions


@dataclass(frozen=True)
class EdgeOptions:
    """Options of a measurement for any model; None and () leave a setting to the protocol or the runtime."""

    keeps: Sequence[Keep]
    chunk: int | None = None
    contexts: Sequence[int] = ()
    text: int | None = None  # maximum of other tokens in a prompt; None: a ninth of the visual tokens
    decoded: int = 2  # tokens decoded one by one after each prompt
    warmup: int = 3
    rounds: int = 20
    threads: int = 0  # 0: the runtime's default
    positions: Positions | None = None  # None: original if the runtime accepts gaps
    precision: Precision | None = None  # None: the runtime's own
    clock: ClockKind = "wall"

    def __post_init__(self) -> None:
        if self.clock == "processor" and self.threads != 1:
            raise ValueError("--clock processor is the time of one thread: add --threads 1")

    def plan(self, whole: int) -> EdgePlan:
        """Plan the measurements of an image of `whole` visual tokens: first all of them, then the budgets."""
        budgets = [count_of(keep, whole) for keep in self.keeps]
        return EdgePlan(
            self,
            Protocol.scaled(whole, self.chunk, self.contexts),
            list(dict.fromkeys([whole, *budgets])),
            self.text or round(whole / 9),
        )


@dataclass(frozen=True)
class EdgePlan:
    """The measurements and their shapes."""

    options: EdgeOptions
    protocol: Protocol
    keeps: Sequence[int]  # visual tokens kept; all of them first
    text: int  # maximum of other tokens in a prompt


@dataclass(frozen=True)
class Subject:
    """A model with its compressor; the first `layers` of its decoder are measured, all if None."""

    mllm: MLLM
    compressor: Compressor
    layers: int | None
    samples: int  # questions to ask; 0: the weights are random

    def questions(self, work: PreparedModel) -> list[EdgePrompt]:
        """Prompts of the miniatures, or one made-up prompt for random weights."""
        if not self.samples:
            return [made_up(work, min(WORDS, work.settings.text))]
        ((_, asked),) = load_tasks([TASK], self.samples, world=world_of(self.mllm.name)).items()
        return [
            question(self.mllm, sample.image_at(self.mllm.image_side), sample.question) for sample in asked
        ]

    @property
    def stop(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return [self.mllm.processor.tokenizer.eos_token_id] if self.samples else []


@dataclass(frozen=True)
class SubjectOptions:
    """The model to measure: `model`, or the published architecture `shape` with random weights.

    `layers` is the number of decoder layers to time, from the first. Default: all.
    """

    model: str = "micro"
    shape: str | None = None
    layers: int | None = None
    compressor: str | None = None  # a folder; None: the one that ships with the model
    samples: int = 8

    def load(self) -> Subject:
        """Load the model; ValueError for a family other than LLaVA-1.5."""
        if self.shape:
            return published_size(self.shape, self.layers)
        return own_model(load_model(self.model), self.compressor, self.layers, self.samples)


def published_size(shape: str, layers: int | None) -> Subject:
    """A LLaVA-1.5 of `compress.models.shapes` with random weights, whole or with its first decoder layers."""
    check_family(build(shape, device="meta"))
    mllm = build(shape, dtype=torch.bfloat16, depth=layers, whole_tower=True)
    return Subject(mllm, random_compressor(mllm), None, 0)


def own_model(mllm: MLLM, compressor: str | None, layers: int | None, samples: int) -> Subject:
    """A loaded model with the compressor in a folder, or the one that is shipped for it."""
    check_family(mllm)
    selector = selector_for("evocomp", mllm.name, compressor)
    assert isinstance(selector, EvoComp)
    return Subject(mllm, selector.network, layers, samples)


def benchmark(
    runtime: Runtime, load: Callable[[], Subject], options: EdgeOptions, folder: Path | None,
    stage: Bar,
) -> Measurement:  # fmt: skip
    """Time a runtime on the first question, and compare its answers to all questions with torch.

    Answers of random weights mean nothing and are not compared. Exported files stay in `folder` and are used
    again if the settings are equal; without a folder they are deleted afterwards. ValueError, before the
    work, for models, shapes and precisions that do not fit together.
    """
    for module in runtime.modules:
        optional(module, runtime.extra)
    subject = load()
    plan = options.plan(subject.mllm.visual_tokens)
    work = prepare(
        subject.mllm, subject.compressor, plan.protocol, plan.text, _precision(runtime, subject, options),
        runtime.files, layers=subject.layers, random=not subject.samples,
    )  # fmt: skip
    settings, questions, stop = work.settings, subject.questions(work), subject.stop
    del subject
    for asked in questions:
        for keep in plan.keeps:
            settings.context(keep, asked.words, options.decoded + 1)
    place = nullcontext(folder / runtime.files) if folder else tempfile.TemporaryDirectory()
    with place as where:
        bundle = exported(work, Path(where), runtime.export)
        reference = None if settings.random else work.reference
        del work  # frees the memory of a large model
        backend = runtime.open(bundle, options.threads)
        positions = options.positions or ("original" if backend.gaps else "compact")
        chain = Chain(backend, settings, bundle.embeddings, positions, options.clock)
        with stage(runtime.title, "rounds") as progress:
            cells, added = measure(
                chain, questions[0], plan.keeps, options.decoded, warmup=options.warmup,
                rounds=options.rounds, progress=progress,
            )  # fmt: skip
        held = None
        if reference:
            aside = Chain(reference, settings, bundle.embeddings, positions)
            with stage("the same in torch", "prompts") as progress:
                held = parity(chain, aside, questions, plan.keeps, options.decoded + 1, stop, progress)
        memory = {
            "decoder weights on disk": bundle.size(f"{DECODER}.data", GGUF),
            "tower and compressor on disk": bundle.size("vision.*", "compressor.*"),
            **{f"cache of {size} rows": backend.runner(size).cache_bytes for size in settings.contexts},
            "resident with all shapes open": added,
        }
    facts = [
        f"{settings.what}; {runtime.package} {version(runtime.package)}, threads "
        f"{options.threads or 'as it likes'}; chunks of {settings.chunk}, {positions} positions, "
        f"{questions[0].words} text tokens, {options.rounds} rounds, {options.clock} time"
    ]
    return Measurement(runtime.title, backend.label, backend.padded, cells, held, memory, facts)


def _precision(runtime: Runtime, subject: Subject, options: EdgeOptions) -> Precision:
    head = DecoderShape.of(subject.mllm.decoder.config).head_dim
    precision = options.precision or runtime.precision(head)
    runtime.check(precision)
    return precision
