"""lmms-eval's contract: with the real package where it is installed, elsewhere with the names it gives us."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import ImageFile

import bench.lmms
from baselines.fastv import FastV
from bench.data.export import export
from bench.doctor import installation
from bench.evaluation.compressors import selector_for
from bench.evaluation.evaluate import evaluate
from bench.tasks.load import load_tasks
from compress.models.loading import MLLM, load

ROOT = Path(__file__).parent.parent.parent.parent
INSTALLED = find_spec("lmms_eval") is not None
GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "temperature": 0, "until": ["\n\n"]}


@dataclass
class Stub:
    """As lmms-eval has it: a result with a place for counts."""

    text: Any
    token_counts: Any = None


@dataclass
class Counts:
    output_tokens: int | None = None


class Base:
    """What `lmms` does for its subclasses."""

    def __init__(self) -> None:
        self._rank, self.task_dict, self.cache_hook = 0, {}, SimpleNamespace(add_partial=lambda *told: None)

    @property
    def rank(self) -> int:
        return self._rank

    def clean(self) -> None:
        pass

    @classmethod
    def create_from_arg_string(cls, text: str, more: dict[str, Any]) -> Base:
        pairs = (part.split("=", 1) for part in text.split(","))
        return cls(**{key: int(value) if value.isdigit() else value for key, value in pairs}, **more)


@pytest.fixture(scope="module", autouse=True)
def images_as_strict_as_before() -> Iterator[None]:
    """lmms-eval lets the whole process open images that are cut off; later tests shall not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        yield


@pytest.fixture(scope="module")
def plug_in() -> Iterator[Any]:
    """The module of the plug-in."""
    with pytest.MonkeyPatch.context() as patch:
        if not INSTALLED:
            logged: list[Any] = []
            names = {
                "api.instance": {"GenerationResult": Stub, "TokenCounts": Counts, "Instance": object},
                "api.model": {"lmms": Base},
                "models.model_utils.gen_metrics": {"log_metrics": lambda *told, **more: logged.append(more)},
            }
            for path in ("", "api", "models", "models.model_utils", *names):
                module = ModuleType(f"lmms_eval.{path}".rstrip("."))
                vars(module).update(names.get(path, {}))
                patch.setitem(sys.modules, module.__name__, module)
        patch.delitem(sys.modules, "bench.lmms.model", raising=False)
        yield import_module("bench.lmms.model")
        sys.modules.pop("bench.lmms.model", None)


@dataclass
class Request:
    """What the model reads of lmms-eval's `Instance`."""

    args: tuple[Any, ...]
    task_name: str = "task"
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def model(plug_in: Any, tiny_folder: Path, pictures) -> Any:
    made = plug_in.CompressedModel.create_from_arg_string(
        f"pretrained={tiny_folder},method=grid,keep=12",
        {"batch_size": "2", "device": "cpu"},
    )
    made.task_dict = {"task": {"test": [{"images": pictures[:count]} for count in (1, 0, 2, 1, 1)]}}
    return made


def request(doc: int, text: str, second: Any) -> Request:
    return Request((text, second, lambda row: row["images"], doc, "task", "test"))


TEXTS = ["how many ?", "what shape ?", "is <image> left of <image> ?", "what color ?", "is there a star ?"]


def test_answers_come_in_the_order_of_the_requests_whatever_the_settings(model: Any):
    """Settings alternate, so that batches are of requests which do not follow each other."""
    longer = GREEDY | {"max_new_tokens": 5, "min_new_tokens": 5}
    settings = [GREEDY, longer, GREEDY, GREEDY, longer]
    requests = [request(doc, text, dict(settings[doc])) for doc, text in enumerate(TEXTS)]
    cached: list[Any] = []
    model.cache_hook = SimpleNamespace(add_partial=lambda *told: cached.append(told))
    results = model.generate_until(requests)
    told = {(context, text) for _, (context, _), text in cached}
    assert told == set(zip(TEXTS, [one.text for one in results], strict=True))
    alone = [model.generate_until([one])[0] for one in requests]
    assert [one.text for one in results] == [one.text for one in alone]
    assert [one.token_counts for one in results] == [one.token_counts for one in alone]
    assert [one.args[1] for one in requests] == settings  # lmms-eval's own dictionaries, unchanged


