"""`evocomp report`: finished comparisons as a table, a page or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.commands.options import MARGIN, Amount, Count, OutFile, as_json
from bench.console import OutFolder, option, say, show_json
from bench.report.terminal import show_comparison

SUFFIXES = {"html": ".html", "md": ".md", "csv": ".csv", "latex": ".tex"}
FORMS = {suffix: form for form, suffix in SUFFIXES.items()}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "--format", "form", type=click.Choice(["table", *SUFFIXES]),
    help="table prints to the terminal; the others write a file. Default: by the name of --out, or html.",
)  # fmt: skip
@option(
    "--out", type=click.Path(path_type=Path),
    help="File to write; with --format table, a folder for results.json and tables in every format. "
    "Default: report.html (.md, .csv, .tex).",
)  # fmt: skip
@option("--title", default="", help="Title of the report. Default: the titles of the comparisons.")
@option(
    "--samples", default=200, type=Count(1),
    help="Samples to browse in the HTML page, over all tasks.",
)  # fmt: skip
@option(
    "--reference", help="Method to test all others against, besides none. Default: that of the first folder."
)
@option(
    "--difficulty", help="Method whose correct answers mark a question as easy. Default: that of the first "
    "folder.",
)  # fmt: skip
@option("--margin", type=Amount(0, min_open=True), help=f"{MARGIN} Default: that of the first folder.")
@option(
    "--from-lmms", "lmms", is_flag=True,
    help="FOLDERS are output folders of lmms-eval (with --log_samples), or NAME=FOLDER; the first is the "
    "baseline.",
)  # fmt: skip
@option(
    "--from-vlmevalkit", "vlmevalkit", is_flag=True,
    help="FOLDERS are folders outputs/MODEL of VLMEvalKit, or NAME=FOLDER; the first is the baseline.",
)  # fmt: skip
@option(
    "--images", multiple=True, metavar="TASK=FILES",
    help="With another suite: data set of the task (Parquet file or folder; of VLMEvalKit the TSV file), to "
    "resample questions about one image together.",
)  # fmt: skip
@option(
    "--metric", multiple=True, metavar="TASK=NAME",
    help="With another suite: metric of the task. Default: the first that all questions have.",
)  # fmt: skip
@option(
    "--mixed", is_flag=True,
    help="Also join folders with different protocols or prompts, and list the differences.",
)  # fmt: skip
@as_json
def report(
    folders: tuple[Path, ...], form: str | None, out: Path | None, title: str, samples: int,
    reference: str | None, difficulty: str | None, margin: float | None, lmms: bool, vlmevalkit: bool,
    images: tuple[str, ...], metric: tuple[str, ...], mixed: bool, machine: bool,
) -> None:  # fmt: skip
    """Show finished comparisons, the folders of `evocomp compare --out` or `evocomp demo`, in one report.

    Nothing is computed again, and neither model nor benchmark is needed. Folders that differ in model,
    benchmark, samples, prompt, budget accounting, batch size or the meaning of a method's name are refused.
    The HTML page is one file that requests nothing: sortable tables, plots, and samples with the tokens that
    each method kept.

    \b
    Example:
      evocomp report tables --reference evocomp --out report.html
    """
    from bench.report.documents import FORMATS
    from bench.report.outputs import merged, put, read_galleries, read_questions, write_tables
    from bench.report.outputs import report as report_of
    from bench.report.results import results

    if lmms and vlmevalkit:
        raise click.UsageError(
            "--from-lmms and --from-vlmevalkit: these suites grade answers differently; make a report of each"
        )
    suite = "lmms-eval" if lmms else "vlmevalkit" if vlmevalkit else None
    named = out is not None and out.suffix.lower() in FORMS
    form = form or ("table" if machine and not named else form_of(out))
    if machine and form != "table":
        raise click.UsageError("--json prints the results: leave out --format, and give a folder as --out")
    shown = click.get_current_context().get_parameter_source("samples")
    if form != "html" and shown is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--samples is for HTML pages, which alone have samples: leave it out")
    path = out or Path(f"report{SUFFIXES.get(form, '')}")
    if form != "table":
        check_file(path, form)
    elif out:
        OutFolder().convert(out, None, click.get_current_context())
    if suite:
        from bench.evaluation.graded import compare_runs
        from bench.evaluation.stats import MARGIN as POINTS
        from bench.evaluation.suites import SUITES

        runs = {name: Path(path) for name, path in pairs([_named(str(one)) for one in folders], "run")}
        found, origin = compare_runs(
            SUITES[suite](), runs, images={task: Path(path) for task, path in pairs(images, "--images")},
            metrics=dict(pairs(metric, "--metric")), reference=reference, difficulty=difficulty,
            margin=margin or POINTS, title=title, mixed=mixed,
        )  # fmt: skip
        folders = ()
    elif images or metric:
        raise click.UsageError("--images and --metric go with --from-lmms or --from-vlmevalkit")
    else:
        found, origin = merged(
            folders, title, reference=reference, difficulty=difficulty, margin=margin, mixed=mixed
        )
    if form != "table":
        made = report_of(found, origin, read_galleries(folders), samples, read_questions(folders))
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, FORMATS[form](made))
        say(f"{path}, {path.stat().st_size / 2**20:.1f} MiB")
        return
    facts = origin.facts if suite else {"folders": ", ".join(map(str, folders))}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_tables(found, out, facts)
    if machine:
        show_json(results(found, facts))
    else:
        show_comparison(found)
        if out:
            say(f"results and tables are in {out}")


def pairs(told: Sequence[str], what: str) -> list[tuple[str, str]]:
    """The two sides of each `NAME=VALUE`; ValueError for other texts and for duplicate names."""
    found = [(name, value) for name, _, value in (one.partition("=") for one in told)]
    if bad := [one for one, (name, value) in zip(told, found, strict=True) if not name or not value]:
        raise ValueError(f"{what}: '{bad[0]}' must be NAME=VALUE")
    names = [name for name, _ in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{what}: '{twice[0]}' is named twice; write NAME=FOLDER to tell runs apart")
    return found


def _named(folder: str) -> str:
    """The argument as NAME=FOLDER; the default name of a folder is its last part."""
    return folder if "=" in folder else f"{Path(folder).name}={folder}"


def form_of(out: Path | None) -> str:
    """The format given by a file's suffix. Default: html."""
    return FORMS.get(out.suffix.lower(), "html") if out else "html"


def check_file(path: Path, form: str) -> None:
    """ValueError or UsageError, before the work starts, if a file cannot be written in this format."""
    if path.suffix.lower() in FORMS and path.suffix.lower() != SUFFIXES[form]:
        raise ValueError(
            f"{path}: the name of a report in {form} ends in {SUFFIXES[form]}, or choose --format"
        )
    OutFile(*SUFFIXES.values()).convert(path, None, None)


COMMANDS = {"report": report}
