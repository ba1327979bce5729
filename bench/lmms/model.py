"""A compressed model as a model of lmms-eval: takes its requests and returns answers in their order."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from PIL.Image import Image

from bench.console import progress
from bench.evaluation.compressors import selector_for
from bench.evaluation.environment import check_device
from bench.evaluation.opening import SUFFIXES, budget
from bench.lmms.asking import Asker, Decoding, Prompt
from compress.base import Positions
from compress.budget import Match
from compress.images import open_rgb
from compress.keep import read_keep
from compress.models.loading import load, quiet
from compress.video import FRAMES, Sampling, Visual, read_video
from evosearch.registry import unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CompressedModel(lmms):
    """Any model of evocomp with any of its methods; `--model_args` are those of `evocomp ask`.

    `keep` visual tokens of each image or video per decoder layer (`match=equivalent`), or after the last
    stage (`match=tokens`): a count, or a ratio of the image's own tokens (11.1%, 1/9). Default: a ninth. A
    video is sampled evenly at `max_num_frames` frames; with `fps`, at that rate, up to `max_num_frames`. With
    several processes (accelerate, torchrun) each has its own copy of the model and answers its share.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "micro",
        method: str = "none",
        keep: int | str | float | None = None,
        compressor: str | None = None,
        match: Match = "equivalent",
        positions: Positions | None = None,
        anyres: Any = "native",
        dtype: str = "float32",
        max_num_frames: int = FRAMES,
        fps: float | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        **others: object,
    ):
        super().__init__()
        for name in others:
            known = signature(type(self)).parameters.keys() - {"others"}
            raise ValueError(unknown("model argument", name, known))
        if dtype not in DTYPES:
            raise ValueError(unknown("dtype", dtype, DTYPES))
        if not str(batch_size).isdigit() or not int(batch_size):
            raise ValueError(f"--batch_size {batch_size}: give a whole number, for instance 8")
        self.batch = int(batch_size)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device == torch.device("cuda"):
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        quiet()
        check_device(str(self.device))
        # lmms-eval splits its arguments at commas, so a method's options are separated by semicolons.
        selector = selector_for(method.replace(";", ","), pretrained, compressor)
        mllm = load(pretrained, device=str(self.device), dtype=DTYPES[dtype], anyres=anyres)
        asked = budget(None if keep is None else read_keep(keep), mllm)
        self.sampling = Sampling(int(max_num_frames), None if fps is None else float(fps))
        self.asker = Asker(mllm, selector, asked, match, positions)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return the answers with their token counts; requests are batched by equal `generation_kwargs`."""
        answers: dict[int, GenerationResult] = {}
        began, seen = time.perf_counter(), len(self.asker.records)
        places = sorted(range(len(requests)), key=lambda place: _settings(requests[place]))
        with self._progress("answers") as report:
            for settings, group in groupby(places, key=lambda place: _settings(requests[place])):
                decoding = Decoding.of(json.loads(settings))
                for batch in _batches(group, self.batch):
                    prompts = [self._prompt(*_six(requests[place])) for place in batch]
                    for place, made in zip(batch, self.asker.answer(prompts, decoding), strict=True):
                        tokens = TokenCounts(output_tokens=made.tokens)
                        answers[place] = GenerationResult(made.text, tokens)
                        context, wanted = requests[place].args[:2]
                        self.cache_hook.add_partial("generate_until", (context, wanted), made.text)
                    report(len(answers), len(requests))
        self._tell(answers.values(), time.perf_counter() - began, seen)
        return [answers[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return each continuation's mean loss per token, and whether it is the greedy answer.

        In spite of the name the value is a loss (lower is better): lmms-eval's own models return it, and its
        multiple choice takes the smallest. The end token counts, so that no choice wins by being a prefix of
        another. The pairs are wrapped, since unwrapped ones reach the metrics of lmms-eval 0.7 as text.
        """
        found: list[tuple[float, bool]] = []
        with self._progress("losses") as report:
            for batch in _batches(range(len(requests)), self.batch):
                asked = [_six(requests[place]) for place in batch]
                prompts = [self._prompt(*one) for one in asked]
                found += self.asker.loss(prompts, [self._continuation(*one) for one in asked])
                report(len(found), len(requests))
        return [GenerationResult(pair) for pair in found]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError(
            "evocomp answers in one round: tasks with output_type generate_until or multiple_choice; "
            "leave this one out"
        )

    def clean(self) -> None:
        """Free the model's memory, as lmms-eval requires before it loads a judge."""
        del self.asker
        super().clean()

    def _progress(self, title: str) -> AbstractContextManager[Callable[[int, int], object]]:
        """A progress bar on stderr, in the first process only."""
        return nullcontext(lambda done, total: None) if self.rank else progress(title, "requests")

    def _document(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _prompt(self, context: str, _: Any, doc_to_visual: Any, doc_id: int, task: str, split: str) -> Prompt:
        shown = doc_to_visual(self._document(doc_id, task, split)) or []
        return self.asker.prompt(context, [self._opened(one, task) for one in shown])

    def _opened(self, shown: Any, task: str) -> Visual:
        """Return an image, or open an image or video by its path. ValueError for other types (sound)."""
        if isinstance(shown, Image):
            return shown
        if not isinstance(shown, str | Path):
            raise ValueError(
                f"{task} shows a {type(shown).__name__}: evocomp reads images and the paths of videos"
            )
        path = Path(shown)
        if path.is_dir() or path.suffix.lower() in (*SUFFIXES, ".gif"):
            return read_video(path, count=self.sampling.count, rate=self.sampling.rate)
        return open_rgb(path, str(path))

    def _continuation(self, _: str, target: Any, __: Any, doc_id: int, task: str, split: str) -> str:
        return str(target(self._document(doc_id, task, split)) if callable(target) else target)

    def _tell(self, answers: Iterable[GenerationResult], seconds: float, seen: int) -> None:
        """Log the speed and the visual tokens in the decoder; lmms-eval lists them under "throughput"."""
        tokens = sum(one.token_counts.output_tokens for one in answers)
        records = self.asker.records[seen:]
        told = {
            "visual_tokens": fmean(one.tokens for one in records),
            "visual_tokens_per_layer": fmean(fmean(one.entering) for one in records),
        } if records else {}  # fmt: skip
        log_metrics(seconds, tokens, tokens / seconds, additional_metrics=told)


def _settings(request: Instance) -> str:
    return json.dumps(request.args[1], sort_keys=True)


def _six(request: Instance) -> tuple:
    """Return context, generation_kwargs or target, doc_to_visual, doc_id, task, split."""
    if len(request.args) != 6:
        raise ValueError(
            f"{request.task_name} asks without a document, as acc_mutual_info does: leave that metric out"
        )
    return request.args


def _batches(places: Iterable[int], size: int) -> Iterator[list[int]]:
    listed = list(places)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]
