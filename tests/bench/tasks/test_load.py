"""What all benchmarks share when they are read: options, sizes, ids, laziness, and some of the samples."""

from __future__ import annotations

import re
from typing import Any

import pytest
from PIL import Image

from bench.evaluation.protocol import task_of
from bench.tasks import TASKS
from bench.tasks.gqa import GQA
from bench.tasks.load import load_tasks
from bench.tasks.pope import Pope


def questions(n: int) -> dict[str, Any]:
    return {f"q{i}": {"question": f"What is {i}?", "answer": "x", "imageId": f"n{i}"} for i in range(n)}


@pytest.fixture
def folder(files: Any) -> Any:
    files.json("gqa/testdev_balanced_questions.json", questions(50))
    files.sizes(gqa__testdev=50)
    return files


def test_images_are_opened_when_they_are_looked_at(folder: Any) -> None:
    samples = GQA(protocol="llava").load(folder.root)  # there is not one image
    assert len({one.fingerprint for one in samples}) == 50
    with pytest.raises(ValueError, match=r"there is no image at .*n0\.jpg"):
        _ = samples[0].image
    folder.image("gqa/images/n0.jpg", size=(20, 10))
    assert samples[0].image.size == (20, 20) and samples[0].image.getpixel((10, 0)) == (122, 116, 104)
    assert GQA(protocol="lmms-eval").load(folder.root)[0].image.size == (20, 10)