def test_continuations_are_scored_whether_written_or_computed_from_the_document(model: Any):
    written = [request(0, "how many ?", answer) for answer in (" one", " two")]
    computed = [request(0, "how many ?", lambda row, answer=answer: answer) for answer in ("one", "two")]
    pairs = [one.text for one in model.loglikelihood([*written, *computed])]
    assert pairs[0] == pytest.approx(pairs[2]) and pairs[1] == pytest.approx(pairs[3])
    assert pairs[0][0] != pairs[1][0] and all(type(greedy) is bool for _, greedy in pairs)


def test_what_cannot_be_asked_is_refused_by_name(model: Any):
    model.task_dict["sound"] = {"test": [{"images": [{"array": [0.0]}]}]}
    sound = Request(("what ?", GREEDY, lambda row: row["images"], 0, "sound", "test"))
    with pytest.raises(ValueError, match="sound shows a dict: evocomp reads images and the paths of videos"):
        model.generate_until([sound])
    with pytest.raises(ValueError, match="task asks without a document, as acc_mutual_info does"):
        model.loglikelihood([Request(("", "yes"))])
    with pytest.raises(NotImplementedError, match="one round: tasks with output_type generate_until"):
        model.generate_until_multi_round([])


def test_videos_are_read_from_their_paths(plug_in: Any, tiny_qwen: MLLM, pictures, tmp_path: Path):
    """A folder of frames, a GIF and the path of an image; a file that is none is named."""
    (tmp_path / "film").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "film" / f"{number}.png")
    pictures[0].save(tmp_path / "film.gif", save_all=True, append_images=pictures[1:], duration=500)
    (tmp_path / "broken.mp4").write_bytes(b"")
    made = plug_in.CompressedModel.create_from_arg_string(
        f"pretrained={tiny_qwen.name},method=grid,keep=3,max_num_frames=2", {"device": "cpu"}
    )
    shown = ["film", "film.gif", "film/0.png", "broken.mp4", "nothing.mp4"]
    made.task_dict = {"task": {"test": [{"images": [str(tmp_path / name)]} for name in shown]}}
    made.generate_until([request(doc, "what color ?", dict(GREEDY)) for doc in (0, 1, 2)])
    assert [record.frames for record in made.asker.records] == [1, 1, 0]  # two frames to a token
    for doc, why in (3, r"broken.mp4 cannot be read as a video \(it is empty"), (4, "there is no video at"):
        with pytest.raises(ValueError, match=why):
            made.generate_until([request(doc, "what color ?", dict(GREEDY))])
    with pytest.raises(ValueError, match="count=0: take at least one frame"):
        plug_in.CompressedModel(pretrained=tiny_qwen.name, max_num_frames=0, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "micro"}, "unknown model argument 'model'; .*pretrained"),
        ({"max_batch_size": 8}, "unknown model argument 'max_batch_size'; did you mean 'batch_size'"),
        ({"batch_size": "auto"}, "--batch_size auto: give a whole number"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"dtype": "auto"}, "unknown dtype 'auto'"),
        ({"method": "fastvv"}, "unknown method 'fastvv'; did you mean 'fastv'"),
        ({"keep": 500}, "--keep 500: choose between 1 and the 144"),
        ({"pretrained": "mirco"}, "unknown model 'mirco'; did you mean 'micro'"),
    ],
)
def test_mistakes_in_the_arguments_are_told(plug_in: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        plug_in.CompressedModel(**arguments)


def test_options_of_a_method_stand_behind_semicolons(plug_in: Any, tiny_folder: Path):
    method = "sparsevlm:scale=2.5;noise=true"
    made = plug_in.CompressedModel.create_from_arg_string(
        f"pretrained={tiny_folder},method={method},keep=100", {"device": "cpu"}
    )
    assert made.asker.selector.scale == 2.5 and made.asker.selector.noise is True
    made.clean()
    assert not hasattr(made, "asker")


# The real package ------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not INSTALLED, reason="needs lmms-eval: pip install 'evocomp[lmms]'")


@real
def test_lmms_eval_knows_the_model_by_its_entry_point() -> None:
    (entry,) = [one for one in entry_points(group="lmms_eval.models") if one.name == bench.lmms.NAME]
    assert entry.load() is bench.lmms.manifests
    models = import_module("lmms_eval.models")
    assert models.get_model("evocomp").__name__ == "CompressedModel"
    (finding,) = [one for one in installation() if one.subject == "lmms-eval"]
    assert finding.state == "ok" and "sees the model evocomp" in finding.detail


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page's examples: exported data, videos where lmms-eval looks, and task files."""
    folder = tmp_path_factory.mktemp("lmms")
    export(folder / "benchmarks", ["pope", "mvbench"], 12, "lmms-lab")
    (folder / "cache").mkdir()
    (folder / "cache" / "mvbench_video").symlink_to("../benchmarks/mvbench/video")
    page = (ROOT / "docs" / "lmms-eval.md").read_text(encoding="utf-8")
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)):
        (folder / f"{number}.yaml").write_text(block)
    return folder


