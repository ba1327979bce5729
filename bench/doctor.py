"""Checks of the installation and of a folder of benchmarks; one finding per checked item."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from bench.lmms import NAME
from evosearch.registry import cut, listed

if TYPE_CHECKING:  # no other import of the package: it may be the broken one
    from bench.tasks.base import Task
    from bench.tasks.folder import Folder, Manifest
    from compress.samples import Sample

WATCHED = ("torch", "transformers", "tokenizers", "safetensors", "deap", "pyarrow", "pillow")
EXAMPLES = 3  # examples shown in a message
PACKAGES = ("evosearch", "compress", "baselines", "bench")
HOME = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Diagnosis:
    """One finding. `problem` must be fixed; `note` is information, such as a missing extra."""

    subject: str
    state: Literal["ok", "note", "problem"]
    detail: str


# The installation --------------------------------------------------------------------------------------


def installation() -> Iterator[Diagnosis]:
    """Check versions against the declared ranges, the device, optional extras, and shipped weights."""
    fits = sys.version_info >= (3, 11)
    yield Diagnosis("python", "ok" if fits else "problem", f"{platform.python_version()}, needs >=3.11")
    try:
        needs = requires("evocomp") or []
    except PackageNotFoundError:
        yield Diagnosis("evocomp", "problem", "not installed: pip install -e .")
        needs = []
    yield from own_packages()
    ranges, extras = requirements(needs)
    for name in WATCHED:
        if name in ranges:
            yield _installed(name, ranges[name])
    for extra, wanted in sorted(extras.items()):
        yield _extra(extra, wanted)
    broken = [*_imports()]
    yield from broken
    if broken:
        return
    if have := _version("lmms_eval"):
        yield _plug_in(have)
    yield _device()
    from bench.evaluation.compressors import SHIPPED
    from compress.models.loading import MODELS

    for name, folder in MODELS.items():
        yield _weights(f"model {name}", folder)
    for folder in sorted(SHIPPED.glob("*/compressor/*")):
        yield _weights(f"compressor {folder.parent.parent.name}/{folder.name}", folder)
    yield _compression()


def own_packages(home: Path = HOME) -> Iterator[Diagnosis]:
    """Check that evocomp's four packages are its own, and that no package of the same name hides them."""
    owners = packages_distributions()
    sound = True
    for name in PACKAGES:
        here, plain = _place(find_spec(name)), _place(PathFinder.find_spec(name))
        others = sorted({*owners.get(name, ())} - {"evocomp"})
        if here != home / name:
            detail = f"comes from {here}, not from evocomp: use an environment without it, or rename it"
            yield Diagnosis(name, "problem", detail)
        elif others:
            detail = f"{', '.join(others)} installs a package of the same name: use an environment without it"
            yield Diagnosis(name, "problem", detail)
        elif plain not in (None, home / name):
            yield Diagnosis(
                name, "note", f"{plain} hides it from programs: rename that, or import evocomp first"
            )
        else:
            continue
        sound = False
    if sound:
        yield Diagnosis("packages", "ok", f"{', '.join(PACKAGES)} come from {home}")


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module."""
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).resolve()
    return path.parent if path.name == "__init__.py" else path


def requirements(lines: Sequence[str]) -> tuple[dict[str, SpecifierSet], dict[str, dict[str, SpecifierSet]]]:
    """Version ranges by name, and by extra and name, from a distribution's metadata."""
    ranges: dict[str, SpecifierSet] = {}
    extras: dict[str, dict[str, SpecifierSet]] = {}
    for one in map(Requirement, lines):
        extra = re.search(r"extra == [\"']([\w-]+)", str(one.marker))
        if extra:
            extras.setdefault(extra[1], {})[one.name.lower()] = one.specifier
        else:
            ranges[one.name.lower()] = one.specifier
    return ranges, extras


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _installed(name: str, wanted: SpecifierSet) -> Diagnosis:
    have = _version(name)
    if have is None:
        return Diagnosis(name, "problem", f"not installed, needs {wanted}")
    fits = wanted.contains(have, prereleases=True)
    return Diagnosis(name, "ok" if fits else "problem", f"{have}, needs {wanted}")


