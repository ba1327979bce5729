"""The floors of the house: imports go down only, heavy libraries stay where they are needed.

Imports are read from the syntax tree, so those inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FLOORS = ("evosearch", "compress", "baselines", "bench")  # lowest first
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]

# Rooms of bench, lowest first. A room imports from the floors below its own, and from no neighbour.
BENCH_ROOMS = (
    {"console", "yaml_files", "tasks", "fidelity"},
    {"data", "evaluation"},
    {"report", "lmms"},
    {"latency", "edge", "serving", "app", "demo", "doctor"},
    {"recipe", "speed"},
    {"commands", "cli"},  # one room: cli loads commands by their names
)

TRANSFORMERS = {  # who may know the library, besides compress/micro, which builds a model with it
    "compress/models/mllm.py",
    "compress/models/clip.py",  # the text tower beside a vision tower
    "compress/models/frames.py",  # what lies beside the weights
    "compress/models/loading.py",
    "compress/models/llava.py",
    "compress/models/llava_next.py",
    "compress/models/qwen2_5_vl.py",
    "compress/models/llava_onevision.py",
    "compress/models/gemma4.py",
    "compress/models/mistral3.py",  # a processor
    # the text tower of a CLIP
    "compress/models/processors.py",  # read from their parts
    "compress/attach/attention.py",  # the kernels of attention
    "bench/fidelity/pyramiddrop.py",  # a decoder layer of recorded weights
    "compress/attach/session.py",
    "compress/models/caches.py",  # names that releases give the cache
    "compress/compressor/network.py",  # a decoder layer as compressor
    "compress/models/shapes.py",  # published configurations
    "compress/engines/tower.py",  # the kernels of attention
    "compress/models/static.py",  # caches of a fixed length
}
PLUG_INS = {  # libraries that only an extra brings, and the one folder that knows them
    "lmms_eval": "bench/lmms/",
    "playwright": "bench/speed/",
    "vllm": "bench/serving/",
    "pymoo": "bench/speed/",
}


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports; `from a import b` gives a and a.b, since b may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: write imports with the full name"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def users(library: str) -> set[str]:
    """Files that import a library, as paths from the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if any(name.partition(".")[0] == library for name in imports(path))
    }


def third_party(floor: str) -> set[str]:
    names = {name.partition(".")[0] for path in (ROOT / floor).rglob("*.py") for name in imports(path)}
    return names - sys.stdlib_module_names - set(FLOORS)


def names_of(path: Path) -> tuple[list[str], list[str]]:
    """Classes that a file defines at its top level, and other names that stand for types."""
    classes, others = [], []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            classes.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        others += [one.id for one in targets if isinstance(one, ast.Name) and re.match("[A-Z][a-z]", one.id)]
    return classes, others


def test_the_name_of_a_class_is_taken_once() -> None:
    """So that a search for it finds one thing. Aliases may recur, but not under the name of a class."""
    found = [names_of(path) for path in FILES]
    classes = [name for defined, _ in found for name in defined if not name.startswith("_")]
    aliases = {name for _, defined in found for name in defined}
    assert {name for name in classes if classes.count(name) > 1 or name in aliases} == set()


def test_imports_go_down_only() -> None:
    climbing = {
        f"{floor} imports {above}: {file}"
        for level, floor in enumerate(FLOORS)
        for above in FLOORS[level + 1 :]
        for file in users(above)
        if file.startswith(f"{floor}/")
    }
    assert not climbing


ROOMS = {  # of compress, with their floors; base are the files that lie in no folder
    "base": 0,
    "micro": 1,  # worlds, questions, language
    "models": 1,
    "attach": 2,
    "engines": 3,
    "compressor": 2,
    "parallel": 2,
    "labels": 3,
    "training": 4,
    "micro/recipe": 5,
}


def room(path: str) -> str:
    """The room of a file or module of compress, by its path from the root without suffix."""
    inside = path.removeprefix("compress/")
    fitting = (name for name in ROOMS if f"{inside}/".startswith(f"{name}/"))
    return max(fitting, key=len, default="base")


