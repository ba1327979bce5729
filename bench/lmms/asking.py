"""Batches of prompts with any number of images and videos, answered or scored by a compressed model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from compress.attach.prefill import Record
from compress.attach.session import attach
from compress.base import Positions, Selector
from compress.budget import Match
from compress.keep import Keep
from compress.models.loading import MLLM
from compress.video import Video, Visual
from evosearch.registry import cut

MARKS = re.compile("<(?:image|video)>")  # placeholders of images and videos in lmms-eval's texts
LENGTH = 1024  # new tokens by default, as in lmms-eval's own models
SAMPLING = "temperature", "top_p", "top_k"
PASSED = "num_beams", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "length_penalty"
SEVERAL = "num_return_sequences", "n", "best_of"
READ = {"max_new_tokens", "do_sample", "until", *SAMPLING, *PASSED, *SEVERAL}


@dataclass(frozen=True)
class Prompt:
    """A question in the model's chat format; the text has placeholders for its images and videos in order."""

    text: str
    visuals: tuple[Visual, ...]


@dataclass(frozen=True)
class Generation:
    text: str  # without end token and stop strings, stripped
    tokens: int  # number of generated tokens, the end token included


@dataclass(frozen=True)
class Decoding:
    """Decoding settings from a task's `generation_kwargs`: arguments of `generate`, and stop strings."""

    arguments: Mapping[str, Any]
    until: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> Decoding:
        """Decode greedily unless the temperature is above 0 and sampling allowed. Default: 1024 new tokens.

        Settings that are not among `generate`'s (some belong to other models) are left out with a warning.
        ValueError for several answers to a question.
        """
        given = {key: value for key, value in wanted.items() if value is not None}
        for key in SEVERAL:
            if given.get(key, 1) != 1:
                raise ValueError(f"{key}={given[key]}: this model gives one answer to a question")
        if others := sorted(given.keys() - READ):
            getLogger(__name__).warning("not a setting of this model, left out: %s", ", ".join(others))
        arguments = {key: given[key] for key in PASSED if key in given}
        arguments["max_new_tokens"] = int(given.get("max_new_tokens", LENGTH))
        arguments["do_sample"] = given.get("temperature", 0) > 0 and given.get("do_sample") is not False
        if arguments["do_sample"]:
            arguments |= {key: given[key] for key in SAMPLING if key in given}
        until = given.get("until", ())
        return cls(arguments, tuple(filter(None, [until] if isinstance(until, str) else until)))


