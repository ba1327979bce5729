"""Which compressor a method gets by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.evaluation.compressors import SHIPPED, selector_for

MODELS = sorted(path.name for path in SHIPPED.iterdir())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["evocomp", "evocomp+"])
def test_a_method_gets_the_compressor_that_ships_under_its_name(model: str, method: str) -> None:
    made = selector_for(method, model)
    assert Path(made.compressor) == SHIPPED / model / "compressor" / method


@pytest.mark.parametrize("model", MODELS)
def test_the_paper_s_method_has_a_compressor_of_the_paper_s_recipe(model: str) -> None:
    info = selector_for("evocomp", model).network.info
    assert (info["loss"], info["target"], info["norm"], info["layers"]) == ("ghm+cos", "label", False, 1)
    assert [labels["kind"] for labels in info["labels"]] == ["best"]
    assert [labels["grouper"] for labels in info["labels"]] == ["vocabulary"]
