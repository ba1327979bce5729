"""Qwen's models in vLLM: kept tokens stay where they were on three axes; tiny ones and a shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image

from bench.evaluation.opening import open_image
from bench.serving.export import export
from compress.models.loading import MODELS
from tests import tiny_families
from tests.conftest import build_tiny_qwen
from tests.serving.conftest import WHY, Ask, Served, engine, same_pixels

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)

METHODS = ("farthest", "divprune", "pool", "words")
CIRCLE, LEFT = "what color is the circle ?", "what shape is left ?"


def wide(*section: int, **more: Any) -> dict[str, Any]:
    """A decoder whose heads are as wide as vLLM's attention on CPUs takes them."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), **more}
    return {"num_attention_heads": 2, "rope_parameters": rope}


def build(family: str, folder: Path) -> Path:
    if family in MODELS:
        return MODELS[family]
    if family == "qwen2_5_vl":
        return build_tiny_qwen(folder, special=wide(4, 6, 6))
    if family == "qwen2_vl":
        return tiny_families.qwen2(folder, **wide(4, 6, 6))
    return tiny_families.qwen3(folder, head_dim=32, **wide(6, 5, 5, mrope_interleaved=True))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "micro-qwen3"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Prefixes are cached, and prompts are read in pieces of 32 tokens."""
    folder = tmp_path_factory.mktemp("models")
    source = build(request.param, folder / "own")
    made = engine(
        str(export(source, folder / "served")), METHODS, max_model_len=512, max_num_batched_tokens=512,
        max_num_seqs=4, long_prefill_token_threshold=32, block_size=32,
    )  # fmt: skip
    return Served(made, same_pixels(str(source)), "")


@pytest.fixture(scope="module")
def shapes(served: Served, pictures: list[Image]) -> list[Image]:
    """Wide, high, square and large; of scenes where the model has learned to see them."""
    if served.mllm.name == str(MODELS["micro-qwen3"]):
        scenes = [open_image(f"micro:{number}", 96) for number in range(4)]
        return [scenes[0].crop((0, 0, 96, 48)), scenes[1].crop((0, 0, 48, 96)), *scenes[2:]]
    wide, high = pictures[0].crop((0, 0, 48, 24)), pictures[1].crop((0, 0, 20, 48))
    return [wide, high, pictures[2], pictures[3].resize((80, 60))]


@pytest.fixture(scope="module")
def whole(served: Served, shapes: list[Image]) -> list[int]:
    """Tokens of prompts in which nothing is compressed; answers to them are those of transformers."""
    asks = [Ask(CIRCLE, [image]) for image in shapes]
    assert served.answers(asks) == served.expected(asks)
    return served.prompts


@pytest.mark.parametrize("keep", [4, "1/3"])
@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_attach(
    served: Served, shapes: list[Image], whole: list[int], method: str, keep: int | str
) -> None:
    asks = [Ask(CIRCLE, [image], method, keep) for image in shapes]
    assert served.answers(asks) == served.expected(asks)
    tokens = [served.mllm.tokens_of(image) for image in shapes]
    left = [keep if isinstance(keep, int) else round(each / 3) for each in tokens]
    fewer = [one - other for one, other in zip(whole, served.prompts, strict=True)]
    assert fewer == [each - stays for each, stays in zip(tokens, left, strict=True)]


def test_several_images_in_a_prompt_and_several_methods_in_a_batch(
    served: Served, shapes: list[Image]
) -> None:
    asks = [Ask(LEFT, shapes[1:], method, 7) for method in METHODS]
    asks += [Ask(LEFT, [shapes[3], shapes[3], shapes[0]], "words", 5), Ask(LEFT, shapes[:2])]
    assert served.answers(asks) == served.expected(asks)


def test_a_cached_prefix_that_ends_within_an_image(served: Served, shapes: list[Image]) -> None:
    asks = [Ask(question, [shapes[3]], "farthest", 40) for question in (CIRCLE, LEFT, CIRCLE)]
    expected = served.expected(asks)
    assert [served.answers([ask])[0] for ask in asks] == expected
    assert served.cached[0] > 0


def test_a_prompt_that_reaches_beyond_the_model_s_positions_is_refused(
    served: Served, shapes: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = [Ask(CIRCLE, shapes[2:], "farthest", 1)]
    served.answers(asks)
    sides = sum(round(max(image.size) / 8) for image in shapes[2:])  # a token is 8 pixels wide
    reach = served.prompts[0] - 2 + sides
    config = served.engine.llm_engine.model_config.hf_config.get_text_config()
    monkeypatch.setattr(config, "max_position_embeddings", reach)
    served.answers(asks)
    monkeypatch.setattr(config, "max_position_embeddings", reach - 1)
    with pytest.raises(ValueError, match=f"positions up to {reach}, .* the model knows {reach - 1}"):
        served.answers(asks)
    served.answers([Ask(CIRCLE, shapes[2:])])  # with all its tokens it has no more positions than tokens