def arrows(path: Path) -> set[tuple[str, str]]:
    """The rooms that a file of compress imports from: its own room, the other."""
    here = room(path.relative_to(ROOT).with_suffix("").as_posix())
    modules = {name.replace(".", "/") for name in imports(path) if name.startswith("compress.")}
    return {(here, there) for there in map(room, modules) if there != here}


def test_every_folder_of_compress_is_a_room() -> None:
    folders = {path.parent.relative_to(ROOT / "compress") for path in (ROOT / "compress").rglob("*.py")}
    assert {folder.as_posix() for folder in folders} - {"."} == ROOMS.keys() - {"base"}


@pytest.mark.parametrize("path", sorted((ROOT / "compress").rglob("*.py")), ids=lambda path: path.stem)
def test_rooms_of_compress_import_from_lower_floors_only(path: Path) -> None:
    """So there is no circle, and rooms of one floor do not know each other."""
    assert {(here, there) for here, there in arrows(path) if ROOMS[there] >= ROOMS[here]} == set()


def bench_room(name: str) -> str | None:
    """The room of bench that a dotted name is in."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "bench" and rest else None


def climbs(file: str, names: Iterable[str]) -> set[str]:
    """What a file of bench imports from its own floor, its own room aside, or from above it."""
    floor_of = {name: floor for floor, rooms in enumerate(BENCH_ROOMS) for name in rooms} | {"__init__": 0}
    own = bench_room(file.removesuffix(".py").replace("/", ".")) or ""
    home = BENCH_ROOMS[-1] if own in BENCH_ROOMS[-1] else {own}
    return {
        name
        for name in names
        if (other := bench_room(name)) in floor_of and other not in home and floor_of[other] >= floor_of[own]
    }


def test_inside_bench_imports_go_down_only() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in FILES if ROOT / "bench" in path.parents]
    assert {file: found for file in files if (found := climbs(file, imports(ROOT / file)))} == {}


def test_every_room_of_bench_is_on_a_floor() -> None:
    files = [path.relative_to(ROOT).with_suffix("") for path in FILES if ROOT / "bench" in path.parents]
    there = {path.parts[1] for path in files} - {"__init__"}
    assert there == set().union(*BENCH_ROOMS) and len(there) == sum(map(len, BENCH_ROOMS))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("bench/recipe/measure.py", "bench.cli.main"),
        ("bench/speed/gpu.py", "bench.commands.latency"),
        ("bench/evaluation/stats.py", "bench.report.tables"),
        ("bench/edge/chain.py", "bench.latency.clock"),
        ("bench/__init__.py", "bench.cli"),
    ],
)
def test_an_arrow_up_is_seen(file: str, name: str) -> None:
    assert climbs(file, {name}) == {name}


def test_nothing_below_the_commands_imports_one_by_a_text() -> None:
    """`import_module("bench.commands.NAME")` is an import that the syntax tree does not show as one."""
    above = re.compile(r"[\"'](bench\.(?:commands|cli)\b)")
    files = [path for path in FILES if not {*path.relative_to(ROOT).with_suffix("").parts} & BENCH_ROOMS[-1]]
    assert {path.name for path in files if above.search(path.read_text(encoding="utf-8"))} == set()


def test_inside_compress_only_labels_know_the_search() -> None:
    inside = {file for file in users("evosearch") if file.startswith("compress/")}
    others = {file for file in inside if not file.startswith("compress/labels")}
    known = {name for file in others for name in imports(ROOT / file) if name.startswith("evosearch")}
    words = {"evosearch.registry.cut", "evosearch.registry.unknown"}  # for errors
    assert known <= {"evosearch.registry", *words}


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").glob("*.py")), ids=lambda path: path.stem)
def test_baselines_see_the_contract_and_no_model(path: Path) -> None:
    allowed = ["compress.base", "compress.coverage"]  # mathematics without a model
    if path.stem == "__init__":
        allowed += ["compress.compressor.evocomp", "compress.compressor.evocomp_plus"]  # trained methods
    seen = {name for name in imports(path) if name.partition(".")[0] == "compress"}
    assert {name for name in seen if not any(f"{name}.".startswith(f"{one}.") for one in allowed)} == set()


def test_search_and_methods_need_few_libraries() -> None:
    assert third_party("evosearch") <= {"numpy", "scipy", "sklearn", "deap"}
    assert third_party("baselines") <= {"numpy", "torch"}


@pytest.mark.parametrize("floor", FLOORS)
def test_every_library_is_declared(floor: str, setup_py: Any) -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in setup_py.install_requires}
    providers = packages_distributions()
    undeclared = {
        library
        for library in third_party(floor) - set(PLUG_INS)
        if not declared & {canonicalize_name(name) for name in providers.get(library, [])}
    }
    assert undeclared == set()


@pytest.mark.parametrize(("library", "folder"), PLUG_INS.items())
def test_plug_ins_stay_in_their_folder(library: str, folder: str) -> None:
    assert {file for file in users(library) if not file.startswith(folder)} == set()


def test_transformers_stays_in_few_files() -> None:
    known = {file for file in users("transformers") if not file.startswith("compress/micro/")}
    assert known <= TRANSFORMERS


@pytest.mark.parametrize("library", ["click", "yaml", "rich", "jinja2"])
def test_only_bench_talks_to_people(library: str) -> None:
    assert {file for file in users(library) if not file.startswith("bench/")} == set()


def loaded(code: str) -> set[str]:
    """Run `code` in a fresh process; the libraries and packages that are loaded at its end."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    script = f"import sys\n{code}\nprint(*{names}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "sklearn", "scipy", "pyarrow", "matplotlib", "PIL"}


