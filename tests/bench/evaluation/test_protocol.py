"""What must agree before two scores share a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from baselines.fastv import FastV
from baselines.random import Random
from baselines.visionzip import VisionZip
from bench.evaluation.compressors import selector_for
from bench.evaluation.protocol import differences, of_entry, of_method, of_run, of_task
from bench.tasks import GQA
from compress.base import Selection, Selector, View
from compress.compressor.evocomp import EvoComp
from compress.models.loading import MLLM


def test_a_task_is_its_version_questions_answers_and_images() -> None:
    task = GQA()
    samples = task.micro(3)
    facts = of_task(task, samples)
    assert facts == of_task(task, task.micro(3))
    assert (facts["gqa: version"], facts["gqa: n"]) == (GQA.version, 3)
    dark = Image.fromarray(np.zeros((96, 96, 3), np.uint8))
    for change in ({"question": "what ?"}, {"answers": ("no",)}, {"picture": dark}, {"id": "other"}):
        changed = [replace(samples[0], **change), *samples[1:]]  # type: ignore[arg-type]
        assert of_task(task, changed)["gqa: samples"] != facts["gqa: samples"]


def test_a_run_is_its_model_prompt_batch_budget_and_positions(tiny: MLLM) -> None:
    facts = of_run(tiny, batch=4, match="tokens", positions=None)
    assert facts["prompt"] == tiny.prompt("?") and facts["visual tokens"] == 144
    assert (facts["dtype"], facts["device"], facts["batch"]) == ("float32", "cpu", 4)
    other = of_run(tiny, batch=8, match="flops", positions="compact")
    assert [line.split(" is ")[0] for line in differences(facts, other)] == ["match", "positions", "batch"]


def test_a_method_is_its_options_positions_and_code() -> None:
    assert differences(of_method(FastV()), of_method(FastV(layer=3))) == ["layer is 2 there and 3 here"]
    assert of_method(VisionZip())["positions"] == "compact"
    assert of_method(Random())["code"] != of_method(FastV())["code"] != ""


@dataclass
class Wrapped(Selector):
    """Selects as another method does."""

    inner: Selector

    def select(self, view: View, keep: int) -> Selection:
        return self.inner.select(view, keep)


def test_a_method_inside_another_counts_with_its_code() -> None:
    codes = [of_method(Wrapped(one))["code"] for one in (FastV(), FastV(), FastV(layer=3), VisionZip())]
    assert codes[0] == codes[1] == codes[2] != codes[3]
    assert of_method(Wrapped(Wrapped(FastV())))["code"] not in (codes[3], of_method(FastV())["code"])


def test_the_family_that_selects_counts_where_it_is_another(
    tiny: MLLM, tiny_wide: MLLM, tiny_qwen: MLLM
) -> None:
    own, same, other = (of_entry(FastV(), tiny_wide, one)["code"] for one in (None, tiny, tiny_qwen))
    assert own == same != other


def test_a_compressor_is_what_its_folder_holds_wherever_it_lies(tmp_path: Path) -> None:
    for name, content in {"one": b"weights", "two": b"weights", "three": b"others"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "compressor.safetensors").write_bytes(content)
    one, two, three = (of_method(EvoComp(str(tmp_path / name))) for name in ("one", "two", "three"))
    assert one == two and one["compressor"] != three["compressor"]


def test_a_network_is_its_weights() -> None:
    shipped = selector_for("evocomp", "micro")
    assert isinstance(shipped, EvoComp)
    facts = of_method(EvoComp(shipped.network))
    assert str(facts["compressor"]).startswith("weights ")
    with pytest.MonkeyPatch.context() as patched:
        changed = {name: value + 1 for name, value in shipped.network.state_dict().items()}
        patched.setattr(nn.Module, "state_dict", lambda self: changed)
        assert of_method(EvoComp(shipped.network))["compressor"] != facts["compressor"]


def test_long_values_are_told_apart_although_shortened() -> None:
    (line,) = differences({"prompt": "a" * 200}, {"prompt": "a" * 201})
    there, here = line.removeprefix("prompt is ").removesuffix(" here").split(" there and ")
    assert there != here and len(line) < 140


def test_only_what_both_know_can_differ() -> None:
    assert differences({"a": 1, "b": 2}, {"b": 2, "c": 3}) == []
    assert differences({"a": 1}, {"a": 2}, ("in x", "in y")) == ["a is 1 in x and 2 in y"]
