"""The settings of a recipe, and reading them: names and types are checked, errors suggest the closest name.

A recipe has names and numbers; it contains no expressions. Its first line is a comment with the command that
runs it. Budgets are written as in the paper (`keep: [192, 128, 64]`, `of: 576`) and scaled to the visual
tokens of the model, or of each image if these depend on its size; ratios (`keep: [11.1%]`) need no `of` and
apply to each image. Settings under `miniature` apply to shipped models only. Other models are trained with
the paper's settings for their family. `learns` overrides both, and a row overrides `learns`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from baselines import METHODS
from bench.evaluation.comparison import VANILLA
from bench.evaluation.compressors import takes_compressor
from bench.evaluation.times import ClockKind
from bench.tasks import BENCHMARKS
from bench.tasks.mixture import SEVERAL
from bench.yaml_files import parse_yaml, read_yaml
from compress.base import Positions, scaled_layer
from compress.budget import Match
from compress.keep import MOST, Keep, Ratio, read_keep
from compress.labels import LabelConfig
from compress.models.loading import MODELS, family_of
from compress.training.config import paper_settings
from compress.training.run import TrainConfig
from evosearch import GROUPERS
from evosearch.registry import cut, options, pick, unknown
from evosearch.registry import parse as parse_spec

RECIPES = Path(__file__).parent
WORDS = {
    int: "a whole number",
    Ratio: "a ratio as 11.1% or 1/9",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={cut(value)}: choose {least} or more")
        if value > MOST:
            raise ValueError(f"{name}={cut(value)}: choose {MOST:,} or fewer")


@dataclass(frozen=True)
class Learning:
    """Training of the compressor of a row, and its position in the model.

    `samples` of the training mixture are labelled, with `questions` about each image of the miniature (1 or
    4; None: as in its world). `selects` is the method, one that takes a compressor, that selects tokens with
    it. `depth` is the layer of a 32-layer decoder before which EvoComp acts; 0: before the decoder.
    `source_gives` is the role of the recipe's `source` model for this row: it selects the indices of the kept
    tokens (the paper's Table 3), or the compressor was trained on it (its Figure 3).
    """

    samples: int = 1200
    questions: int | None = None
    labels: LabelConfig = field(default_factory=LabelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    selects: str = "evocomp"
    depth: int = 0
    source_gives: Literal["indices", "compressor"] | None = None

    def __post_init__(self) -> None:
        _at_least(2, samples=self.samples)
        if self.questions not in (None, 1, SEVERAL):
            raise ValueError(f"questions={self.questions}: choose 1 or {SEVERAL} about each image")
        if not 0 <= self.depth < 32:
            raise ValueError(f"depth={self.depth}: choose a layer from 0 to 31, as of a decoder with 32")
        if not takes_compressor(self.selects):
            raise ValueError(
                f"selects={cut(self.selects)}: choose a method that takes a compressor, as evocomp"
            )
        pick(METHODS, self.selects, "method", compressor="", depth=self.depth)  # checks its options
        if self.depth and "depth" not in options(METHODS[parse_spec(self.selects)[0]]):
            raise ValueError(f"depth={self.depth}: {self.selects} has its own, as evocomp+:layer=2")
        if self.train.seed:
            raise ValueError("train.seed: the seeds of training are the recipe's `seeds`")

    def layer(self, layers: int) -> int:
        """The layer, of a decoder with `layers` layers, before which the compressor acts."""
        return scaled_layer(self.depth, layers) if self.depth else 0


@dataclass(frozen=True)
class RecipeRow:
    """A row of the table: a `method` by its spec, `searched` masks, or a compressor that learns.

    `searched` uses masks that the search finds for the same question ("own"), or for another question about
    the same image ("other"). Default of `positions`: the method's own.
    """

    method: str | None = None
    searched: Literal["own", "other"] | None = None
    learns: Learning | None = None
    positions: Positions | None = None


@dataclass(frozen=True)
class Drawing:
    """Pictures of some samples of a task: their `groups` (paper Figure 2) or the tokens `kept` (Figure 6).

    `questions` draws the kept tokens for several samples about one image (Figure 5).
    """

    what: Literal["groups", "kept", "questions"]
    task: str = "gqa"
    samples: int = 3
    groupers: tuple[str, ...] = ("vocabulary",)

    def __post_init__(self) -> None:
        _at_least(1, samples=self.samples)
        for spec in self.groupers:
            pick(GROUPERS, spec, "grouper", groups=1, anchors=np.ones((1, 1)), grid=(1, 1), seed=0)


@dataclass(frozen=True)
class Latency:
    """Timing of the stages of an answer, with the methods interleaved (paper Figure 4).

    `clock` is wall time, or processor time for a CPU with other load.
    """

    repetitions: int = 30
    steps: int = 8
    clock: ClockKind = "wall"

    def __post_init__(self) -> None:
        _at_least(2, repetitions=self.repetitions)
        _at_least(1, steps=self.steps)


@dataclass(frozen=True)
class Edge:
    """The phone protocol on runtimes with fixed shapes (paper Table 4); 0 threads: the runtime's default."""

    runtime: str = "ort"
    rounds: int = 20
    samples: int = 8
    threads: int = 0
    clock: ClockKind = "wall"

    def __post_init__(self) -> None:
        _at_least(1, rounds=self.rounds, samples=self.samples)
        _at_least(0, threads=self.threads)
        if self.clock == "processor" and self.threads != 1:
            raise ValueError("clock=processor is the time of one thread: threads: 1")


@dataclass(frozen=True)
class Recipe:
    """One table or figure.

    `paper` is the table of the paper to compare with, `reference` the row that all others are compared with.
    Rows that learn are trained once per seed in `seeds`. `tasks`, `n`, `data`, `protocol` and `split` are
    those of `evocomp compare`; `mixture` and `images` are LLaVA's instruction mixture and its folder of
    images, for labels of a real model. For a model that is not shipped, `validate` questions of TextVQA
    select the epoch if `data` has them; otherwise held-out labels do. `losses` also measures the loss with
    the tokens that every row kept.
    """

    name: str
    title: str
    keep: tuple[Keep, ...]
    of: int | None = None
    rows: Mapping[str, RecipeRow] = field(default_factory=dict)
    paper: str | None = None
    reference: str | None = None
    model: str = "micro"
    source: str | None = None
    tasks: tuple[str, ...] = BENCHMARKS
    n: int | None = None
    data: str | None = None
    protocol: str | None = None
    split: str | None = None
    mixture: str | None = None
    images: str | None = None
    match: Match = "equivalent"
    seeds: tuple[int, ...] = (0,)
    losses: bool = False
    validate: int = 500
    search: LabelConfig = field(default_factory=LabelConfig)
    draw: Drawing | None = None
    latency: Latency | None = None
    edge: Edge | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+ -]{0,99}", self.name):
            raise ValueError(f"name={cut(self.name)!r}: it names a folder, so use letters, digits, - and _")
        for what in ("keep", "seeds", "tasks"):
            if not getattr(self, what):
                raise ValueError(f"{what}=[]: name at least one")
        if self.n is not None:
            _at_least(1, n=self.n)
        if wrong := [seed for seed in self.seeds if not 0 <= seed < 2**63]:
            raise ValueError(
                f"seeds={cut(wrong[0])}: choose whole numbers from 0, below 2 to the power of 63"
            )
        for name in self.rows:
            if name == VANILLA:
                raise ValueError("rows.none: this is the name of the untouched model, which is always there")
            if not (name[:1].isalnum() and name.isprintable() and len(name) <= 100):
                raise ValueError(
                    f"rows: {cut(name)!r} is not a valid row name: start with a letter or digit, and use "
                    f"at most 100 printable characters"
                )
        counts = [one for one in self.keep if not isinstance(one, Ratio)]
        if counts and self.of is None:
            raise ValueError(f"keep={list(self.keep)}: give the total as well, such as of: 576, or ratios")
        if self.of and not all(1 <= one <= self.of for one in counts):
            raise ValueError(f"keep={list(self.keep)} of {self.of}: give budgets from 1 to {self.of}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: name each seed once")
        if self.reference is not None and self.reference not in self.rows:
            raise ValueError(unknown("row", self.reference, self.rows))
        if self.draw and self.draw.what != "groups" and not self.rows:
            raise ValueError(f"draw.what={self.draw.what}: there are no rows whose tokens could be drawn")
        _at_least(1, validate=self.validate)
        if bool(self.mixture) != bool(self.images):
            raise ValueError("mixture and images go together: the JSON of the mixture, and its images")
        for name, row in self.rows.items():
            if row.learns and row.learns.questions and self.mixture:
                raise ValueError(
                    f"rows.{name}: questions are chosen in the miniature only; leave out mixture"
                )
            if row.learns and row.learns.source_gives and not self.source:
                raise ValueError(f"rows.{name}: source_gives needs a model as source")

    def only(self, wanted: Sequence[str]) -> Recipe:
        """The recipe with these rows and the reference."""
        for name in wanted:
            if name not in self.rows:
                raise ValueError(unknown(f"row of {self.name}", name, self.rows))
        kept = {name: row for name, row in self.rows.items() if name in wanted or name == self.reference}
        return replace(self, rows=kept)

    def budgets(self, tokens: int, *, free: bool = False) -> dict[Keep, Keep]:
        """Budgets for a model of `tokens` visual tokens, each with the corresponding number of the paper.

        With `free`, the tokens depend on the image's size, and every budget is a ratio of each image's
        tokens.
        """
        found: dict[Keep, Keep] = {}
        for one in self.keep:
            if isinstance(one, Ratio):
                found[one] = one.of(self.of) if self.of else one
            else:
                assert self.of is not None
                ratio = Ratio(Fraction(one, self.of))
                found[ratio if free else ratio.of(tokens)] = one
        return found