def test_importing_the_search_is_light() -> None:
    assert not HEAVY & loaded("import evosearch")


def test_lmms_eval_starts_without_our_heavy_imports() -> None:
    assert not HEAVY & loaded("import bench.lmms")


LAZY = ("attach", "models", "parallel", "training")  # packages of compress that import names on first use


def test_rooms_of_compress_import_their_names_on_first_use() -> None:
    imported = "\n".join(f"import compress.{name}" for name in LAZY)
    assert not (HEAVY - {"torch"}) & loaded(imported)


@pytest.mark.parametrize("name", LAZY)
def test_lazy_names_are_there_and_type_checkers_see_the_same(name: str) -> None:
    package = importlib.import_module(f"compress.{name}")
    path = ROOT / "compress" / name / "__init__.py"
    (checking,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    seen = {
        f"{node.module}.{node.names[0].name}" for node in checking.body if isinstance(node, ast.ImportFrom)
    }
    assert {one.rpartition(".")[2] for one in seen} == set(package.__all__)
    for one in seen:
        home, _, inside = one.rpartition(".")
        assert getattr(package, inside) is getattr(importlib.import_module(home), inside)
    assert not {path.stem for path in (ROOT / "compress" / name).glob("*.py")} & set(package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize(("package", "absent"), [("compress", {"transformers"}), ("baselines", set())])
def test_importing_loads_no_weights(package: str, absent: set[str]) -> None:
    code = f"""
import {package}
import gc, torch
weights = [one for one in gc.get_objects() if issubclass(type(one), torch.nn.Parameter | torch.nn.Module)]
assert not weights, weights
"""
    assert not absent & loaded(code)


def test_help_needs_no_heavy_import() -> None:
    code = """
from bench.cli import main
main(["--help"], standalone_mode=False)
"""
    assert not (HEAVY | {"numpy", "deap", "rich"}) & loaded(code)


def test_help_of_every_command_needs_no_model() -> None:
    code = """
import click
from bench.cli import main

def paths(group, path=()):
    yield path
    for name in group.list_commands(click.Context(group)) if isinstance(group, click.Group) else ():
        yield from paths(group.get_command(click.Context(group), name), (*path, name))

found = [*paths(main)]
assert ("labels", "audit") in found and ("bench", "edge") in found
for path in found:
    main([*path, "--help"], standalone_mode=False)
"""
    assert not HEAVY & loaded(code)
