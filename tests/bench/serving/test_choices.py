from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from baselines import METHODS
from bench.evaluation.compressors import selector_for
from bench.serving.choices import Methods, runs
from bench.serving.export import export, renamed, servable
from bench.serving.measure import full_name
from bench.serving.plugin import CLASSES
from bench.serving.server import environment, executable, serving
from bench.serving.settings import Asked, Settings
from compress.models.loading import MLLM, MODELS, load, outline
from tests.tiny_families import onevision

NOTHING = Asked("none", None)
NO = {  # why methods do not run in the engine on the busy model
    "fastv": "inside the decoder", "dart": "inside the decoder", "sparsevlm": "inside the decoder",
    "pact": "inside the decoder",
    "pyramiddrop": "inside the decoder", "mustdrop": "inside the decoder", "vscan": "inside the decoder",
    "tome": "inside the tower", "flowcut": "inside the tower", "downsample": "inside the tower",
    **{name: "frames of a video" for name, method in METHODS.items() if method.video},
    **dict.fromkeys(("prumerge", "prumerge+", "globalcom2"), "layer -1, and the engine builds 3 of 4"),
}  # fmt: skip


@pytest.fixture(scope="module")
def busy() -> MLLM:
    return outline(str(MODELS["busy"]))


@pytest.mark.parametrize("name", METHODS)
def test_which_methods_run_in_the_engine(busy: MLLM, name: str) -> None:
    selector = selector_for(full_name(name, "busy"), "busy")
    if name not in NO:
        runs(busy, selector, 64)
        return
    with pytest.raises(ValueError, match=NO[name]):
        runs(busy, selector, 64)


def test_families_without_a_class_are_refused(tmp_path: Path) -> None:
    folder = str(onevision(tmp_path))
    with pytest.raises(ValueError, match="llava_onevision has no class for vLLM"):
        runs(outline(folder), selector_for("farthest", folder), 5)


def test_a_fixed_number_of_tiles_is_refused() -> None:
    mllm = outline(str(MODELS["micro-next"]))
    mllm.fix_grid()
    with pytest.raises(ValueError, match="leave anyres at 'native'"):
        runs(mllm, selector_for("farthest", "micro-next"), 5)


@pytest.mark.parametrize("model", ["micro-next", "micro-qwen"])
def test_other_families_run_what_their_tower_allows(model: str) -> None:
    mllm = outline(str(MODELS[model]))
    for name in ("farthest", "divprune", "words"):
        runs(mllm, selector_for(name, model), 5)
    if mllm.clip_tower:
        runs(mllm, selector_for("visionzip", model), 5)
    else:
        with pytest.raises(ValueError, match="works on the tokens of a CLIP tower"):
            runs(mllm, selector_for("visionzip", model), 5)
    with pytest.raises(ValueError, match="inside the decoder"):
        runs(mllm, selector_for("fastv", model), 5)


def test_a_server_s_methods_are_made_once_and_numbered() -> None:
    settings = Settings(Asked("grid", 64), ("visionzip", "grid"))
    methods = Methods(settings, str(MODELS["busy"]))
    assert methods.names == ["grid", "visionzip"]
    picture = methods.picture({"pixel_values": torch.zeros(3, 192, 192)})
    assert len(picture) == 576
    assert methods.choice(Asked("visionzip", "1/9")).count(picture) == 64
    assert methods.choice(Asked("grid", 576)).count(picture) == 576
    with pytest.raises(ValueError, match="inside the decoder"):
        Methods(Settings(NOTHING, ("fastv",)), str(MODELS["busy"]))
    with pytest.raises(ValueError, match="choose between 1 and the 576"):
        Methods(Settings(Asked("grid", 577)), str(MODELS["busy"]))


def test_shipped_compressors_are_named_by_their_folder() -> None:
    assert full_name("evocomp+", "busy").startswith("evocomp+:compressor=")
    assert full_name("evocomp+:sharpness=2", "busy").startswith("evocomp+:sharpness=2,compressor=")
    assert full_name("evocomp+", "some/model") == "evocomp+" and full_name("grid", "busy") == "grid"


def test_exported_weights_have_official_names_and_are_the_same_model(tmp_path: Path) -> None:
    assert renamed("vision_tower.encoder.x") == "vision_tower.vision_model.encoder.x"
    assert renamed("vision_tower.vision_model.x") == "vision_tower.vision_model.x"
    assert renamed("language_model.x") == "language_model.x"
    folder = Path(servable("busy", tmp_path))
    assert folder == tmp_path / "busy" and (folder / "clip").is_dir()
    written = load_file(folder / "model.safetensors")
    assert not [name for name in written if name.startswith("vision_tower.e")]
    ours, theirs = load("busy").model.state_dict(), load(str(folder)).model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert servable("owner/name", tmp_path) == "owner/name"
    assert export(folder, tmp_path / "again").is_dir()


def test_a_model_of_videos_gets_a_processor_for_them_unless_it_has_one(tmp_path: Path) -> None:
    path = export(MODELS["micro-qwen"], tmp_path) / "video_preprocessor_config.json"
    assert json.loads(path.read_text()) == {
        "video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 4, "temporal_patch_size": 2,
        "merge_size": 2,
    }  # fmt: skip
    path.write_text("{}")
    export(tmp_path, tmp_path / "again")
    assert (tmp_path / "again" / path.name).read_text() == "{}"


def test_a_server_of_ours_compresses_only_what_is_asked_for() -> None:
    own = {"PATH": "x", "EVOCOMP_METHOD": "grid", "EVOCOMP_KEEP": "5"}
    assert environment(own, ["grid", "fastv:layer=2"]) == {"PATH": "x", "EVOCOMP_ALSO": "grid,fastv:layer=2"}
    assert environment(own, []) == {"PATH": "x"}


@pytest.mark.parametrize("also", [["grid"], []])
def test_a_server_of_ours_lets_requests_choose_where_they_may(tmp_path: Path, also: list[str]) -> None:
    program = tmp_path / "vllm"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    with pytest.raises(ValueError) as told, serving(str(program), "busy", also, ["--dtype=float32"]):
        pass
    assert ("--trust-request-mm-kwargs" in str(told.value)) == bool(also)


def test_a_missing_program_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--vllm PATH"):
        executable("/nowhere/vllm")
    assert executable(sys.executable) == sys.executable


def test_the_plug_in_names_files_that_are_there() -> None:
    for place in CLASSES.values():
        module, _, name = place.partition(":")
        path = Path(__file__).parents[3].joinpath(*module.split(".")).with_suffix(".py")
        assert f"class {name}(" in path.read_text()