def known() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def read(name: str, changes: Sequence[str] = (), **given: object) -> Recipe:
    """The shipped recipe of this name, or the one in a YAML file, with `key=value` changes applied.

    Keys of changes have dots (`learns.train.epochs=2`), values are YAML. `given` are changes too; None
    changes nothing. ValueError for an unknown name, key or value.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else known().get(name)
    if path is None:
        raise ValueError(unknown("recipe", name, known()) + " (or give a .yaml file)")
    try:
        told = read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f"there is no recipe at {path}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{path}: a recipe is settings by name, for instance title: ...")
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: write key=value, for instance n=50")
        _put(told, key.strip(), parse_yaml(text, f"--set {cut(change)}"))
    told |= {key: value for key, value in given.items() if value is not None}
    try:
        return parse(told, path.stem)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}" if path.parent != RECIPES else str(problem)) from problem


def parse(told: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from plain settings.

    `learns` at the top level is the base of all rows that learn. It overrides `miniature` if a shipped model
    learns, and the paper's settings otherwise.
    """
    settings = {"name": name, **deepcopy(dict(told))}
    common, small = settings.pop("learns", {}), settings.pop("miniature", {})
    for part, where in ((common, "learns"), (small, "miniature")):
        build(Learning, part, where)
    rows = settings.get("rows", {})
    if not isinstance(rows, dict):
        raise ValueError("rows: expected settings by name")

    def start(own: Mapping[str, Any]) -> dict[str, Any]:
        """The base settings of a row, which depend on the model that learns for it."""
        given = {**common, **own}.get("source_gives") and settings.get("source")
        learner = str(given or settings.get("model", Recipe.model))
        return _over(small if learner in MODELS else {"train": published(learner)}, common)

    settings["rows"] = {str(row): _row(str(row), value or {}, start) for row, value in rows.items()}
    recipe = build(Recipe, settings, "")
    assert isinstance(recipe, Recipe)
    return recipe


