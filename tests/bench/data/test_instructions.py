"""Trap 9: records without images, repeated ids and broken pictures are counted and left out, in a stream."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.data.instructions import Index, Instructions, Rule, read_rules
from compress.labels import sample_key

SHORT = "Answer the question using a single word or phrase."
REGION = "the region this sentence describes"
LETTER = "Answer with the option's letter from the given choices directly."


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def record(image: Any, *texts: str, **more: Any) -> dict[str, Any]:
    texts = texts or ("<image>\nWhat is it?", "A bus.", "Why?", "It has wheels.")
    return {
        "id": "33471",
        **({"image": image} if image else {"model": ""}),
        "conversations": said(*texts),
    } | more


def write(path: Path, records: list[Any]) -> Index:
    path.write_text(json.dumps(records))
    return Index.of(path)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Six records, of which four have a question about an image; one of their pictures is broken."""
    records = [
        record("coco/train2017/1.jpg"),
        record(None),
        record("coco/train2017/2.jpg", f"Is it red?\n<image>\n{SHORT}", "Yes"),
        record("ocr_vqa/images/3.jpg"),
        record("vg/VG_100K/4.jpg", conversations=[]),
        record("coco/train2017/1.jpg", "<image>\nA?", "", "B?", "C", "D?", "E", "F?"),
    ]
    (tmp_path / "mix.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / "coco" / "train2017" / name, "GIF")
    (tmp_path / "ocr_vqa" / "images").mkdir(parents=True)
    (tmp_path / "ocr_vqa" / "images" / "3.jpg").write_bytes(b"<html>404</html>")
    return tmp_path / "mix.json"


def test_the_answer_0_is_an_answer_and_what_is_no_text_is_none(tmp_path: Path) -> None:
    values = [0, 3, 2.5, "0", None, False, ["x"], {"a": 1}, "", float("nan")]
    kept = write(
        tmp_path / "a.json", [record(f"a/{n}.jpg", "How many?", one) for n, one in enumerate(values)]
    )  # type: ignore[arg-type]
    assert kept.table["position"].to_pylist() == [0, 1, 2, 3]
    samples = Instructions(kept, tmp_path)
    assert [one.answers for one in samples] == [("0",), ("3",), ("2.5",), ("0",)]


def test_one_record_that_no_file_system_or_text_can_have_is_counted(mixture: Path) -> None:
    records = json.loads(mixture.read_text())
    strange = [
        record("a" * 300 + ".jpg"), record("a/\ud800.jpg"), record("a/b.jpg", "A \udc00?", "B"),
        record("a/\0.jpg"), record("a/c.jpg", source="\ud800"),
    ]  # fmt: skip
    index = write(mixture, [*strange, *records])
    assert index.left_out["a character that no text may have"].count == 4
    found = index.checked(mixture.parent)
    assert found.left_out["picture not there"].count == 1
    assert found.table["position"].to_pylist() == [5, 7, 10]


def test_records_are_named_by_position_and_the_rest_is_counted(mixture: Path) -> None:
    index = Index.of(mixture)
    samples = Instructions(index, mixture.parent)
    assert [s.id for s in samples] == ["mix-0-0", "mix-2-0", "mix-3-0", "mix-5-1"]
    assert [samples.key(place) for place in range(4)] == [sample_key(one) for one in samples]
    assert {s.info["id"] for s in samples} == {"33471"} and {s.task for s in samples} == {"mix"}
    assert (samples[1].question, samples[1].answers) == (f"Is it red?\n\n{SHORT}", ("Yes",))
    assert {reason: (one.count, one.first) for reason, one in index.left_out.items()} == {
        "text only": (1, "record 1"),
        "no question with an answer": (1, "record 4"),
        "some turns lack a question or an answer": (1, "record 5"),
    }


def test_the_turns_of_a_record_are_chosen_by_a_policy(mixture: Path) -> None:
    index = Index.of(mixture)
    every = Instructions(index, mixture.parent, turns="all")
    assert [s.id for s in every] == [
        f"mix-{one}" for one in ("0-0", "0-1", "2-0", "3-0", "3-1", "5-1", "5-2")
    ]
    assert (every[1].question, every[1].answers) == ("Why?", ("It has wheels.",))
    content = {s.id: (s.question, s.answers) for s in every}
    drawn = {
        tuple(s.id for s in Instructions(index, mixture.parent, turns="random", seed=seed))
        for seed in range(40)
    }
    assert drawn == {
        ("mix-0-" + a, "mix-2-0", "mix-3-" + b, "mix-5-" + c) for a in "01" for b in "01" for c in "12"
    }
    for sample in Instructions(index, mixture.parent, turns="random", seed=3):
        assert content[sample.id] == (sample.question, sample.answers)  # the same under any policy
    with pytest.raises(ValueError, match="unknown policy of turns 'al'; did you mean 'all'"):
        Instructions(index, mixture.parent, turns="al")  # type: ignore[arg-type]


def test_a_part_is_even_and_the_fewer_are_among_the_more(tmp_path: Path) -> None:
    index = write(tmp_path / "many.json", [record(f"{'ab'[i // 100]}/{i}.jpg") for i in range(200)])
    few, more = ({s.id for s in Instructions(index, tmp_path, n=n)} for n in (40, 80))
    assert len(few) == 40 and few < more and len(more) == 80
    assert 10 < sum(s.family == "a" for s in Instructions(index, tmp_path, n=40)) < 30
    assert len(Instructions(index, tmp_path, n=1000)) == 200


def test_a_manifest_holds_what_opens_and_is_of_one_file(mixture: Path, tmp_path: Path) -> None:
    found = Index.of(mixture).checked(mixture.parent)
    assert found.table["position"].to_pylist() == [0, 2, 5]  # GIFs called .jpg open
    assert found.left_out["picture cannot be opened"].count == 1
    assert found.left_out["picture cannot be opened"].first == "ocr_vqa/images/3.jpg"
    found.save(tmp_path / "mix.manifest")
    again = Index.load(tmp_path / "mix.manifest", mixture)
    assert again.table.equals(found.table) and again.left_out == found.left_out
    assert again.counts == {"llava": 2, "vqa": 1}
    samples = Instructions(again, mixture.parent)
    samples.refuse_changed()
    (mixture.parent / "coco" / "train2017" / "2.jpg").write_bytes(b"shorter")
    with pytest.raises(ValueError, match=r"2.jpg has changed since it was checked: make a new manifest"):
        samples.refuse_changed()
    mixture.write_text(mixture.read_text() + " ")
    with pytest.raises(ValueError, match="is the manifest of another mix.json"):
        Index.load(tmp_path / "mix.manifest", mixture)
    with pytest.raises(ValueError, match="not a manifest; make one with evocomp data check"):
        Index.load(mixture, mixture)


def test_missing_pictures_are_said_before_the_work(mixture: Path) -> None:
    (mixture.parent / "coco" / "train2017" / "1.jpg").unlink()
    with pytest.raises(ValueError, match="1.jpg is not there"):
        Instructions(Index.of(mixture), mixture.parent).refuse_changed()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_manifest_does_not_depend_on_the_workers(mixture: Path, workers: int) -> None:
    seen: list[tuple[int, int]] = []
    found = Index.of(mixture).checked(mixture.parent, workers=workers, progress=lambda *at: seen.append(at))
    assert found.table.equals(Index.of(mixture).checked(mixture.parent).table)
    assert seen == [(1, 3), (2, 3), (3, 3)]  # a picture of several records is opened once


@pytest.mark.parametrize(
    ("image", "question", "source"),
    [
        ("gqa/images/1.jpg", f"Is it?\n{SHORT}", "gqa"),
        ("ocr_vqa/images/1.jpg", "Who?", "ocrvqa"),
        ("textvqa/train_images/1.jpg", SHORT, "textcaps"),
        ("vg/VG_100K_2/1.jpg", REGION, "vg"),
        ("coco/train2017/1.jpg", f"Is it?\n{SHORT}", "vqa"),
        ("coco/train2017/1.jpg", f"Is it?\nA. a\nB. b\n{LETTER}", "aokvqa"),
        ("coco/1.jpg", f"Please provide the bounding box coordinate of {REGION}: it.", "refcoco"),
        ("coco/1.jpg", "Please provide a short description for this region: [0.2, 0.4].", "refcoco"),
        ("coco/train2017/1.jpg", "What is it?", "llava"),
        ("mine/1.jpg", "What is it?", "mine"),
        ("1.jpg", "What is it?", "unknown"),
    ],
)  # fmt: skip
def test_the_shipped_rules_tell_the_sources(tmp_path: Path, image: str, question: str, source: str) -> None:
    index = write(tmp_path / "one.json", [record(image, f"<image>\n{question}", "Yes")])
    assert index.counts == {source: 1}


def test_sources_are_chosen_and_those_of_the_record_need_no_rule(tmp_path: Path) -> None:
    made = [record("coco/1.jpg"), record("coco/2.jpg", source="okvqa"), record("gqa/3.jpg")]
    index = write(tmp_path / "mix.json", made)
    assert index.counts == {"gqa": 1, "llava": 1, "okvqa": 1}
    found = Instructions(index, tmp_path, sources=["okvqa", "gqa"])
    assert [s.family for s in found] == ["okvqa", "gqa"] and [s.info["position"] for s in found] == [1, 2]
    with pytest.raises(ValueError, match="unknown source 'okvq'; did you mean 'okvqa'"):
        Instructions(index, tmp_path, sources=["okvq"])


def test_own_rules_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("- {source: mine, folder: coco, contains: bus}\n- {source: rest}")
    assert read_rules(path) == (Rule("mine", "coco", contains="bus"), Rule("rest"))
    data = tmp_path / "mix.json"
    data.write_text(json.dumps([record("coco/1.jpg", "A bus?", "Yes"), record("gqa/1.jpg", "A bus?", "Yes")]))
    assert Index.of(data, read_rules(path)).counts == {"mine": 1, "rest": 1}
    for wrong in ("[1]", "a: b", "- {sauce: mine}", "- {source: 3}", "- {source: [}"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="rules.yaml: .*write a list of"):
            read_rules(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("../../secret.jpg"), "the image's name leads out of the folder"),
        (record(["1.jpg", "2.jpg"]), "more than one image"),
        (record("1.jpg", "<image> <image> Which?", "A"), "<image> more than once"),
        (record("1.jpg", conversations="none"), "no conversation"),
        ([1], "no object"),
    ],
)
def test_odd_records_are_counted_and_left_out(tmp_path: Path, bad: Any, reason: str) -> None:
    index = write(tmp_path / "mix.json", [bad, record("good.jpg")])
    assert index.table["position"].to_pylist() == [1]
    assert index.left_out[reason].count == 1
    with pytest.raises(ValueError, match="no record has an image, a question and an answer"):
        write(tmp_path / "mix.json", [bad])


def test_samples_are_found_by_the_keys_of_their_labels(mixture: Path) -> None:
    every = Instructions(Index.of(mixture), mixture.parent, turns="all")
    assert [s.id for s in every.of(["mix/mix-5-2", "mix/mix-0-0"])] == ["mix-5-2", "mix-0-0"]
    with pytest.raises(ValueError, match=r"label of 'mix/mix-1-0': .*mix.json has no such sample"):
        every.of(["mix/mix-1-0"])


def test_samples_travel_to_workers_without_their_pictures(mixture: Path) -> None:
    sample = Instructions(Index.of(mixture), mixture.parent)[0]
    assert len(pickle.dumps(sample)) < 1000
    assert pickle.loads(pickle.dumps(sample)).image.size == (4, 4)