def test_pictures_are_turned_as_the_protocol_turns_them(folder: Any) -> None:
    """`datasets`, through which lmms-eval reads, applies EXIF orientations; LLaVA's scripts do not."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(folder.image("gqa/images/n0.jpg"), exif=exif)
    sizes = {}
    for protocol in "llava", "lmms-eval", "micro":
        sizes[protocol] = GQA(protocol=protocol, image_mode="whole").load(folder.root)[0].image.size
    assert sizes == {"llava": (40, 20), "lmms-eval": (20, 40), "micro": (20, 40)}
    padded = GQA(protocol="llava").load(folder.root)[0].image
    assert padded.size == (40, 40) and padded.getpixel((1, 20)) == (0, 0, 0), "lying, as it is stored"


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval", "micro"])
def test_thin_pictures_are_refused_under_every_protocol(folder: Any, protocol: str) -> None:
    """Before `llava` pads them to a square, whose side is the long one."""
    Image.new("RGB", (402, 2)).save(folder.image("gqa/images/n0.jpg"))
    (sample, *_) = GQA(protocol=protocol).load(folder.root)
    with pytest.raises(ValueError, match=r"n0\.jpg cannot be read .*402 x 2 pixels is too thin"):
        _ = sample.image


def test_some_are_the_same_everywhere_and_the_fewer_among_the_more(folder: Any) -> None:
    few, more = (GQA(protocol="llava").load(folder.root, n) for n in (8, 20))
    assert [s.id for s in few] == ["q4", "q7", "q15", "q18", "q19", "q24", "q38", "q44"]
    assert {s.id for s in few} < {s.id for s in more} and len(more) == 20
    folder.json("gqa/testdev_balanced_questions.json", dict(reversed(questions(50).items())))
    assert [s.id for s in GQA(protocol="llava").load(folder.root, 8)] == [s.id for s in reversed(few)]


def test_some_of_pope_are_of_all_three_subsets(files: Any) -> None:
    for subset in ("random", "popular", "adversarial"):
        rows = [{"question_id": i, "image": f"{i}.jpg", "text": "?", "label": "no"} for i in range(20)]
        files.lines(f"pope/coco_pope_{subset}.json", rows)
    files.sizes(pope__test=60)
    subsets = [s.info["subset"] for s in Pope(protocol="llava").load(files.root, 9)]
    assert [subsets.count(one) for one in ("random", "popular", "adversarial")] == [3, 3, 3]


def test_a_number_that_is_not_the_published_one_is_refused(folder: Any) -> None:
    (folder.root / "evocomp.json").unlink()
    with pytest.raises(ValueError, match="50 samples, but there should be 12,578"):
        GQA(protocol="llava").load(folder.root, 10)
    folder.sizes(gqa__testdev=49)
    with pytest.raises(ValueError, match="50 samples, but there should be 49"):
        GQA(protocol="llava").load(folder.root)


def test_repeated_and_missing_ids_are_refused(files: Any) -> None:
    rows = [{"question_id": i, "image_id": "a", "question": "?", "answers": ["x"] * 10} for i in (1, 1, 2)]
    files.json("textvqa/TextVQA_0.5.1_val.json", {"data": rows})
    files.sizes(textvqa__val=3)
    with pytest.raises(ValueError, match="1 ids stand for several samples, for instance '1'"):
        TASKS["textvqa"](protocol="lmms-eval").load(files.root)
    rows[0]["question_id"] = None
    with pytest.raises(ValueError, match="1 samples have no id"):
        files.json("textvqa/TextVQA_0.5.1_val.json", {"data": rows})
        TASKS["textvqa"](protocol="lmms-eval").load(files.root)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../../b", "..\\b", "C:/b"])
def test_images_outside_the_folder_are_refused(files: Any, name: str) -> None:
    files.json("gqa/testdev_balanced_questions.json", {"q": questions(1)["q0"] | {"imageId": name}})
    files.lines("pope/coco_pope_random.json", [{"question_id": 1, "image": name, "text": "?", "label": "no"}])
    for subset in ("popular", "adversarial"):
        files.lines(f"pope/coco_pope_{subset}.json", [])
    with pytest.raises(ValueError, match="leads out of"):
        Pope(protocol="llava").load(files.root)
    if ".." in name:
        with pytest.raises(ValueError, match="leads out of"):
            GQA(protocol="llava").load(files.root)


def test_a_record_without_a_field_names_it(folder: Any) -> None:
    folder.json("gqa/testdev_balanced_questions.json", {"q": {"question": "?", "imageId": "n"}})
    with pytest.raises(ValueError, match="record 0 has no field 'answer'"):
        GQA(protocol="llava").load(folder.root)


def test_unknown_protocols_splits_and_options_are_refused(folder: Any) -> None:
    data = str(folder.root)
    with pytest.raises(ValueError, match="unknown protocol 'lava'; did you mean 'llava'?"):
        load_tasks(["gqa"], data=data, protocol="lava")
    with pytest.raises(ValueError, match="unknown split of task 'gqa' 'test'; did you mean 'testdev'?"):
        load_tasks(["gqa"], data=data, split="test")
    with pytest.raises(ValueError, match="ocr_hint=maybe: expected one of on, off or none"):
        load_tasks(["textvqa:ocr-hint=maybe"], data=data)
    with pytest.raises(ValueError, match="unknown split 'dev' of the miniatures"):
        load_tasks(["gqa"], split="dev")
    with pytest.raises(ValueError, match="give their folder with --data"):
        load_tasks(["gqa"], protocol="llava")
    with pytest.raises(ValueError, match="task 'pope': protocol and split go with --data"):
        load_tasks(["pope:protocol=llava"])
    with pytest.raises(ValueError, match="named twice"):
        load_tasks(["pope", "pope:rule=official"])


def test_the_folder_says_its_protocol_and_the_caller_may_say_another(folder: Any) -> None:
    data = str(folder.root)
    assert [task.protocol for task in load_tasks(["gqa"], 2, data=data)] == ["llava"]
    folder.json("evocomp.json", {"protocol": "micro", "sizes": {"gqa/testdev": 50}})
    assert [task.protocol for task in load_tasks(["gqa"], 2, data=data)] == ["micro"]
    assert [task.protocol for task in load_tasks(["gqa"], 2, data=data, protocol="lmms-eval")] == [
        "lmms-eval"
    ]


def test_scores_are_refused_where_labels_are_not_public(files: Any) -> None:
    files.json("vizwiz/test.json", [{"image": "a.jpg", "question": "?"}])
    files.sizes(vizwiz__test=1)
    with pytest.raises(
        ValueError, match="labels of vizwiz, split test, are not public.*--submission.*val or train"
    ):
        load_tasks(["vizwiz"], data=str(files.root), split="test")
    ((task, samples),) = load_tasks(["vizwiz"], data=str(files.root), split="test", labelled=False).items()
    assert str(task.score(samples, ["x"])) == "nan"


def test_facts_of_a_run_give_its_task_back() -> None:
    from bench.evaluation.protocol import of_task

    task = Pope(protocol="lmms-eval", rule="official", image_mode="pad")
    assert task_of("pope", of_task(task, [])) == task
    assert task_of("gqa", {}) == GQA()


def test_what_is_no_folder_of_benchmarks_says_so(folder: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        GQA(protocol="llava").load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no sub-folder pope/; it has gqa: name these"):
        Pope(protocol="llava").load(folder.root)
    (folder.root / "pope").mkdir()
    with pytest.raises(ValueError, match="has no coco_pope_random.json .it has nothing"):
        Pope(protocol="llava").load(folder.root)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.splits])
def test_records_of_another_form_are_refused_in_one_line(name: str, tmp_path: Any) -> None:
    """Every value of every record in turn missing, null or of another type: read, or a ValueError."""
    from bench.data.export import export

    sizes = export(tmp_path, [name], 4)
    task = TASKS[name](protocol="llava")
    for path in [*(tmp_path / name).glob("*.json"), *(tmp_path / name).glob("*.tsv")]:
        whole = path.read_text()
        for broken in spoiled(whole, path.suffix):
            path.write_text(broken)
            try:
                task.load(tmp_path)
            except ValueError as problem:
                assert "\n" not in str(problem)
        path.write_text(whole)
    assert len(task.load(tmp_path, 1)) < len(task.load(tmp_path)) == sizes[f"{name}/{task.part}"]


def spoiled(text: str, kind: str) -> Any:
    yield from ("", "[]", "{}", "[1]", "null", '{"data": {}}', '{"questions": [null]}', "a\tb\n1\n", "\0")
    if kind == ".tsv":
        head, first, *rest = text.splitlines(keepends=True)
        fields = first.split("\t")
        for place in range(len(fields)):
            yield head + "\t".join([*fields[:place], "?", *fields[place + 1 :]]) + "".join(rest)
        return
    for value in ("null", "7", '"x"', "[]"):
        for key in dict.fromkeys(re.findall(r'"(\w+)": ', text)):
            yield re.sub(rf'("{key}"): ("[^"]*"|\d+)', rf"\1: {value}", text, count=1)
            yield text.replace(f'"{key}"', '"other"', 1)


def test_a_file_without_questions_is_refused(files: Any) -> None:
    """The size of MMBench 1.1 is not published, so nothing else would notice."""
    header = "index\tquestion\tA\tB\tcategory\timage\n"
    path = files.root / "mmbench" / "MMBench_DEV_EN_V11.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(header)
    with pytest.raises(ValueError, match="no questions of mmbench, split dev"):
        load_tasks(["mmbench:edition=1.1"], data=str(files.root))