@cache
def published(model: str) -> Mapping[str, Any]:
    """The paper's training settings for this model, by its family."""
    told = asdict(paper_settings(family_of(model)))
    return {name: told[name] for name in ("loss", "lambda_cos", "bins", "epochs", "batch", "lr")}


def _row(name: str, told: Any, start: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> RecipeRow:
    """A row from its settings; without `method` or `searched` it learns, and overrides its base settings."""
    where = f"rows.{name}"
    if not isinstance(told, dict):
        raise ValueError(f"{where}: expected settings by name, not {cut(repr(told))}")
    own = [one.name for one in fields(RecipeRow) if one.name != "learns"]
    learning = [one.name for one in fields(Learning)]
    for key in told:
        if key not in (*own, *learning):
            raise ValueError(unknown(f"setting of {where}", str(key), (*own, *learning)))
    simple = {key: value for key, value in told.items() if key in own}
    rest = {key: value for key, value in told.items() if key not in own}
    if fixed := [key for key in ("method", "searched") if key in simple]:
        if rest or len(fixed) > 1:
            also = next(iter(rest), fixed[-1])
            raise ValueError(f"{where}: a row with {fixed[0]} learns nothing; leave out {also}")
        learns = None
    else:
        learns = build(Learning, _over(start(rest), rest), where)
    row = build(RecipeRow, simple, where)
    assert isinstance(row, RecipeRow)
    return replace(row, learns=learns)


def build(kind: type, told: Any, where: str) -> Any:
    """A dataclass from settings by name; ValueError, with the place, for a wrong name, type or value."""
    if not isinstance(told, Mapping):
        raise ValueError(f"{where}: expected settings by name, not {cut(repr(told))}")
    hints = get_type_hints(kind)
    for key in told:
        if key not in hints:
            raise ValueError(unknown(f"setting of {where}" if where else "setting", str(key), hints))
    prefix = f"{where}." if where else ""
    values = {key: _checked(hints[key], value, f"{prefix}{key}") for key, value in told.items()}
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING and one.name not in values:
            raise ValueError(f"{prefix}{one.name} is missing")
    try:
        return kind(**values)
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}" if where else str(problem)) from problem


