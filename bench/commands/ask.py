"""`evocomp ask`: one question about one image or video."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import Count, OutFile, as_json, keep_option, video_options
from bench.console import model_options, option, say, show_json
from bench.evaluation.opening import asked, budget, drawn_at, load_model, open_visual, told_video

if TYPE_CHECKING:
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command()
@click.argument("image")
@click.argument("question")
@option(
    "--method",
    default="evocomp",
    help="Method: NAME or NAME:option=value,... (evocomp list methods).",
)
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@keep_option("Visual tokens per decoder layer")
@option(
    "--match",
    type=click.Choice(["equivalent", "tokens"]),
    default="equivalent",
    help="Which token count --keep sets: the mean over layers (equivalent), or that after the last stage "
    "(tokens).",
)
@video_options
@option("--max-new-tokens", type=Count(1), default=16, help="Maximum length of the answer, in tokens.")
@option("--out", type=OutFile(".png"), help="PNG file to draw the kept tokens to. Default: draw nothing.")
@model_options
@as_json
def ask(
    image: str, question: str, method: str, compressor: str | None, keep: Keep | None, match: Match,
    frames: int | None, rate: float | None, max_new_tokens: int, out: Path | None, model: str, device: str,
    dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Answer QUESTION about IMAGE with few visual tokens.

    IMAGE is a file, or micro:SEED, busy:SEED or video:SEED for a generated scene. A video file and a folder
    of frames are videos; a GIF is one with --frames or --rate. Videos need a model that reads them.

    \b
    Example:
      evocomp ask micro:3 "what color is the star ?" --keep 16 --out kept.png
    """
    picture, question = open_visual(image, 0, frames, rate), asked(question)
    from bench.evaluation.compressors import selector_for
    from bench.evaluation.evaluate import path
    from bench.report.gallery import show
    from bench.report.inspection import strange_words
    from bench.report.pictures import overlay, save
    from compress.attach.session import attach
    from compress.samples import Sample
    from compress.video import Video

    selector = selector_for(method, model, compressor)
    mllm = load_model(model, device, dtype, anyres)
    picture = drawn_at(image, picture, mllm.image_side)
    keep = budget(keep, mllm)
    unknown = strange_words(mllm, question)
    if unknown:
        say(f"note: the model has no word for {', '.join(unknown)}")
    started = time.perf_counter()
    with attach(mllm, selector, keep, match=match) as trace:
        answer = mllm.answer([picture], [question], max_new_tokens=max_new_tokens)[0]
    seconds = time.perf_counter() - started
    record = trace.samples[0]
    kept = record.kept[max(record.kept)] if record.kept else list(range(record.tokens))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        stages = path(record)
        shown = show(Sample(image, picture, question, ()), mllm)
        save(overlay(shown, stages[-1] if stages else None), out)
    if machine:
        show_json(
            {
                "answer": answer, "method": method, "keep": keep, "tokens": record.tokens,
                "entering": record.entering, "kept": kept, "seconds": seconds,
                "picture": str(out) if out else None,
                "times": list(picture.times) if isinstance(picture, Video) else None,
            }
        )  # fmt: skip
        return
    click.echo(answer)
    if told := told_video(picture, frames):
        say(told)
    say(f"{len(kept)} of {record.tokens} visual tokens after the last stage, {seconds * 1e3:.0f} ms")
    if out:
        say(f"drawn in {out}")


COMMANDS = {"ask": ask}
