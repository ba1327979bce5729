"""Trap 9: records without images, repeated ids and broken pictures are counted and left out, in a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.data import instructions
from bench.data.instructions import read_mixture, sound, source, stream

SHORT = "Answer the question using a single word or phrase."


def record(image: str | None, question: str = "What is it?", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "A bus."}] * 2
    return {"id": "33471", **({"image": image} if image else {"model": ""}), "conversations": turns} | more


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    records = [
        record("coco/train2017/1.jpg"), record(None), record("coco/train2017/2.jpg", f"Is it red?\n{SHORT}"),
        record("ocr_vqa/images/3.jpg"), record("vg/VG_100K/4.jpg", conversations=[]),
    ]  # fmt: skip
    (tmp_path / "mix.json").write_text(json.dumps(records))
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / "coco" / "train2017" / name, "GIF")
    (tmp_path / "ocr_vqa" / "images").mkdir(parents=True)
    (tmp_path / "ocr_vqa" / "images" / "3.jpg").write_bytes(b"<html>404</html>")
    return tmp_path / "mix.json"


def test_records_are_named_by_position_and_the_rest_is_counted(mixture: Path) -> None:
    samples, left_out = read_mixture(mixture, mixture.parent)
    assert [s.id for s in samples] == ["mix665k-0", "mix665k-2", "mix665k-3"]
    assert {s.info["id"] for s in samples} == {"33471"}
    assert left_out == {"text only": 1, "no question with an answer first": 1}
    assert (samples[0].question, samples[0].answers, samples[0].info["turns"]) == (
        "What is it?",
        ("A bus.",),
        2,
    )


def test_broken_pictures_are_told_and_left_out(mixture: Path) -> None:
    samples, _ = read_mixture(mixture, mixture.parent)
    good, broken = sound(samples)
    assert [s.id for s in good] == ["mix665k-0", "mix665k-2"]  # GIFs called .jpg open
    assert len(broken) == 1 and broken[0].startswith("mix665k-3: ") and "cannot be read" in broken[0]


def test_sources_are_told_apart_and_chosen(mixture: Path) -> None:
    samples, left_out = read_mixture(mixture, mixture.parent, sources=["vqa", "ocr_vqa"])
    assert [s.family for s in samples] == ["vqa", "ocr_vqa"] and left_out["other sources"] == 1
    assert source("coco/train2017/1.jpg", "What is it?") == "llava"
    assert source("textvqa/train_images/1.jpg", SHORT) == "textcaps"


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_array_is_read_in_pieces(mixture: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "CHUNK", chunk)
    mixture.write_text(' [ {"a": "x,]"} ,\n{"b": [1]}\n] ')
    assert list(stream(mixture)) == [{"a": "x,]"}, {"b": [1]}]


def test_half_an_array_is_refused(mixture: Path) -> None:
    mixture.write_text(mixture.read_text()[:-40])
    with pytest.raises(ValueError, match="mix.json: the array has no end"):
        read_mixture(mixture, mixture.parent)
    mixture.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a JSON array"):
        read_mixture(mixture, mixture.parent)


def test_names_that_lead_out_are_refused(mixture: Path) -> None:
    mixture.write_text(json.dumps([record("coco/../../secret.jpg")]))
    with pytest.raises(ValueError, match="leads out of"):
        read_mixture(mixture, mixture.parent)