def _checked(hint: Any, value: Any, where: str) -> Any:
    """`value` converted to the type `hint`."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in members:
        return None
    for one in members:
        origin = get_origin(one)
        if isinstance(one, type) and is_dataclass(one):
            return value if isinstance(value, one) else build(one, value, where)
        if origin is Mapping and isinstance(value, Mapping):
            return {key: _checked(get_args(one)[1], each, f"{where}.{key}") for key, each in value.items()}
        if origin is tuple:
            listed = value if isinstance(value, list | tuple) else [value]
            return tuple(_checked(get_args(one)[0], each, where) for each in listed)
        if origin is Literal and isinstance(value, str) and value in get_args(one):
            return value
        if one is float and isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"{where}={value}: choose a finite number")
            return float(value)
        if one is Ratio and isinstance(value, str | float):
            return _budget(value, where)
        if one in (int, str, bool) and type(value) is one:
            if one is int and not -(2**63) <= value < 2**63:
                raise ValueError(f"{where}={cut(value)}: choose a whole number that fits into 64 bits")
            return value
    raise ValueError(f"{where}={cut(repr(value))}: expected {' or '.join(map(_word, members))}")


def _budget(value: str | float, where: str) -> Keep:
    try:
        return read_keep(value)
    except ValueError as problem:
        raise ValueError(f"{where}: {cut(str(problem), 200)}") from problem


def _word(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return WORDS.get(hint, str(hint))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `below`, overridden by `above` group by group."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return both


def _put(told: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key; names of rows may have spaces. ValueError for an unknown key."""
    if key not in (paths := {path: None for path in _paths(told)}):
        raise ValueError(unknown("key of --set", key, paths))
    *outer, last = _parts(told, key)
    place = told
    for part in outer:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[last] = value


def _parts(told: Mapping[str, Any], key: str) -> list[str]:
    if key.startswith("rows."):
        rest = key.removeprefix("rows.")
        row = next(
            name for name in sorted(told["rows"], key=len, reverse=True) if rest.startswith(f"{name}.")
        )
        return ["rows", row, *rest.removeprefix(f"{row}.").split(".")]
    return key.split(".")


def _paths(told: Mapping[str, Any]) -> Iterator[str]:
    """All keys that --set can change."""
    yield from (one.name for one in fields(Recipe) if one.name not in ("name", "rows"))
    for name, kind in (("search", LabelConfig), ("draw", Drawing), ("latency", Latency), ("edge", Edge)):
        yield from (f"{name}.{one.name}" for one in fields(kind))
    for group in ("learns", "miniature"):
        yield from (f"{group}.{one}" for one in _learning())
    for row in told.get("rows") or {}:
        yield from (f"rows.{row}.{one}" for one in (*_learning(), "method", "searched", "positions"))


def _learning() -> Iterator[str]:
    yield from (one.name for one in fields(Learning) if one.name not in ("labels", "train"))
    yield from (f"labels.{one.name}" for one in fields(LabelConfig))
    yield from (f"train.{one.name}" for one in fields(TrainConfig) if one.name != "seed")