def _extra(extra: str, wanted: Mapping[str, SpecifierSet]) -> Diagnosis:
    """Check that the libraries of an extra are installed in the required versions."""
    install = f"pip install 'evocomp[{extra}]'"
    there = {name: _version(name) for name in wanted}
    absent = [name for name, have in there.items() if not have and find_spec(name.replace("-", "_")) is None]
    if absent:
        return Diagnosis(f"extra {extra}", "note", f"without {', '.join(absent)}: {install}")
    wrong = [
        f"{name} {have}, needs {wanted[name]}"
        for name, have in there.items()
        if have and not wanted[name].contains(have, prereleases=True)
    ]
    if wrong:
        return Diagnosis(f"extra {extra}", "problem", f"{'; '.join(wrong)}: {install}")
    return Diagnosis(f"extra {extra}", "ok", ", ".join(wanted))


def _imports() -> Iterator[Diagnosis]:
    """The libraries needed by every command that cannot be imported, each with the reason."""
    if (have := _version("torchvision")) and (why := _why_not("torchvision")) is not None:
        beside = f"beside torch {_version('torch')}"
        advice = "install the torchvision of this torch, from the same index, or uninstall it"
        yield Diagnosis("torchvision", "problem", f"{have} cannot be imported {beside} ({why}): {advice}")
        return  # transformers cannot be imported either
    for name in ("torch", "transformers", "compress.models.loading"):
        if (why := _why_not(name)) is not None:
            yield Diagnosis(name, "problem", f"cannot be imported ({why})")
            return


def _why_not(name: str) -> str | None:
    """The reason why a module cannot be imported, for any exception; None if it can be imported."""
    try:
        import_module(name)
    except Exception as problem:
        cause: BaseException = problem
        while earlier := cause.__cause__ or cause.__context__:
            cause = earlier
        return cut(cause, 200) or type(cause).__name__
    return None


def _plug_in(have: str) -> Diagnosis:
    """Check that lmms-eval lists the model `evocomp`; it stops loading at the first plug-in that fails."""
    others = sorted(one.value for one in entry_points(group="lmms_eval.models") if one.name != NAME)
    try:
        models = import_module("lmms_eval.models").list_available_models()
    except ImportError as problem:
        return Diagnosis("lmms-eval", "problem", f"{have} cannot be imported ({problem})")
    if NAME in models:
        return Diagnosis("lmms-eval", "ok", f"{have} sees the model {NAME}")
    culprits = f"; one of {', '.join(others)} may have failed before it" if others else ": install it again"
    return Diagnosis("lmms-eval", "problem", f"{have} does not see the plug-in of evocomp{culprits}")


def _device() -> Diagnosis:
    import torch

    if torch.cuda.is_available():
        return Diagnosis("device", "ok", f"cuda: {torch.cuda.get_device_name()}")
    return Diagnosis("device", "ok", f"cpu, {torch.get_num_threads()} threads; no accelerator is found")


def _compression() -> Diagnosis:
    """Check that generating two tokens under a method runs one prefill and one decoding step.

    Other releases of transformers may call layers and caches differently.
    """
    import torch

    from baselines import FastV
    from compress.attach.session import attach
    from compress.budget import entering, plan
    from compress.models.caches import TESTED
    from compress.models.loading import load, quiet

    subject, keep = "compression", 36
    advice = f"install transformers {TESTED}"
    try:
        quiet()
        mllm = load("micro")
        blank = Image.new("RGB", (mllm.image_side, mllm.image_side))
        inputs = mllm.prepare([blank], ["how many ?"])
        with attach(mllm, FastV(), keep) as trace, torch.no_grad():
            mllm.model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    except (ValueError, RuntimeError, TypeError, AttributeError) as problem:
        return Diagnosis(subject, "problem", f"fastv on micro fails ({problem}): {advice}")
    planned = entering(plan(FastV(), mllm.visual_tokens, keep, mllm.layers), mllm.visual_tokens, mllm.layers)
    found = [record.entering for record in trace.samples]
    if found != [planned]:
        detail = f"fastv on micro recorded {found} for one prefill and one decoding step, planned {[planned]}"
        return Diagnosis(subject, "problem", f"{detail}: {advice}")
    return Diagnosis(subject, "ok", f"fastv on micro: {planned} visual tokens enter the decoder's layers")


