"""LLaVA-NeXT in vLLM: tiles, newlines, images of several shapes; a tiny model of random weights."""

from __future__ import annotations

import pytest
from PIL.Image import Image

from bench.serving.export import export
from tests.conftest import build_tiny_next
from tests.serving.conftest import WHY, Ask, Served, engine, same_pixels

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)

METHODS = ("farthest", "visionzip", "words", "hired", "trim")
WIDE = {"num_attention_heads": 2, "head_dim": 32}  # heads as wide as vLLM's attention on CPUs takes them


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("models")
    (folder / "next").mkdir()
    source = build_tiny_next(folder / "next", special=WIDE)
    made = engine(
        str(export(source, folder / "served")), METHODS, max_model_len=1024, block_size=32,
        long_prefill_token_threshold=48,
    )  # fmt: skip
    return Served(made, same_pixels(str(source)), "")


@pytest.fixture
def shapes(pictures: list[Image]) -> list[Image]:
    """Wide, high and square."""
    return [pictures[0].crop((0, 0, 48, 20)), pictures[1].crop((0, 0, 22, 48)), pictures[2]]


@pytest.mark.parametrize("keep", [20, "1/3"])
@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_attach(
    served: Served, shapes: list[Image], method: str, keep: int | str
) -> None:
    asks = [Ask("what color is the circle ?", [image], method, keep) for image in shapes]
    assert served.answers(asks) == served.expected(asks)


def test_images_of_several_shapes_in_a_prompt(served: Served, shapes: list[Image]) -> None:
    asks = [Ask("how many star are there ?", shapes[:2], method, 20) for method in METHODS]
    assert served.answers(asks) == served.expected(asks)


def test_nothing_compressed(served: Served, shapes: list[Image]) -> None:
    asks = [Ask("what shape is left ?", [image]) for image in shapes]
    assert served.answers(asks) == served.expected(asks)


@pytest.mark.parametrize("method", METHODS)
def test_kept_tokens_of_an_image_may_be_read_in_pieces(
    served: Served, shapes: list[Image], method: str
) -> None:
    asks = [Ask("what color is the star ?", [image], method, 60) for image in shapes]
    with served.noted_pieces() as pieces:
        assert served.answers(asks) == served.expected(asks)
    assert max(pieces) == 48 < min(served.prompts)


@pytest.mark.parametrize("method", ["words", "trim"])
def test_two_questions_about_one_image_with_prefixes_cached(
    served: Served, shapes: list[Image], method: str
) -> None:
    asks = [
        Ask(f"what {what} is the circle ?", shapes[:1], method, 60) for what in ("shape", "size", "color")
    ]
    expected = served.expected(asks)
    for _ in range(2):
        assert [served.answers([ask])[0] for ask in asks] == expected
    assert served.cached[0] > 0  # the last one was asked before
