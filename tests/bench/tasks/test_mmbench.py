"""MMBench: rotations that count together, prompts in both languages, letters, and the server's workbook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import pytest
from PIL import Image

from bench.tasks.mmbench import MMBench, MMBenchCN

COPY = 1_000_000


def rows(files: Any, items: Sequence[int] = (3, 7), hint: str = "", **more: Any) -> list[dict[str, Any]]:
    """Questions of three options, each in its three rotations; the right option is cat."""
    made = []
    for item in items:
        for turn in range(3):
            options = ["cat", "dog", "car"]
            options = options[turn:] + options[:turn]
            made.append(
                {
                    "index": item + turn * COPY, "question": f"What is {item}?", "hint": hint,
                    **dict(zip("ABC", options, strict=True)), "D": "nan",
                    "answer": "ABC"[options.index("cat")],
                    "category": f"ability {item}", "image": files.text() if turn == 0 else str(item),
                    "source": "web", "l2-category": "coarse", "comment": "None", "split": "dev", **more,
                }
            )  # fmt: skip
    return made


@pytest.fixture
def folder(files: Any) -> Any:
    files.table("mmbench/MMBench_DEV_EN.tsv", rows(files))
    files.table("mmbench-cn/MMBench_DEV_CN.tsv", rows(files, hint="看图"))
    files.sizes(mmbench__dev=6)
    files.sizes(**{"mmbench_cn__dev": 6})
    return files


def test_llavas_prompts(folder: Any) -> None:
    english = MMBench(protocol="llava").load(folder.root)[1]
    assert english.question == (
        "What is 3?\nA. dog\nB. car\nC. cat\nAnswer with the option's letter from the given choices directly."
    )
    chinese = MMBenchCN(protocol="llava").load(folder.root)[0]
    assert chinese.question == "看图\nWhat is 3?\nA. cat\nB. dog\nC. car\n请直接回答选项字母。"


def test_lmms_evals_prompts(folder: Any) -> None:
    english = MMBench(protocol="lmms-eval").load(folder.root)[0]
    assert english.question == (
        "What is 3? There are several options:\nA. cat\nB. dog\nC. car\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    chinese = MMBenchCN(protocol="lmms-eval").load(folder.root)[0]
    assert chinese.question == (
        "看图 What is 3? There are several options:\nA. cat\nB. dog\nC. car\n\n"
        "请直接使用所提供的选项字母作为答案回答。"
    )
    assert (MMBench(protocol="lmms-eval").max_new_tokens, MMBenchCN(protocol="lmms-eval").max_new_tokens) == (
        1024,
        256,
    )


def test_copies_share_the_picture_that_they_name(folder: Any) -> None:
    samples = MMBench(protocol="lmms-eval").load(folder.root)
    assert [s.image.getpixel((0, 0)) for s in samples] == [(255, 0, 0)] * 6
    assert samples[0].picture.text is samples[1].picture.text  # type: ignore[union-attr]  # kept once


def test_a_question_counts_only_with_all_its_rotations(folder: Any) -> None:
    """Trap 3: circular over the rows with equal index mod 1,000,000; originals are those below it."""
    task = MMBench(protocol="llava")
    samples = task.load(folder.root)
    right = [s.answers[0] for s in samples]
    assert right == ["A", "C", "B"] * 2
    assert task.score(samples, right) == 100
    one_wrong = ["A", "C", "A", *right[3:]]
    assert task.score(samples, one_wrong) == 50
    assert task.credit(samples, one_wrong).tolist() == [0, 1]
    found = task.subscores(samples, one_wrong)
    assert found["vanilla"] == 100 and found["coarse"] == 50
    assert found["ability 3"] == 0 and found["ability 7"] == 100
    uneven = task.subscores(samples[:4], one_wrong[:4])  # three rotations of one question, one of the other
    assert (uneven["vanilla"], uneven["coarse"]) == (100, 50)


def test_unreadable_answers_are_wrong_and_told(folder: Any) -> None:
    """Trap 3: rules only; the rate of answers without a letter stands beside the score."""
    task = MMBenchCN(protocol="llava")
    samples = task.load(folder.root)
    said = [f"答案：{s.answers[0]}" for s in samples]
    assert task.score(samples, said) == 0
    found = task.subscores(samples, said)
    assert found["unreadable"] == 100 and found["any-script"] == 100
    assert "unreadable" in task.headline
    assert MMBenchCN(protocol="llava", letters="any-script").score(samples, said) == 100


def test_rows_of_a_question_need_not_be_neighbours(files: Any) -> None:
    files.table("mmbench/MMBench_DEV_EN.tsv", sorted(rows(files), key=lambda row: row["index"]))
    files.sizes(mmbench__dev=6)
    task = MMBench(protocol="llava")
    samples = task.load(files.root)
    assert [s.info["item"] for s in samples] == [3, 7, 3, 7, 3, 7]
    assert task.score(samples, ["A", "B", *(s.answers[0] for s in samples[2:])]) == 50


def test_some_questions_come_with_all_their_rotations(files: Any) -> None:
    files.table("mmbench/MMBench_DEV_EN.tsv", rows(files, range(20)))
    files.sizes(mmbench__dev=60)
    samples = MMBench(protocol="llava").load(files.root, 3)
    assert len(samples) == 9 and len({s.info["item"] for s in samples}) == 3
    more = MMBench(protocol="llava").load(files.root, 7)
    assert {s.id for s in samples} < {s.id for s in more}


def test_both_languages_ask_about_the_same_images(folder: Any) -> None:
    """Whatever their tables call the pictures; and two questions about one picture name it once."""
    english, chinese = MMBench(protocol="llava"), MMBenchCN(protocol="llava")
    samples = english.load(folder.root)
    assert english.images(samples) == chinese.images(chinese.load(folder.root))
    assert len(english.images(samples)) == len(english.credit(samples, ["A"] * len(samples))) == 2
    assert len(set(english.images(samples))) == 1  # the fixture has one picture only
    apart = [replace(one, picture=Image.new("RGB", (1, 1 + one.info["item"]))) for one in samples]
    assert english.images(apart) == ("mmbench 1.0 dev 3", "mmbench 1.0 dev 7")


def test_a_question_without_its_original_is_refused(files: Any) -> None:
    files.table("mmbench/MMBench_DEV_EN.tsv", rows(files)[1:])
    files.sizes(mmbench__dev=5)
    with pytest.raises(ValueError, match="no row has picture 3"):
        MMBench(protocol="llava").load(files.root)
    files.table("mmbench/MMBench_DEV_EN.tsv", [r | {"image": files.text()} for r in rows(files)[1:]])
    with pytest.raises(ValueError, match="lack their original or a rotation, for instance index 3"):
        MMBench(protocol="llava").load(files.root)


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "None"])
def test_options_end_at_the_first_empty_one(files: Any, empty: str) -> None:
    made = [row | {"B": empty, "answer": "A", "index": 5} for row in rows(files)[:1]]
    files.table("mmbench/MMBench_DEV_EN.tsv", made)
    files.sizes(mmbench__dev=1)
    assert MMBench(protocol="llava").load(files.root)[0].info["options"] == ("cat",)


def test_an_answer_that_is_no_option_is_refused(files: Any) -> None:
    files.table("mmbench/MMBench_DEV_EN.tsv", rows(files, answer="D"))
    with pytest.raises(ValueError, match="the answer is 'D', but there are 3 options"):
        MMBench(protocol="llava").load(files.root)


def test_editions_are_files_of_their_own(folder: Any) -> None:
    """Trap 3: version 1.0 is never read as 1.1."""
    with pytest.raises(ValueError, match="no MMBench_DEV_EN_V11.tsv"):
        MMBench(protocol="llava", edition="1.1").load(folder.root)
    folder.table("mmbench/MMBench_DEV_EN_V11.tsv", rows(folder, [9]))
    assert len(MMBench(protocol="llava", edition="1.1").load(folder.root)) == 3
    assert len(MMBench(protocol="llava").load(folder.root)) == 6


def test_two_tables_of_one_split_are_refused(folder: Any) -> None:
    folder.table("mmbench/mmbench_dev_20230712.tsv", rows(folder))
    with pytest.raises(ValueError, match="has both MMBench_DEV_EN.tsv and mmbench_dev_20230712.tsv"):
        MMBench(protocol="llava").load(folder.root)


def test_pictures_longer_than_a_csv_field_may_be_are_read(files: Any) -> None:
    made = rows(files, [1])
    made[0]["image"] += "A" * 200_000
    files.table("mmbench/MMBench_DEV_EN.tsv", made)
    files.sizes(mmbench__dev=3)
    assert len(MMBench(protocol="llava").load(files.root)) == 3


def test_a_cut_table_is_refused(files: Any) -> None:
    path = files.table("mmbench/MMBench_DEV_EN.tsv", rows(files))
    path.write_text(path.read_text()[:-60])
    with pytest.raises(ValueError, match="row 7.*is it cut"):
        MMBench(protocol="llava").load(files.root)


def test_the_workbook_keeps_the_servers_columns(files: Any, tmp_path: Any) -> None:
    from zipfile import ZipFile

    test = [{k: v for k, v in row.items() if k != "answer"} for row in rows(files, split="test")]
    files.table("mmbench/MMBench_TEST_EN.tsv", test)
    files.sizes(mmbench__test=6)
    task = MMBench(protocol="llava", split="test")
    samples = task.load(files.root)
    assert samples[0].answers == ()
    assert isnan(task.score(samples, ["A"] * 6)) and isnan(task.subscores(samples, ["A"] * 6)["vanilla"])
    name, content = task.submission(samples, ["A <b>"] * 6, files.root)
    assert name == "mmbench-test.xlsx"
    (tmp_path / name).write_bytes(content)
    with ZipFile(tmp_path / name) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    first, second = sheet.split("</row>")[:2]
    for column in "index question A B C D prediction split".split():
        assert f">{column}<" in first
        first = first.partition(f">{column}<")[2]
    assert "<v>3</v>" in second and "A &lt;b&gt;" in second and "hint" not in sheet


def test_lmms_labs_layout(files: Any) -> None:
    picture = {"bytes": files.png(), "path": ""}
    made = [row | {"image": picture, "L2-category": row.pop("l2-category")} for row in rows(files)]
    files.parquet("mmbench/en/dev-00000-of-00001.parquet", made)
    files.sizes(mmbench__dev=6)
    task = MMBench(protocol="lmms-eval")
    samples = task.load(files.root)
    assert task.score(samples, [f"{s.answers[0]}." for s in samples]) == 100
    assert samples[0].info["l2"] == "coarse" and samples[1].image.size == (8, 6)
