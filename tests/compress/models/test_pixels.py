"""Pixels read with PIL, as we read them, and with torchvision, as stock classes do, where it is installed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from PIL import Image

from compress.models.loading import load
from tests.conftest import build_tiny, build_tiny_next, build_tiny_qwen
from tests.tiny_families import BUILDERS

pytest.importorskip("torchvision", reason="needs torchvision, which the environment of make test-vllm has")
FAMILIES = {"llava": build_tiny, "llava_next": build_tiny_next, "qwen2_5_vl": build_tiny_qwen, **BUILDERS}
SIZES = [(67, 45), (30, 90), (48, 48), (320, 200)]  # width, height


def photo(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Soft colours with noise, as in a photograph."""
    soft = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(soft).astype(int) + rng.integers(-12, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_torchvision_up_to_rounding(family: str, tmp_path: Path) -> None:
    """Resizing rounds differently: by up to three of 255 levels, and by less than 0.3 levels on average."""
    ours = load(str(FAMILIES[family](tmp_path / family))).processor.image_processor
    stock = getattr(transformers, type(ours).__name__.removesuffix("Pil"))(**ours.to_dict())
    rng = np.random.default_rng(0)
    for size in SIZES:
        image = photo(*size, rng)
        mine, theirs = (SimpleNamespace(**one(images=[image], return_tensors="pt")) for one in (ours, stock))
        assert mine.__dict__.keys() == theirs.__dict__.keys()
        for name in ("image_grid_thw", "image_sizes"):
            assert np.array_equal(getattr(mine, name, 0), getattr(theirs, name, 0))
        apart = (mine.pixel_values.double() - theirs.pixel_values.double()).abs() * 255 * min(ours.image_std)
        assert apart.max() < 3.01 and apart.mean() < 0.3