@dataclass
class Asker:
    """A model under a method and its budget; `records` list the tokens of every image and video so far."""

    mllm: MLLM
    selector: Selector
    keep: Keep
    match: Match = "equivalent"
    positions: Positions | None = None
    records: list[Record] = field(default_factory=list)

    def prompt(self, context: str, visuals: Sequence[Visual]) -> Prompt:
        """Build one user turn; images and videos replace the text's marks, or precede a text without marks.

        Marks are `<image>` and `<video>`. ValueError if their number differs from the number of images and
        videos, and for a video if the model reads none.
        """
        marks = len(MARKS.findall(context))
        if marks not in (0, len(visuals)):
            raise ValueError(
                f"the text names {marks} images or videos and {len(visuals)} are given: {cut(context)!r}"
            )
        if any(isinstance(one, Video) for one in visuals):
            self.mllm.check_videos()
        processor = self.mllm.processor
        kinds = [{"type": "video" if isinstance(one, Video) else "image"} for one in visuals]
        # A text with the model's own placeholders is not split, since templates may put images first.
        own = MARKS.fullmatch(processor.image_token) and all(one["type"] == "image" for one in kinds)
        texts = [MARKS.sub(processor.image_token, context)] if own else MARKS.split(context)
        left = iter(kinds)
        content: list[dict[str, str]] = [next(left) for _ in range(len(kinds) - marks)]
        for number, text in enumerate(texts):
            content += [next(left)] if number else []
            content += [{"type": "text", "text": text}] * bool(text)
        turns = [{"role": "user", "content": content}]
        written = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return Prompt(
            written, tuple(one if isinstance(one, Video) else one.convert("RGB") for one in visuals)
        )

    def answer(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[Generation]:
        """Return the answers of one batch, each cut before the first of the stop strings."""
        inputs, tokenizer = self._inputs(prompts), self.mllm.processor.tokenizer
        start = inputs["input_ids"].shape[1]
        stop = [_Said(decoding.until, tokenizer, start)] if decoding.until else None
        with self._compressing(prompts):
            ids = self.mllm.model.generate(
                **inputs, **decoding.arguments, stopping_criteria=stop, pad_token_id=tokenizer.pad_token_id
            )
        answers = []
        for row in ids[:, start:]:
            text = tokenizer.decode(row, skip_special_tokens=True)
            for end in decoding.until:
                text = text.partition(end)[0]
            answers.append(Generation(text.strip(), int((row != tokenizer.pad_token_id).sum())))
        return answers

    def loss(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[tuple[float, bool]]:
        """Return the mean loss of each given answer, and whether it is the greedy answer.

        The loss is in nats per token, the end token included. The method sees only the prompt: the answer's
        tokens are decoded one by one, like generated ones.
        """
        inputs, tokenizer = self._inputs(prompts), self.mllm.processor.tokenizer
        ids = [self._ids(answer) for answer in answers]
        length = torch.tensor([len(row) for row in ids], device=self.mllm.model.device)
        forced = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
        with self._compressing(prompts):
            output = self.mllm.model.generate(
                **inputs, logits_processor=[_Forced(forced, inputs["input_ids"].shape[1])],
                max_new_tokens=forced.shape[1], do_sample=False, num_beams=1, output_logits=True,
                return_dict_in_generate=True, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        logits = torch.stack(output.logits, 1).float()  # [B, R, V], untouched by the forcing
        valid = torch.arange(forced.shape[1], device=length.device) < length[:, None]
        losses = F.cross_entropy(logits.transpose(1, 2), forced, reduction="none") * valid
        greedy = ((logits.argmax(-1) == forced) | ~valid).all(1)
        return list(zip((losses.sum(1) / length).tolist(), greedy.tolist(), strict=True))

    def _ids(self, answer: str) -> Tensor:
        tokenizer = self.mllm.processor.tokenizer
        ids = tokenizer(answer.strip(), add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, tokenizer.eos_token_id], device=self.mllm.model.device)

    def _inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, Tensor]:
        visuals = [visual for prompt in prompts for visual in prompt.visuals]
        texts = [prompt.text for prompt in prompts]
        if not visuals:
            inputs = self.mllm.processor.tokenizer(texts, padding=True, return_tensors="pt")
        else:
            inputs = self.mllm.encode(visuals, texts)
            for name in {"pixel_values", "pixel_values_videos"} & inputs.keys():
                inputs[name] = inputs[name].to(self.mllm.model.dtype)
        return inputs.to(self.mllm.model.device)

    @contextmanager
    def _compressing(self, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Attach the method to the model, unless there is nothing to compress."""
        if not any(prompt.visuals for prompt in prompts):
            yield
            return
        with attach(self.mllm, self.selector, self.keep, match=self.match, positions=self.positions) as trace:
            yield
        self.records += [one for one in trace.samples if one.tokens]  # text-only prompts also have a record


class _Said:
    """A stopping criterion: true for rows [B] whose text after `start` prompt rows contains a stop string.

    It searches the decoded text, since the criterion of transformers reads the vocabulary and fails on a
    vocabulary of whole words.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any, start: int):
        self.strings, self.tokenizer, self.start = strings, tokenizer, start

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([any(end in text for end in self.strings) for text in texts], device=ids.device)


class _Forced:
    """A logits processor that makes `generate` take the given tokens [B, R] after `start` prompt rows."""

    def __init__(self, tokens: Tensor, start: int):
        self.tokens, self.start = tokens, start

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        step = ids.shape[1] - self.start
        return torch.full_like(scores, -torch.inf).scatter(1, self.tokens[:, step, None], 0.0)
