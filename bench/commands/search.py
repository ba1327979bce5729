"""`evocomp search`: the search for one sample, with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import SEED, Count, as_json, keep_option, video_options
from bench.console import OutFolder, model_options, option, progress, say, show_json, show_table
from bench.evaluation.opening import asked, budget, drawn_at, load_model, open_visual

if TYPE_CHECKING:
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command()
@click.argument("image")
@click.argument("question")
@option("--answer", help="Gold response. Default: the untouched model's own answer.")
@keep_option("Tokens to keep")
@option("--grouper", default="vocabulary", help="Grouper: NAME[:option=value,...] (evocomp list groupers).")
@option(
    "--strategy",
    default="evolution",
    help="Search strategy: NAME[:option=value,...] (evocomp list strategies).",
)
@option("--evaluations", type=Count(1), default=408, help="Maximum number of candidates to evaluate.")
@option(
    "--patience",
    type=Count(1),
    help="Iterations without a better candidate before the search stops. Default: never stop early.",
)
@option(
    "--positions",
    type=click.Choice(["original", "compact"]),
    default="original",
    help="Position ids of kept tokens: original, or renumbered without gaps (compact).",
)
@video_options
@option("--seed", default=0, type=SEED, help="Random seed.")
@option(
    "--out", type=OutFolder(), help="Folder for groups.png, kept.png and trace.png. Default: draw nothing."
)
@model_options
@as_json
def search(
    image: str, question: str, answer: str | None, keep: Keep | None, grouper: str, strategy: str,
    evaluations: int, patience: int | None, positions: str,
    frames: int | None, rate: float | None, seed: int, out: Path | None,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Search for the visual tokens of IMAGE that let the model answer QUESTION with the lowest loss.

    IMAGE is an image or video file, a folder of frames, or micro:SEED, busy:SEED or video:SEED for a
    generated scene.

    \b
    Example:
      evocomp search micro:3 "what color is the star ?" --strategy hill-climb --out found
    """
    picture, question = open_visual(image, 0, frames, rate), asked(question)
    mllm = load_model(model, device, dtype, anyres)
    picture = drawn_at(image, picture, mllm.image_side)
    from bench.report.outputs import draw_search
    from compress.labels.single import search_sample
    from compress.samples import Sample

    with progress("search", "evaluations") as report:
        outcome = search_sample(
            mllm, picture, question, answer, budget(keep, mllm),
            grouper=grouper, strategy=strategy, evaluations=evaluations, patience=patience,
            positions=positions, seed=seed,
            callbacks=[lambda now: report(now.evaluations, evaluations) and None],
        )  # fmt: skip
    found, embedded = outcome.result, outcome.embedded
    files = draw_search(mllm, Sample(image, picture, question, ()), outcome, out) if out else {}
    if machine:
        show_json(
            {
                "response": outcome.response, "kept": found.indices.tolist(),
                "loss": found.loss, "loss_full": outcome.loss_full,
                "evaluations": found.evaluations, "hit_rate": found.hit_rate, "stopped": found.stopped,
                "seconds": found.seconds, "trace": list(found.logbook), "files": files,
            }
        )  # fmt: skip
        return
    columns = ("iteration", "evaluations", "best", "mean", "hit_rate", "seconds")
    show_table(
        columns,
        [
            [f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
            for row in found.logbook
        ],
        f'"{question}" -> "{outcome.response}"',
    )
    click.echo(
        f"best loss {found.loss:.4f} with {len(found.indices)} tokens, "
        f"{outcome.loss_full:.4f} with all {len(embedded.visual)}"
    )
    click.echo("kept " + " ".join(map(str, found.indices.tolist())))
    say(f"stopped: {found.stopped}" + (f"; drawn in {out}" if out else ""))


COMMANDS = {"search": search}
