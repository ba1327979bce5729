"""ONNX Runtime beside torch, over three chunks of prefill and three decoded words."""

from __future__ import annotations

import numpy as np
import pytest

from bench.edge.runtimes.ort import OrtBackend
from bench.edge.timing import relative

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TOLERANCES = {"W32A32KV32": 1e-4, "W4A32KV32": 1e-4, "W4A8KV8": 6e-2}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES.items())
def test_logits_are_those_of_the_same_weights_in_torch(
    precision: str, tolerance: float, folder, in_torch, prompt, say
):
    ours = say(OrtBackend(folder("ort", precision), threads=1).runner(48), prompt)
    assert relative(ours, say(in_torch(precision), prompt)) < tolerance


def test_int4_weights_are_not_the_float_ones(folder, in_torch, prompt, say):
    ours = say(OrtBackend(folder("ort", "W4A32KV32"), threads=1).runner(48), prompt)
    assert relative(ours, say(in_torch("W32A32KV32"), prompt)) > 1e-2


def test_a_graph_per_shape_gives_the_same_numbers(folder, prompt, say):
    bundle = folder("ort", "W4A8KV8")
    one, four = (OrtBackend(bundle, threads=1, static=static) for static in (False, True))
    for context in (48, 32):
        assert np.array_equal(say(one.runner(context), prompt), say(four.runner(context), prompt))


def test_four_graphs_share_one_file_of_weights(folder):
    bundle = folder("ort", "W4A8KV8")
    names = ["8t48c", "1t48c", "8t32c", "1t32c"]
    assert sorted(path.stem for path in bundle.folder.glob("*t*c.onnx")) == sorted(names)
    onnx = pytest.importorskip("onnx")
    for name in names:
        graph = onnx.load(bundle.folder / f"{name}.onnx", load_external_data=False).graph
        large = [one for one in graph.initializer if one.external_data]
        assert {item.value for one in large for item in one.external_data if item.key == "location"} == {
            "decoder.onnx.data"
        }
        shapes = [dim for one in graph.input for dim in one.type.tensor_type.shape.dim]
        assert all(dim.dim_value > 0 or dim.dim_value == 0 and not dim.dim_param for dim in shapes)


def test_int4_weights_take_an_eighth_on_disk(folder):
    whole, small = (folder("ort", name).size("decoder.onnx.data") for name in ("W32A32KV32", "W4A32KV32"))
    assert small < 0.2 * whole  # a scale of 32 bits for each 32 weights comes on top