def _weights(subject: str, folder: Path) -> Diagnosis:
    """Read every tensor of a folder's safetensors files once."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return Diagnosis(subject, "problem", f"{folder} holds no weights: make micro builds them")
    tensors = 0
    for file in files:
        try:
            with safe_open(file, "numpy") as weights:
                for key in weights.keys():  # noqa: SIM118
                    weights.get_tensor(key)
                    tensors += 1
        except (SafetensorError, OSError) as problem:
            return Diagnosis(subject, "problem", f"{file} cannot be read ({problem})")
    return Diagnosis(
        subject, "ok", f"{tensors} tensors in {sum(file.stat().st_size for file in files):,} bytes"
    )


# A folder of benchmarks --------------------------------------------------------------------------------


def benchmarks(data: str, *, images: bool = False) -> Iterator[Diagnosis]:
    """Check every split of every task found: number of samples, ids, answers and images.

    Image files must exist and, with `images`, open. ValueError if there is no folder of a benchmark.
    """
    from bench.tasks import TASKS
    from bench.tasks.folder import Folder, Manifest

    root = Path(data)
    manifest = Manifest.of(data)
    there = [name for name in TASKS if (root / name).is_dir()]
    if not root.is_dir() or not there:
        raise ValueError(
            f"{data} has no sub-folder of a benchmark ({', '.join(TASKS)}): see docs/benchmarks.md"
        )
    strangers = sorted(one.name for one in root.iterdir() if one.is_dir() and one.name not in TASKS)
    if strangers:
        yield Diagnosis(data, "note", f"not looked at: {listed(strangers)}")
    for name in there:
        folder = Folder(root / name)
        layout = "lmms-lab's layout" if folder.tabular else "as distributed"
        splits = [TASKS[name](protocol="llava", split=part) for part in TASKS[name].splits]
        begun = [task for task in splits if task.present(folder)]  # report what these lack as a problem
        for task in begun or splits[:1]:
            yield from _split(task, folder, manifest, layout, images)


def _split(task: Task, folder: Folder, manifest: Manifest, layout: str, images: bool) -> Iterator[Diagnosis]:
    subject = f"{task.name}/{task.part}"
    try:
        samples = task.whole(folder)
    except ValueError as problem:
        yield Diagnosis(subject, "problem", str(problem))
        return
    labels = "" if samples and samples[0].answers else ", without public labels"
    yield Diagnosis(subject, "ok", f"{len(samples):,} samples, {layout}{labels}")
    for note in task.notes(samples):
        yield Diagnosis(subject, "note", note)
    for fault in [*task.miscounts(samples, manifest), *task.faults(samples)]:
        yield Diagnosis(subject, "problem", fault)
    if bad := _bad_images(samples, images):
        shown = "; ".join(bad[:EXAMPLES]) + (" ..." if len(bad) > EXAMPLES else "")
        yield Diagnosis(subject, "problem", f"{len(bad):,} images: {shown}")


def _bad_images(samples: Sequence[Sample], images: bool) -> list[str]:
    """The faults of each distinct picture: a missing file or, with `images`, the reason it does not open."""
    from bench.tasks.images import ImageFile
    from bench.tasks.videos import VideoFile
    from compress.video import Video

    pictures = [one.picture for one in samples if not isinstance(one.picture, Image.Image | Video)]
    bad = []
    for picture in {picture.key: picture for picture in pictures}.values():
        if isinstance(picture, ImageFile | VideoFile) and picture.size is None:
            bad.append(f"{picture.name} is missing")
        elif images:
            try:
                picture()
            except ValueError as problem:
                bad.append(str(problem))
    return bad