def ran(folder: Path, arguments: str, *tasks: str) -> Any:
    """What lmms-eval makes of the page's tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(folder / "cache"))  # read when MVBench's functions are first imported
        patch.chdir(folder)
        evaluator, manager = import_module("lmms_eval.evaluator"), import_module("lmms_eval.tasks")
        return evaluator.simple_evaluate(
            model="evocomp", model_args=arguments, batch_size=5, device="cpu", tasks=list(tasks),
            bootstrap_iters=0,
            task_manager=manager.TaskManager(include_path=str(folder), model_name="evocomp"),
        )  # fmt: skip


@pytest.fixture(scope="module")
def results(miniatures: Path) -> Any:
    return ran(miniatures, "pretrained=micro,method=fastv,keep=64", "pope_miniature", "pope_miniature_choice")


@real
def test_lmms_eval_gets_the_answers_of_evocomp_eval(results: Any, miniatures: Path):
    mllm: MLLM = load("micro")
    ((task, samples),) = load_tasks(["pope"], data=str(miniatures / "benchmarks")).items()
    ours = evaluate(mllm, task, samples, FastV(), 64)
    theirs = {one["doc_id"]: one["filtered_resps"] for one in results["samples"]["pope_miniature"]}
    assert [theirs[number][0] for number in range(12)] == list(ours.predictions)
    assert results["throughput"]["avg_visual_tokens_per_layer"] == pytest.approx(ours.tokens)


@real
def test_a_video_task_of_lmms_eval_gets_the_answers_of_evocomp_eval(miniatures: Path):
    found = ran(miniatures, "pretrained=micro-video,method=words+cover,keep=29", "mvbench_miniature")
    ((task, samples),) = load_tasks(["mvbench"], data=str(miniatures / "benchmarks")).items()
    asked = [one for one in samples if one.family == "moving_direction"]
    ours = evaluate(load("micro-video"), task, asked, selector_for("words+cover", "micro-video"), 29)
    rows = sorted(found["samples"]["mvbench_miniature"], key=lambda one: one["doc_id"])
    assert [one["filtered_resps"][0] for one in rows] == list(ours.predictions) and len(rows) > 1
    assert found["results"]["mvbench_miniature"]["mvbench_accuracy,none"] == pytest.approx(ours.score)
    assert found["throughput"]["avg_visual_tokens_per_layer"] == ours.tokens == 29


@real
def test_multiple_choice_reaches_the_metrics(results: Any):
    found = results["results"]["pope_miniature_choice"]
    assert 0 <= found["acc,none"] <= 1
    (first, *_) = results["samples"]["pope_miniature_choice"]
    assert len(first["filtered_resps"]) == 2 and all(len(pair) == 2 for pair in first["filtered_resps"])
