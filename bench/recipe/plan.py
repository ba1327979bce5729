"""Turns a recipe into its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from bench.data.instructions import Index, Instructions
from bench.evaluation.compressors import selector_for
from bench.evaluation.protocol import of_task
from bench.recipe.measure import TimingStep, timings
from bench.recipe.oracle import LossesStep, SearchStep
from bench.recipe.paper import Paper
from bench.recipe.schema import Learning, Recipe
from bench.recipe.steps import (
    AnswerStep,
    Candidate,
    LabelStep,
    SamplePool,
    Step,
    TrainStep,
    Workspace,
    key_of,
    named,
    trained,
)
from bench.tasks import Task
from bench.tasks.folder import HUB
from bench.tasks.load import load_tasks
from bench.tasks.mixture import training_samples
from compress.base import Selector
from compress.budget import check_depths
from compress.keep import Keep, count_of
from compress.micro.worlds import MICRO, World, world_of
from compress.models.loading import MLLM, MODELS
from compress.samples import Sample

TEXTVQA = "textvqa"
COMPARISON, PICTURES = "comparison", "pictures"  # folders of a result
RANDOM = "random"  # the kind of labels that serves as a control


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a recipe in an order in which they can run, without duplicates.

    `stores` are the label steps and `trains` the training steps, by the row that learns and its seed.
    """

    recipe: Recipe
    shop: Workspace
    stores: Mapping[tuple[str, int], LabelStep]
    trains: Mapping[tuple[str, int], TrainStep]
    answers: AnswerStep
    searched: Sequence[SearchStep]
    losses: LossesStep | None
    timed: Sequence[TimingStep]

    @property
    def mllm(self) -> MLLM:
        return self.shop.load(self.recipe.model)

    @cached_property
    def steps(self) -> list[Step]:
        listed: list[Step] = [*self.stores.values(), *self.trains.values()]
        if self.recipe.rows:
            listed.append(self.answers)
        for one in self.searched:
            listed += [*one.labels.values(), one]
        if self.losses:
            listed.append(self.losses)
        listed += self.timed
        return list({(step.digest, step.units): step for step in listed}.values())

    @cached_property
    def budgets(self) -> dict[Keep, Keep]:
        return self.recipe.budgets(self.mllm.visual_tokens, free=self.mllm.free_size)

    @cached_property
    def folder(self) -> Path:
        """Folder of the results; settings, models and code determine its name."""
        told = {key: value for key, value in asdict(self.recipe).items() if key not in ("name", "title")}
        keys = [one.key for one in self.answers.candidates]
        digest = key_of(told, self.answers.digest, keys, [step.digest for step in self.steps])
        return self.shop.folder / f"{self.recipe.name}-{digest[:8]}"


def plan(recipe: Recipe, shop: Workspace) -> Plan:
    """The steps of a recipe; ValueError for errors that can be found before any work."""
    if recipe.paper:
        Paper.of(recipe.paper)
    mllm = shop.load(recipe.model)
    if shop.here > 1 and (device := mllm.model.device.type) != "cpu":
        raise ValueError(
            f"workers={shop.here}: choose 1, or more with models on the CPU (here: {device}); for several "
            f"devices name them: --devices"
        )
    world = world_of(recipe.model)
    data = load_tasks(
        recipe.tasks, recipe.n, recipe.split, data=recipe.data, protocol=recipe.protocol, world=world
    )
    asked = [task.name for task in data]
    if recipe.draw and recipe.draw.task not in asked:
        raise ValueError(f"draw.task={recipe.draw.task}: choose one of the recipe's {', '.join(asked)}")
    stores: dict[tuple[str, int], LabelStep] = {}
    trains: dict[tuple[str, int], TrainStep] = {}
    candidates: list[Candidate] = []
    budgets = recipe.budgets(mllm.visual_tokens, free=mllm.free_size)
    for name, row in recipe.rows.items():
        if row.method:
            selector = selector_for(row.method, mllm.name)
            _check_depths(f"rows.{name}.method={row.method}", selector, budgets, mllm)
            candidates.append(named(selector, name, row.positions))
        if row.learns:
            learner = recipe.source if row.learns.source_gives and recipe.source else recipe.model
            for seed in recipe.seeds:
                stores[name, seed] = store = _labels(recipe, shop, learner, row.learns, seed)
                config = replace(row.learns.train, seed=seed)
                exam = validation(recipe) if learner not in MODELS else None
                step = TrainStep(shop, f"train: {name}, seed {seed}", store, config, exam)
                trains[name, seed] = step
                chooser = recipe.source if row.learns.source_gives == "indices" else None
                depth = row.learns.layer(mllm.layers)
                candidates.append(trained(step, name, row.learns.selects, depth, row.positions, chooser))
    if shop.engine.elsewhere and any(one.source for one in candidates):
        raise ValueError(
            f"engine {shop.engine.name}: rows of this recipe select on another model, which only one machine "
            f"with one device can do: leave out --engine and --devices"
        )
    answers = AnswerStep(shop, "answer", recipe.model, tuple(candidates), tuple(budgets), data, recipe.match)
    oracle = {name: row for name, row in recipe.rows.items() if row.searched}
    if oracle and recipe.match != "tokens":
        raise ValueError(
            f"match={recipe.match}: searched masks have a fixed number of tokens; set match: tokens"
        )
    masks = _masks(recipe, shop, data, budgets) if oracle else {}
    searched = [
        SearchStep(shop, f"answer with masks: {name}", name, row.searched == "other", answers, masks)
        for name, row in oracle.items()
    ]
    losses = LossesStep(shop, "losses of what was kept", answers, searched) if recipe.losses else None
    made: list[Plan] = []
    timed = timings(recipe, shop, answers, trains, lambda: made[0].folder / COMPARISON)
    made.append(Plan(recipe, shop, stores, trains, answers, searched, losses, timed))
    return made[0]


