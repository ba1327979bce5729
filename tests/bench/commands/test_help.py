"""The help of every command: one plain sentence, defaults in one form, and an example that runs."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bench.cli import COMMANDS, main
from bench.commands.options import fields_of, options_of
from bench.evaluation.grid import CompareOptions
from bench.evaluation.stats import MARGIN
from bench.report.page import SAMPLES
from compress.labels.labelling import LabelConfig
from compress.labels.single import search_sample
from compress.training.config import TrainConfig


def every(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """All commands and groups below a group by what is typed."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from every(command, (*path, name))


COMMAND = dict(every(main))
OPTIONS = {
    f"{name} {option.opts[0]}": option
    for name, command in COMMAND.items()
    for option in command.params
    if isinstance(option, click.Option)
}


def example(name: str) -> list[str]:
    """The words of a command's example, without the program's name."""
    (line,) = (COMMAND[name].help or "").partition("Example:\n")[2].strip().splitlines()
    program, *words = shlex.split(line)
    assert program == "evocomp" and " ".join(words).startswith(name.split()[0])
    return words


@pytest.mark.parametrize("name", COMMAND)
def test_the_help_begins_with_one_sentence_and_ends_with_one_example(name: str) -> None:
    text = COMMAND[name].help or ""
    first = " ".join(text.partition("\n\n")[0].split())
    assert re.fullmatch(r"[A-Z][^.]*(\.\w[^.]*)*\.", first.replace("NAME:option=value.", "NAME.")), first
    assert not re.match(r"(What|Which|How|Of|In) ", first)
    assert len(example(name)) > 0 and "\\b" not in text  # the mark of lines that click must not wrap


@pytest.mark.parametrize("name", [name for name, one in COMMAND.items() if isinstance(one, click.Group)])
def test_the_example_of_a_group_is_that_of_one_of_its_commands(name: str) -> None:
    assert example(name) in [example(one) for one in COMMAND if one.startswith(f"{name} ")]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_an_option_is_a_sentence_that_states_its_default(name: str) -> None:
    option = OPTIONS[name]
    text = option.help or ""
    assert text.endswith(".") and not re.match(r"(Of|What|In which|Only so|By) ", text), text
    assert not re.search(r"by default|\(default\)|; .* without it", text), text
    assert text.count("Default:") <= 1 and not option.show_default, text
    default = option.default
    if option.is_flag or option.required or default in (None, "") or repr(default) == "Sentinel.UNSET":
        return
    assert text.endswith(f" Default: {f'{default:g}' if isinstance(default, float) else default}."), text


def test_a_server_is_asked_as_many_questions_of_a_task_as_the_help_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: list[int] = []

    def opened(tasks: str, count: int, *rest: object, **more: object) -> None:
        counts.append(count)

    monkeypatch.setattr("bench.commands.serve.open_tasks", opened)
    CliRunner().invoke(main, ["bench", "serve"])
    assert f"Questions per task. Default: {counts[0]}." == OPTIONS["bench serve -n"].help


@pytest.mark.parametrize(
    ("owner", "kind"),
    [
        ("compress.labels.labelling:LabelConfig", LabelConfig),
        ("compress.training.config:TrainConfig", TrainConfig),
    ],
)
def test_fields_read_from_the_source_are_those_of_the_class(owner: str, kind: type) -> None:
    found = [(field.name, field.default) for field in fields_of(owner)]
    assert found == [(field.name, field.default) for field in dataclasses.fields(kind)]


def test_a_default_that_a_call_makes_does_not_hinder_the_options_of_other_fields() -> None:
    defaults = {field.name: field.default for field in fields_of("bench.latency.run:Conditions")}
    assert defaults["compressors"] is None and defaults["repetitions"] == 30
    assert "--repetitions" in CliRunner().invoke(main, ["bench", "latency", "--help"]).stdout


def test_choices_are_read_from_annotations_and_from_names_that_stand_for_them() -> None:
    types = {field.name: field.type for field in fields_of("compress.training.config:TrainConfig")}
    assert list(types["normalise_by"].choices) == ["nonempty", "bins"]
    assert list(types["target"].choices) == ["label", "lead", "score"]
    assert (types["bins"].min, types["lr"], types["loss"]) == (1, click.FLOAT, click.STRING)


