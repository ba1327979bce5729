"""A fingerprint changes with the code that makes a result, and with nothing else."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from baselines import METHODS
from bench.evaluation.evaluate import evaluate
from bench.recipe.measure import TimingStep
from bench.recipe.oracle import LossesStep, SearchStep
from bench.recipe.schema import Edge, Latency
from bench.recipe.steps import Step, TrainStep
from compress import fingerprint as module
from compress.fingerprint import PACKAGES, ROOT, fingerprint, meaning
from compress.labels.labelling import Labeller
from compress.models.llava import Llava

PLAIN = "def f(x):\n    return x + 1\n"
DRESSED = '"""Module."""\n\n\ndef f(x):  # comment\n    """Adds."""\n\n    return (x + 1)\n'
Digest = Callable[..., str]


def test_comments_layout_and_docstrings_mean_nothing() -> None:
    assert meaning(PLAIN) == meaning(DRESSED)
    assert meaning(PLAIN) != meaning(PLAIN.replace("1", "2"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES - {"evocomp"}:
        shutil.copytree(
            ROOT / package, root / package, ignore=lambda folder, names: [n for n in names if "weights" in n]
        )
    shutil.copy(ROOT / "evocomp.py", root)
    return root


@pytest.fixture(scope="module")
def read() -> Callable[[tuple[str, ...], Path], object]:
    """As `_source`, but a file that has changed is read again, and only that."""
    known: dict[tuple[Path, bytes], object] = {}

    def source(name: tuple[str, ...], file: Path) -> object:
        key = (file, file.read_bytes())
        if key not in known:
            known[key] = module._Module(name, file)
        return known[key]

    return source


@pytest.fixture
def digest(
    copy: Path, read: Callable[[tuple[str, ...], Path], object], monkeypatch: pytest.MonkeyPatch
) -> Digest:
    """The fingerprint of definitions in the copy, after one text in it was replaced by another."""
    monkeypatch.setattr(module, "_source", read)

    def found(*starts: object, change: tuple[str, str, str] | None = None) -> str:
        file = copy / change[0] if change else None
        before = file.read_text() if file else ""
        if file and change:
            assert before.count(change[1]) >= 1, change
            file.write_text(before.replace(change[1], change[2]))
        try:
            places = [module._place(one) for start in starts for one in module._definitions(start)]
            reached = module._Project(((copy, PACKAGES),)).reached(
                [(place.module, place.inside) for place in places if place]
            )
            return module._digest(*sorted(reached))
        finally:
            if file:
                file.write_text(before)

    return found


COVERAGE = ("compress/coverage.py", "argmax", "argmin")


@pytest.mark.parametrize(
    ("method", "change", "counts"),
    [
        ("cover", COVERAGE, True),
        ("evocomp+", COVERAGE, True),
        ("random", COVERAGE, False),
        ("fastv", COVERAGE, False),
        ("fastv", ("baselines/fastv.py", "FastV", "FastV2"), True),
        ("visionzip", ("baselines/fastv.py", "FastV", "FastV2"), False),
        ("fastv", ("baselines/fastv.py", "    layer: int = 2", "    # why\n    layer: int = 2"), False),
        ("fastv", ("baselines/fastv.py", "    layer: int = 2", "    layer: int = 3"), True),
        ("evocomp", ("compress/compressor/network.py", "retention logits", "other words"), False),
        ("evocomp", ("compress/compressor/network.py", "def score(self, ", "def score(self, /, "), True),
        ("random", ("compress/compressor/network.py", "def score(self, ", "def score(self, /, "), False),
    ],
)
def test_what_a_method_computes_with_counts_for_it_alone(
    digest: Digest, method: str, change: tuple[str, str, str], counts: bool
) -> None:
    start = METHODS[method]
    assert (digest(start) != digest(start, change=change)) is counts


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("compress/attach/session.py", "def hook(self)", "def hook(self, more=1)"), True),
        (("compress/attach/selections.py", "keep < len(view.hidden)", "keep <= len(view.hidden)"), True),
        (("bench/evaluation/evaluate.py", "task.max_new_tokens", "task.max_new_tokens + 1"), True),
        (("bench/cli.py", "def main", "def main2"), False),
        (("bench/report/page.py", "def ", "def un"), False),
        (("baselines/fastv.py", "FastV", "FastV2"), False),
        (("bench/tasks/pope.py", "class Pope", "class Pope2"), False),
    ],
)
def test_every_evaluated_cell_depends_on_the_path_that_evaluates(
    digest: Digest, change: tuple[str, str, str], counts: bool
) -> None:
    assert (digest(evaluate) != digest(evaluate, change=change)) is counts


def step(kind: type[Step], **told: object) -> Step:
    """A step of which nothing but its code is asked."""
    made, model = object.__new__(kind), object.__new__(Llava)
    shop = SimpleNamespace(load=lambda name: model)
    micro = SimpleNamespace(name="micro")
    vars(made).update(shop=shop, answers=micro, labels=micro, **told)
    return made


@pytest.mark.parametrize(
    ("made", "change"),
    [
        (step(TimingStep, settings=Latency()), ("bench/latency/run.py", "int = 3", "int = 4")),
        (step(TimingStep, settings=Edge()), ("bench/edge/chain.py", "def ", "def one_")),
        (step(SearchStep), ("bench/evaluation/evaluate.py", "def ", "def one_")),
        (step(LossesStep), ("compress/labels/forward.py", "def ", "def one_")),
        (step(TrainStep, exam=None), ("compress/training/losses.py", "def ", "def one_")),
        (step(TrainStep, exam=("task", "samples")), ("compress/compressor/evocomp.py", "def ", "def one_")),
        (step(TrainStep, exam=("task", "samples")), ("bench/evaluation/evaluate.py", "def ", "def one_")),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else one.kind,
)
def test_steps_of_a_recipe_count_the_code_that_makes_their_results(
    digest: Digest, made: Step, change: tuple[str, str, str]
) -> None:
    assert digest(*made.code) != digest(*made.code, change=change)


def test_a_training_without_validation_does_not_count_what_answers(digest: Digest) -> None:
    made, change = step(TrainStep, exam=None), ("bench/evaluation/evaluate.py", "def ", "def one_")
    assert digest(*made.code) == digest(*made.code, change=change)


def test_labels_depend_on_what_computes_losses(digest: Digest) -> None:
    change = ("compress/labels/forward.py", "def ", "def one_")
    assert digest(Labeller) != digest(Labeller, change=change)


def test_a_users_own_method_and_its_helper_count(
    tmp_path: Path, read: Callable[[tuple[str, ...], Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_helper.py").write_text("K = 1\n")
    (tmp_path / "users_own.py").write_text(
        "import users_helper\nfrom baselines import Grid\n\n\nclass Mine(Grid):\n    k = users_helper.K\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("users_helper", "users_own"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    mine = importlib.import_module("users_own").Mine
    for name in ("users_helper", "users_own"):
        monkeypatch.setitem(sys.modules, name, sys.modules.pop(name))  # gone after the test
    monkeypatch.setattr(module, "_source", read)

    def of_a_new_process() -> str:
        module._project.cache_clear()
        module._of_files.cache_clear()
        return fingerprint(mine)

    first = of_a_new_process()
    assert of_a_new_process() == first
    (tmp_path / "users_helper.py").write_text("K = 2\n")
    assert of_a_new_process() != first


def test_what_a_users_method_takes_from_the_installed_package_counts_as_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_two.py").write_text("from evocomp import FastV\n\n\nclass Mine:\n    inner = FastV\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("users_two").Mine
    monkeypatch.setitem(sys.modules, "users_two", sys.modules.pop("users_two"))  # gone after the test
    found = []
    for installed in (frozenset(), frozenset({ROOT})):
        monkeypatch.setattr(module, "INSTALLED", installed)
        module._project.cache_clear()
        module._of_files.cache_clear()
        found.append(fingerprint(mine))
    assert found[0] == found[1]


def test_a_class_that_was_typed_in_counts_by_what_it_does() -> None:
    made = []
    for body in ("1", "1", "2"):
        space: dict[str, object] = {"__name__": "typed"}
        exec(f"class A:\n    def f(self):\n        return {body}\n", space)
        made.append(fingerprint(space["A"]))
    assert made[0] == made[1] != made[2]
