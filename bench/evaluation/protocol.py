"""The facts that must agree for two scores in one table, and the facts of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bench.evaluation.evaluate import evaluate
from bench.tasks import TASKS, Task
from compress.base import Positions, Selector
from compress.budget import Match, choices_of
from compress.files import digest_of
from compress.fingerprint import fingerprint
from compress.models.loading import MLLM
from compress.samples import Sample
from compress.weights import parts_of
from evosearch.registry import find

Facts = Mapping[str, Any]  # ready for JSON
CODE = "code"  # the fact with the fingerprint of code: users cannot choose it


def of_model(mllm: MLLM, device: str | None = None) -> dict[str, Any]:
    """Facts shared by all processes that answer for one table; `device` is their kind, None: `mllm`'s."""
    return {
        "model": mllm.fingerprint()[:16],
        "visual tokens": mllm.visual_tokens,
        "dtype": str(mllm.model.dtype).removeprefix("torch."),
        "device": device or mllm.model.device.type,
        "prompt": mllm.prompt("?"),
    }


def of_run(
    mllm: MLLM, *, batch: int, match: Match, positions: Positions | None, device: str | None = None
) -> dict[str, Any]:
    """Facts shared by all tasks of a run."""
    return {
        **of_model(mllm, device),
        "match": match,
        "positions": positions or "each method's own",
        "batch": batch,
        CODE: fingerprint(evaluate, type(mllm)),
    }


def of_task(task: Task, samples: Sequence[Sample]) -> dict[str, Any]:
    """Facts that determine a benchmark's score: version, options, questions and maximum answer length."""
    facts = {
        **{field.name.replace("_", " "): getattr(task, field.name) for field in fields(task)},
        "version": task.version,
        "metric": task.metric,
        "new tokens": task.max_new_tokens,
        "n": len(samples),
        "samples": digest_of(one.fingerprint for one in samples),
        CODE: fingerprint(type(task)),
    }
    return {f"{task.name}: {name}": value for name, value in facts.items()}


def task_of(name: str, facts: Facts) -> Task:
    """Rebuild the benchmark with the options from `of_task`; ValueError for an unknown name or option."""
    kind = find(TASKS, name, "task")
    told = {field.name: f"{name}: {field.name.replace('_', ' ')}" for field in fields(kind)}
    return kind(**{option: facts[key] for option, key in told.items() if key in facts})


def of_entry(selector: Selector, mllm: MLLM, source: MLLM | None = None) -> dict[str, Any]:
    """Facts of a method on a model, and the other model that selected the indices, if there is one."""
    chooser = source or mllm
    told = {**of_method(selector), "choices": list(choices_of(selector, chooser.traits))}
    if source:
        told |= {"indices from": f"{source.name} {source.fingerprint()[:16]}"}
    if type(chooser) is not type(mllm):  # the code of a run has the family of `mllm` alone
        told |= {CODE: fingerprint(*_kinds(selector), type(chooser))}
    return told


def of_method(selector: Selector) -> dict[str, Any]:
    """Facts of a method: class, options, and digests of its code, weights and folders."""
    kind = type(selector)
    options = vars(selector)
    if is_dataclass(selector):
        options = {field.name: getattr(selector, field.name) for field in fields(selector)}
    return {
        "class": kind.__name__,
        "positions": selector.positions,
        "adaptive": selector.adaptive,
        CODE: fingerprint(*_kinds(selector)),
        **{name: _told(value) for name, value in options.items()},
    }


def _kinds(selector: Selector) -> list[type]:
    """The classes of a method and of the methods among its options, which its own code does not name."""
    inner = [one for one in vars(selector).values() if isinstance(one, Selector)]
    return [type(selector), *(kind for one in inner for kind in _kinds(one))]


def differences(theirs: Facts, ours: Facts, words: tuple[str, str] = ("there", "here")) -> list[str]:
    """Describe every fact that both have and that differs."""
    there, here = words
    return [
        f"{name} is {_short(theirs[name])} {there} and {_short(ours[name])} {here}"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    ]


def apart_from_code(facts: Facts) -> dict[str, Any]:
    """The facts that a user can choose."""
    return {name: value for name, value in facts.items() if not _is_code(name)}


def same_code(theirs: Facts, ours: Facts) -> bool:
    """Return whether every code fingerprint in `ours` is equal in `theirs`."""
    return all(theirs.get(name) == value for name, value in ours.items() if _is_code(name))


def _is_code(name: str) -> bool:
    return name == CODE or name.endswith(f": {CODE}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:24]}...{digest_of([text])}"


def _told(value: object) -> object:
    if isinstance(value, nn.Module):
        return "weights " + digest_of(parts_of(value.state_dict()))
    if isinstance(value, str) and Path(value).is_dir():
        files = sorted(path for path in Path(value).rglob("*") if path.is_file())
        return "folder " + digest_of(path.name.encode() + path.read_bytes() for path in files)
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
