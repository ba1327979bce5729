"""One engine for a whole file: loading takes longer than all its questions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from PIL.Image import Image
from transformers import AutoImageProcessor

from bench.evaluation.compressors import selector_for
from bench.evaluation.opening import open_image
from bench.serving.export import servable
from bench.serving.measure import full_name
from compress.attach.session import attach
from compress.models.conversation import Turn
from compress.models.loading import MLLM, load
from compress.models.mllm import with_values

WHY = "vLLM is not installed here: make test-vllm"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
os.environ.update(SETTINGS)
TOKENS = 12  # of an answer


@dataclass(frozen=True)
class Ask:
    """A question about images, under a method; "" = none."""

    question: str
    images: Sequence[Image]
    method: str = ""
    keep: Any = None


def same_pixels(source: str) -> MLLM:
    """A model under transformers that gets its images as vLLM prepares them.

    Where an image is resized, torchvision and PIL differ, and answers of random weights with them.
    """
    mllm = load(source)
    theirs = AutoImageProcessor.from_pretrained(source)
    mllm.processor = mllm.fitted(with_values(mllm.processor, image_processor=theirs))
    return mllm


@dataclass
class Served:
    """An engine, and the same model under transformers."""

    engine: Any
    mllm: MLLM
    model: str
    prompts: list[int] = field(default_factory=list)  # tokens of the latest prompts
    cached: list[int] = field(default_factory=list)  # how many of them were in the cache of prefixes

    @contextmanager
    def noted_pieces(self) -> Iterator[list[int]]:
        """Inside the block, how many tokens of a prompt the engine reads at a time."""
        scheduler, pieces = self.engine.llm_engine.engine_core.engine_core.scheduler, list[int]()
        schedule = scheduler.schedule

        def noted(*args: Any, **kwargs: Any) -> Any:
            made = schedule(*args, **kwargs)
            pieces.extend(made.num_scheduled_tokens.values())
            return made

        with patch.object(scheduler, "schedule", noted):
            yield pieces

    def answers(self, asks: Sequence[Ask]) -> list[str]:
        """The engine's, all of them in one batch."""
        from vllm import SamplingParams

        requests = []
        for ask in asks:
            wish = {"method": full_name(ask.method, self.model), "keep": ask.keep} if ask.method else None
            requests.append(
                {
                    "prompt": self.mllm.chat([Turn("user", ask.question, ask.images)]),
                    "multi_modal_data": {"image": list(ask.images)},
                    **({"mm_processor_kwargs": {"evocomp": wish}} if wish else {}),
                }
            )
        greedy = SamplingParams(temperature=0, max_tokens=TOKENS)
        made = self.engine.generate(requests, greedy, use_tqdm=False)
        self.prompts = [len(one.prompt_token_ids) for one in made]
        self.cached = [one.num_cached_tokens for one in made]
        return [one.outputs[0].text.strip() for one in made]

    def expected(self, asks: Sequence[Ask]) -> list[str]:
        """Those of transformers, one by one, with positions closed up."""
        found = []
        for ask in asks:
            conversation = [[Turn("user", ask.question, ask.images)]]
            if not ask.method:
                found += self.mllm.reply(conversation, max_new_tokens=TOKENS)
                continue
            selector = selector_for(full_name(ask.method, self.model), self.model)
            with attach(self.mllm, selector, ask.keep, positions="compact"):
                found += self.mllm.reply(conversation, max_new_tokens=TOKENS)
        return found


def engine(folder: str, also: Sequence[str], **settings: Any) -> Any:
    from vllm import LLM

    return LLM(
        folder, dtype="float32", enforce_eager=True, limit_mm_per_prompt={"image": 3}, enable_mm_embeds=True,
        hf_overrides={"evocomp": {"also": list(also)}}, **settings,
    )  # fmt: skip


METHODS = (
    "farthest", "divprune", "pool", "visionzip", "hired", "words", "cdpruner", "mmtok", "evocomp", "evocomp+",
)  # fmt: skip


@pytest.fixture(scope="session")
def busy_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return servable("busy", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def busy(busy_folder: str) -> Served:
    """Prefixes are cached, and prompts are read in pieces of 256 tokens."""
    also = [full_name(method, "busy") for method in METHODS]
    made = engine(
        busy_folder, also, max_model_len=1024, max_num_batched_tokens=640, max_num_seqs=4, block_size=32,
        long_prefill_token_threshold=256,
    )  # fmt: skip
    return Served(made, load("busy"), "busy")


@pytest.fixture(scope="session")
def scenes() -> list[Image]:
    return [open_image(f"busy:{number}", 192) for number in range(3)]