def test_a_command_gets_one_object_with_what_was_given_and_defaults_besides() -> None:
    helps = {"epochs": "Number of epochs.", "text": "Read the question.", "lambda_cos": "Weight."}
    got: list[TrainConfig] = []

    @click.command()
    @options_of(
        "compress.training.config:TrainConfig", "config", helps,
        names={"text": "--text/--no-text", "lambda_cos": "--lambda"},
    )  # fmt: skip
    def command(config: TrainConfig) -> None:
        got.append(config)

    for arguments in ((), ("--epochs", "3", "--no-text", "--lambda", "0.5")):
        assert CliRunner().invoke(command, arguments).exit_code == 0
    assert got == [TrainConfig(), TrainConfig(epochs=3, text=False, lambda_cos=0.5)]
    text = CliRunner().invoke(command, ["--help"]).stdout
    assert "Number of epochs. Default: 30." in text and "Read the question. Default: --text." in text
    with pytest.raises(LookupError, match="has no field epoch$"):
        options_of("compress.training.config:TrainConfig", "config", {"epoch": "Number of epochs."})


# Examples that run ------------------------------------------------------------------------------------------

SMALL = {  # what makes an example take seconds
    "demo": "--fresh 4 -n 4",
    "search": "--evaluations 48",
    "label": "--samples 4 --evaluations 48 --workers 1",
    "labels audit": "--samples 2",
    "train": "--epochs 1 --validate none",
    "eval": "-n 2",
    "compare": "-n 2",
    "bench latency": "--repetitions 2 --warmup 0 --new 2",
    "bench edge": "--rounds 1 --warmup 1 --samples 1 --keep 1/9",
    "draw search": "--evaluations 48 --seeds 1",
    "data export": "-n 2",
    "data records": "-n 3",
}
SLOW = {"demo", "bench edge", "verify", "run", "doctor"}
EXTRAS = {"bench edge": "onnxruntime", "bench serve": "vllm"}
ENDLESS = {"app"}  # it serves until it is stopped
ALONE = [name for name, one in COMMAND.items() if not isinstance(one, click.Group) and name not in ENDLESS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples take for granted."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for line in (
            "label --out labels --samples 4 --evaluations 48",
            "label --out part-0 --samples 2 --evaluations 48",
            "label --out part-1 --samples 2 --start 2 --evaluations 48",
            "train --labels labels --out compressor --epochs 1 --validate none",
            "compare --methods fastv:layer=3,evocomp --keep 48 --tasks pope,gqa -n 2 --out tables",
            "data records micro --out micro.json --images images -n 3",
            "data export --out benchmarks -n 2 --tasks gqa",
        ):
            passed(shlex.split(line))
    return folder


def passed(arguments: list[str]) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    return result


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in ALONE],
)
def test_the_example_in_the_help_runs(
    name: str, place: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    if name == "demo":
        request.getfixturevalue("little_demo")
    arguments = [*example(name), *shlex.split(SMALL.get(name, ""))]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        for one in place.iterdir():  # an example writes into a folder of its own
            Path(one.name).symlink_to(one)
        if "--out" in arguments:
            Path(arguments[arguments.index("--out") + 1]).unlink(missing_ok=True)
        if name == "data records":
            Path("images").unlink()
        passed(arguments)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_the_example_of_an_endless_command_parses(name: str) -> None:
    assert name in COMMANDS
    _, *words = example(name)
    COMMAND[name].make_context(name, words)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("search", {"grouper", "strategy", "evaluations", "positions", "seed"}),
        ("draw search", {"grouper", "evaluations"}),
    ],
)
def test_defaults_of_a_search_are_those_of_the_library(command: str, names: set[str]) -> None:
    """They are written down again, because help does not wait for torch."""
    theirs = {name: one.default for name, one in signature(search_sample).parameters.items()}
    theirs["strategy"] = "evolution"  # None there
    ours = {one.name: one.default for one in COMMAND[command].params}
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


def test_a_report_shows_as_many_samples_as_the_library() -> None:
    (samples,) = (one.default for one in COMMAND["report"].params if one.name == "samples")
    assert samples == SAMPLES


def test_a_comparison_s_margin_is_that_of_the_statistics() -> None:
    assert {field.name: field.default for field in dataclasses.fields(CompareOptions)}["margin"] == MARGIN
