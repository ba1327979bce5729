from __future__ import annotations

from pathlib import Path

import pytest

from bench.latency.request import LatencyCell
from bench.latency.rounds import FILE, Rounds

FACTS, METHODS = {"device": "cpu", "batch": 1}, {"grid": {"depth": 0}}
GRID, FASTV = LatencyCell("grid", 4), LatencyCell("fastv", 4)


def test_rounds_come_back_as_they_were(tmp_path: Path, make_shot):
    rounds = Rounds(tmp_path / "new", FACTS, METHODS)
    rounds.add({GRID: make_shot(1.0), FASTV: make_shot(2.0)})
    rounds.add({GRID: make_shot(3.0)})
    again = Rounds(tmp_path / "new", FACTS, METHODS)
    assert again.rounds == rounds.rounds
    assert {number: shot.total for number, shot in again.shots(GRID).items()} == {0: 1.0, 1: 3.0}
    assert list(again.shots(FASTV)) == [0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


def test_other_conditions_are_refused_and_new_methods_are_not(tmp_path: Path, make_shot):
    Rounds(tmp_path, FACTS, METHODS).add({GRID: make_shot(1.0)})
    Rounds(tmp_path, FACTS, {"fastv": {"layer": 2}})
    with pytest.raises(ValueError, match="other conditions: batch is 1 there and 2 here. Choose these"):
        Rounds(tmp_path, FACTS | {"batch": 2}, METHODS)
    with pytest.raises(ValueError, match="grid: depth is 0 there and 1 here"):
        Rounds(tmp_path, FACTS, {"grid": {"depth": 1}})


@pytest.mark.parametrize(
    ("facts", "methods"), [({"code": "b"}, {"code": "a"}), ({"code": "a"}, {"code": "b"})]
)
def test_times_of_other_code_are_not_added_to(tmp_path: Path, make_shot, facts, methods):
    Rounds(tmp_path / "old", FACTS, METHODS).add({GRID: make_shot(1.0)})
    same = {"grid": METHODS["grid"] | {"code": "a"}}
    Rounds(tmp_path / "new", FACTS | {"code": "a"}, same).add({GRID: make_shot(1.0)})
    assert Rounds(tmp_path / "new", FACTS | {"code": "a"}, same).rounds
    for folder in "old", "new":
        with pytest.raises(ValueError, match=f"{folder} was timed by other code than this version's"):
            Rounds(tmp_path / folder, FACTS | facts, {"grid": METHODS["grid"] | methods})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 9}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=FILE):
        Rounds(tmp_path, FACTS, METHODS)


def test_an_interrupted_write_leaves_the_last_round(tmp_path: Path, make_shot, monkeypatch):
    rounds = Rounds(tmp_path, FACTS, METHODS)
    rounds.add({GRID: make_shot(1.0)})
    monkeypatch.setattr("compress.files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rounds.add({GRID: make_shot(2.0)})
    assert len(Rounds(tmp_path, FACTS, METHODS).rounds) == 1