def _check_depths(title: str, selector: Selector, budgets: Iterable[Keep], mllm: MLLM) -> None:
    """ValueError if a method acts at a layer that the model does not have: no budget could fill its cells."""
    tokens = mllm.visual_tokens
    try:
        for keep in budgets:
            check_depths(selector, tokens, count_of(keep, tokens), mllm.layers)
    except ValueError as problem:
        raise ValueError(f"{title}: {problem}") from problem


def validation(recipe: Recipe) -> tuple[Task, list[Sample]] | None:
    """TextVQA's validation questions, which select the epoch in the paper, if the recipe's data has them."""
    if recipe.data is None or not (recipe.data.startswith(HUB) or (Path(recipe.data) / TEXTVQA).is_dir()):
        return None
    ((found),) = load_tasks(
        [TEXTVQA], recipe.validate, "val", data=recipe.data, protocol=recipe.protocol
    ).items()
    return found


def training_pool(
    mixture: str | None, images: str | None, world: World = MICRO, questions: int | None = None
) -> SamplePool:
    """The miniature's training samples, or those of LLaVA's mixture ordered by the hashes of their ids."""
    if mixture is None or images is None:
        facts: dict[str, object] = {"samples": f"the {world.name} mixture"}
        if questions not in (None, world.questions):
            facts |= {"questions": questions}
        first = partial(training_samples, world=world, questions=questions)
        return SamplePool(facts, first, shipped=True)
    path = Path(mixture)
    if not path.is_file():
        raise ValueError(f"there is no instruction mixture at {path}")
    folder = Path(images)

    def take(count: int) -> list[Sample]:
        chosen = Instructions(Index.of(path), folder, n=count)
        if len(chosen) < count:
            raise ValueError(f"{path} has {len(chosen)} usable samples, and {count} are wanted")
        chosen.refuse_changed()
        return list(chosen)

    return SamplePool({"samples": path.name, "bytes": path.stat().st_size}, take)


def _labels(recipe: Recipe, shop: Workspace, model: str, learns: Learning, seed: int) -> LabelStep:
    """The labels for one seed: random labels are drawn anew for each seed, others are shared by all seeds."""
    pool = training_pool(recipe.mixture, recipe.images, world_of(recipe.model), learns.questions)
    config = learns.labels
    if config.kind == RANDOM:
        config = replace(config, seed=config.seed + seed)
    what = [config.kind, config.grouper, config.strategy or "", f"seed {config.seed}" if config.seed else ""]
    title = f"label: {', '.join(filter(None, what))}"
    return LabelStep(shop, title, model, config, pool, learns.samples)


def _masks(
    recipe: Recipe, shop: Workspace, data: Mapping[Task, Sequence[Sample]], budgets: Mapping[Keep, Keep]
) -> dict[tuple[Keep, str], LabelStep]:
    """Searches on the evaluation samples themselves, by budget and task."""

    def taken(samples: Sequence[Sample]) -> Callable[[int], list[Sample]]:
        return lambda count: list(samples[:count])

    return {
        (keep, task.name): LabelStep(
            shop, f"search masks: {task.name}, {keep} tokens", recipe.model,
            replace(recipe.search, keep=keep), SamplePool(of_task(task, samples), taken(samples)),
            len(samples),
        )
        for keep in budgets
        for task, samples in data.items()
    }  # fmt: skip
