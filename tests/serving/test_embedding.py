"""Without the plug-in's choice: embeddings that were chosen outside, in place of images."""

from __future__ import annotations

import pytest
from PIL.Image import Image

from bench.evaluation.compressors import selector_for
from bench.serving.measure import full_name
from compress.engines.embedding import embed
from tests.serving.conftest import WHY, Ask, Served

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)


def test_answers_to_chosen_embeddings(busy: Served, scenes: list[Image]) -> None:
    from vllm import SamplingParams

    asks = [Ask("what color is the star ?", [image], "evocomp+", 16) for image in scenes]
    requests = []
    for ask in asks:
        selector = selector_for(full_name(ask.method, "busy"), "busy")
        (rows,) = embed(busy.mllm, selector, ask.images, ask.question, ask.keep)
        prompt = busy.mllm.prompt(ask.question)
        requests.append({"prompt": prompt, "multi_modal_data": {"image": rows[None]}})
    made = busy.engine.generate(requests, SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
    assert [one.outputs[0].text.strip() for one in made] == busy.expected(asks)
