"""A browser page that runs methods on the user's own images and videos."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL.Image import Image

from baselines import KeepAll
from bench.evaluation.comparison import VANILLA
from bench.evaluation.compressors import selector_for, takes_compressor
from bench.report.figures import Answered
from bench.report.gallery import show
from bench.report.inspection import look, strange_words
from bench.report.pictures import overlay
from bench.tasks.gqa import GQA
from compress.images import open_rgb, rgb
from compress.micro.worlds import VIDEO, world_of
from compress.models.loading import MLLM, MODELS
from compress.samples import Sample
from compress.video import Video, Visual, read_video
from evosearch.registry import cut

FILMED = 16  # frames of a video
SCENES = 48  # generated scenes with one question each, for the models of the micro world
ANSWERS = ["method", "answer", "tokens left", "seconds"]


@dataclass(frozen=True)
class Reply:
    """The result of a method on a question: a picture of the kept tokens, and the answers as table rows."""

    picture: Image
    rows: list[list[str]]  # under ANSWERS
    notes: str


@dataclass
class Desk:
    """Answers questions with one model; independent of the page."""

    mllm: MLLM
    compressor: str | None = None
    max_new_tokens: int = 16
    untouched: dict[tuple[str, str], tuple[Answered, float]] = field(default_factory=dict)

    def reply(self, image: Visual | None, question: str, method: str, keep: int) -> Reply:
        """Answer with and without the method, and draw the kept tokens; ValueError for bad input."""
        if image is None:
            raise ValueError("there is no image: drop one, or draw a scene")
        if isinstance(image, Video):
            self.mllm.check_videos()
        if not question.strip():
            raise ValueError("the question is empty: ask something about the image")
        visual = image if isinstance(image, Video) else rgb(image)
        sample = Sample("asked", visual, question.strip(), ())
        key = sample.picture_digest, sample.question
        if key not in self.untouched:
            self.untouched = {key: self._timed(sample, VANILLA, self.mllm.visual_tokens)}
        whole, spent = self.untouched[key]
        found, seconds = self._timed(sample, method, keep)
        shown = show(sample, self.mllm)
        words = strange_words(self.mllm, sample.question)
        stage = found.path[-1] if found.path else None
        left = len(stage.kept) if stage else shown.tokens
        return Reply(
            overlay(shown, stage, 480),
            [
                [VANILLA, whole.said, f"{shown.tokens}", f"{spent:.2f}"],
                [f"{method} at {keep}", found.said, f"{left}", f"{seconds:.2f}"],
            ],
            f"The model has no word for {', '.join(words)}." if words else "",
        )

    def _timed(self, sample: Sample, method: str, keep: int) -> tuple[Answered, float]:
        selector = (
            KeepAll() if method == VANILLA else selector_for(method, self.mllm.name, self._compressor(method))
        )
        started = time.perf_counter()
        found = look(self.mllm, sample, method, selector, keep, max_new_tokens=self.max_new_tokens)
        return found, time.perf_counter() - started

    def _compressor(self, method: str) -> str | None:
        return self.compressor if takes_compressor(method) else None


def uploaded(sent: Mapping[str, Any] | None) -> Image | None:
    """The image that a page sent as a file or data URL, if any; ValueError, with its name, if unreadable."""
    if sent is None:
        return None
    shown = cut(sent.get("orig_name") or "the image")
    if sent.get("path"):
        return open_rgb(Path(sent["path"]), shown)
    try:
        content = b64decode((sent.get("url") or "").partition("base64,")[2], validate=True)
    except ValueError as problem:
        raise ValueError(f"{shown} cannot be read as an image (its base64 text is broken)") from problem
    return open_rgb(content, shown)


def filmed(sent: Mapping[str, Any] | None, frames: int) -> Video | None:
    """The video that a page sent as a file, if any; ValueError, with its name, if unreadable."""
    if sent is None:
        return None
    return read_video(sent["path"], count=frames)


def build(desk: Desk, methods: list[str]) -> Any:
    """The page as gradio's Blocks; ValueError if gradio is not installed."""
    try:
        gr = import_module("gradio")
    except ModuleNotFoundError as problem:
        raise ValueError("the app needs gradio: pip install 'evocomp[app]'") from problem

    mllm = desk.mllm
    world = world_of(mllm.name)
    scenes = GQA().micro(SCENES, world=world) if mllm.name in MODELS and world is not VIDEO else []
    keep = max(1, round(mllm.visual_tokens / 9))
    most = mllm.visual_tokens * (FILMED if mllm.video_arguments else 1)

    def answer(
        sent: dict[str, Any] | None, film: dict[str, Any] | None, question: str | None, method: str | None,
        keep: float,
    ) -> tuple[Image, list, str]:  # fmt: skip
        try:
            visual = filmed(film, FILMED) or uploaded(sent)
            reply = desk.reply(visual, question or "", method or "", int(keep))
        except ValueError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem
        return reply.picture, reply.rows, reply.notes

    def scene(number: int) -> tuple[Image, str, int]:
        chosen = scenes[number % len(scenes)]
        return chosen.image_at(mllm.image_side), chosen.question, number + 1

    with gr.Blocks(title="evocomp", analytics_enabled=False) as page:
        gr.Markdown(
            f"# What stays of an image\n{mllm.name}: {mllm.visual_tokens} visual tokens, "
            f"{mllm.layers} decoder layers"
        )
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    type="pil", label="Image", value=scenes[0].image_at(mllm.image_side) if scenes else None
                )
                film = gr.Video(
                    label=f"Or a video, {FILMED} frames of it", visible=bool(mllm.video_arguments)
                )
                question = gr.Textbox(label="Question", value=scenes[0].question if scenes else "")
                method = gr.Dropdown(methods, value=methods[-1], label="Method", allow_custom_value=True)
                budget = gr.Slider(1, most, keep, step=1, label="Budget, visual tokens per decoder layer")
                with gr.Row():
                    ask = gr.Button("Answer", variant="primary")
                    another = gr.Button("Another scene", visible=bool(scenes))
            with gr.Column():
                kept = gr.Image(label="Kept tokens", interactive=False, buttons=["download", "fullscreen"])
                table = gr.Dataframe(headers=ANSWERS, label="Answers", interactive=False)
                notes = gr.Markdown()
        number = gr.State(1)
        given, told = [image, film, question, method, budget], [kept, table, notes]
        # A model runs one method at a time. gradio does not preprocess inputs: it would open the image
        # itself, and only report "Error" if that fails.
        one = {"concurrency_limit": 1, "concurrency_id": "model", "preprocess": False}
        for event in (ask.click, question.submit, method.input, budget.release):
            event(answer, given, told, **one)
        another.click(scene, number, [image, question, number]).then(answer, given, told, **one)
        if scenes:
            page.load(answer, given, told, **one)
    return page
