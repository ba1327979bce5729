"""A campaign that is stopped at any moment, divided, or repeated ends in the same store, byte for byte."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from compress.labels import Label, Shard, campaign, gather, merge, read_labels
from compress.labels.store import described
from compress.parallel import Local
from compress.samples import Catalogue, Sample

BLANK = Image.new("RGB", (4, 4))


class Stub:
    """Labels without a model, always the same for a sample; what is called "bad" fails."""

    machine, forks = "cpu", True
    about = {"kind": "stub", "keep": 2}

    def __call__(self, sample: Sample) -> Label:
        if "bad" in sample.id:
            raise ValueError(f"sample {sample.id!r}: it has no gold answer")
        time.sleep(0.002)
        rng = Random(sample.id)
        kept = tuple(sorted(rng.sample(range(16), 2)))
        return Label(sample.id, kept, rng.random(), rng.random(), rng.random(), 8, 1, 0.0, (0.5,) * 16)


class Many(Catalogue):
    """A long list of samples, none of which exists before it is asked for."""

    def __init__(self, count: int, prefix: str = "s"):
        self.count, self.prefix, self.made = count, prefix, 0

    def __len__(self) -> int:
        return self.count

    def key(self, place: int) -> str:
        return f"{self.prefix}{place}"

    def make(self, place: int) -> Sample:
        self.made += 1
        return Sample(self.key(place), BLANK, "?", ("!",))


def content(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.iterdir())}


def sorted_bytes(store: Path, scratch: Path) -> dict[str, bytes]:
    """What a store holds, in one order."""
    merge([store], scratch)
    return content(scratch)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "SHARD_ROWS", 7)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_five_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, workers: int) -> None:
    samples = Many(300)
    gather(Stub, samples, tmp_path / "whole")
    fork = multiprocessing.get_context("fork")
    chance, kills = Random(workers), 0
    while kills < 25:
        run = fork.Process(target=gather, args=(Stub, samples, tmp_path / "cut"), kwargs={"workers": workers})
        run.start()
        run.join(chance.uniform(0.01, 0.12))
        if run.exitcode is None:
            os.kill(run.pid or 0, signal.SIGKILL)
            kills += 1
        run.join()
        assert run.exitcode in (0, -signal.SIGKILL)
        if run.exitcode == 0:  # once all is labelled, kill it while it begins again
            shutil.rmtree(tmp_path / "cut")
    gather(Stub, samples, tmp_path / "cut", workers=workers)
    assert sorted_bytes(tmp_path / "cut", tmp_path / "a") == sorted_bytes(tmp_path / "whole", tmp_path / "b")
    assert not list((tmp_path / "cut").glob("*.part"))


def test_shards_of_one_campaign_share_a_folder_or_are_merged(tmp_path: Path) -> None:
    samples = Many(60)
    gather(Stub, samples, tmp_path / "whole")
    for number in range(3):
        gather(Stub, samples, tmp_path / "shared", shard=Shard(number, 3))
        gather(Stub, samples, tmp_path / str(number), shard=Shard.of_text(f"{number}/3"))
    sizes = [len(read_labels(tmp_path / str(number))) for number in range(3)]
    assert sum(sizes) == 60 and min(sizes) > 10
    parts = [tmp_path / str(number) for number in range(3)]
    merge([*parts, tmp_path / "1"], tmp_path / "merged")  # one of them twice: equal labels are kept once
    whole = sorted_bytes(tmp_path / "whole", tmp_path / "a")
    assert content(tmp_path / "merged") == whole
    assert sorted_bytes(tmp_path / "shared", tmp_path / "b") == whole


def test_a_sample_stays_in_its_shard_when_there_are_more() -> None:
    few, many = ({key for key in map(str, range(n)) if Shard(1, 4).holds(key)} for n in (50, 200))
    assert few == {key for key in many if int(key) < 50}
    with pytest.raises(ValueError, match="shard 4/4: choose i/n with i from 0"):
        Shard.of_text("4/4")
    with pytest.raises(ValueError, match="shard '3': write i/n"):
        Shard.of_text("3")


def test_what_fails_is_put_in_quarantine_with_the_reasons_and_not_tried_again(tmp_path: Path) -> None:
    samples = [Sample(name, BLANK, "?", ("!",)) for name in ("a", "bad1", "b")]
    store = gather(Stub, samples, tmp_path)
    assert [one.id for one in store] == ["a", "b"]
    assert store.quarantine == {"bad1": ["sample 'bad1': it has no gold answer"] * 3}
    seen: list[tuple[int, int]] = []
    gather(Stub, samples, tmp_path, progress=lambda *at: seen.append(at))
    assert seen == [(3, 3)]
    gather(Stub, samples, tmp_path, again=True, progress=lambda *at: seen.append(at))
    assert seen[1:] == [(2, 3), (3, 3)]


def test_a_sample_that_works_the_second_time_leaves_the_quarantine(tmp_path: Path) -> None:
    gather(Stub, [Sample("a", BLANK, "?", ("!",)), Sample("bad", BLANK, "?", ("!",))], tmp_path)

    class Mended(Stub):
        def __call__(self, sample: Sample) -> Label:
            return Label(sample.id, (0, 1), 1.0, 1.0, 1.0, 8, 1, 0.0)

    store = gather(Mended, [Sample("bad", BLANK, "?", ("!",))], tmp_path, again=True)
    assert len(store) == 2 and store.quarantine == {}


def test_a_run_in_which_most_fail_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="21 of 21 samples failed, so this run stops; .* no gold answer"):
        gather(Stub, Many(100, "bad"), tmp_path / "a")
    few = Many(5, "bad")
    with pytest.raises(ValueError, match="no gold answer"):
        gather(Stub, few, tmp_path / "b")
    with pytest.raises(ValueError, match="all 5 samples are in quarantine"):
        gather(Stub, few, tmp_path / "b")


def test_a_run_in_which_most_succeed_goes_on_past_the_tolerated_failures(tmp_path: Path) -> None:
    counts = {"good": 30, "bad": 25, "late": 5}
    names = [f"{kind}{n}" for kind, count in counts.items() for n in range(count)]
    samples = [Sample(name, BLANK, "?", ("!",)) for name in names]
    store = gather(Stub, samples, tmp_path)
    assert len(store) == 35 and len(store.quarantine) == 25 > campaign.TOLERATED


def test_samples_are_made_as_they_are_needed_and_labels_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Many(200)

    def stop(done: int, total: int) -> None:
        assert samples.made <= done + 1
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(Stub, samples, tmp_path, progress=stop)
    store = read_labels(tmp_path)
    assert len(store) == 100 and "s7" in store and "s170" not in store
    assert len(next(iter(store)).kept) == 2
    gather(Stub, samples, tmp_path)
    assert samples.made == 200  # those that are labelled are not made again


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    samples, fork = Many(2000), multiprocessing.get_context("fork")
    first = fork.Process(target=gather, args=(Stub, samples, tmp_path))
    first.start()
    while not list(tmp_path.glob("*.parquet")):
        time.sleep(0.01)
    with pytest.raises(ValueError, match=r"is being written to by process \d+ .* divide the samples"):
        gather(Stub, samples, tmp_path)
    first.kill()
    first.join()
    assert len(gather(Stub, Many(1), tmp_path)) > 1  # the lock died with its owner
    assert not list(tmp_path.glob(".*"))


def test_repeated_and_contradicting_labels_are_refused(tmp_path: Path) -> None:
    gather(Stub, Many(4), tmp_path / "a")
    shutil.copy(tmp_path / "a" / "labels-00000.parquet", tmp_path / "a" / "labels-00009.parquet")
    with pytest.raises(ValueError, match="sample 's0' has two labels"):
        read_labels(tmp_path / "a")
    assert len(merge([tmp_path / "a"], tmp_path / "merged")) == 4

    class Other(Stub):
        def __call__(self, sample: Sample) -> Label:
            return Label(sample.id, (0, 1), 1.0, 1.0, 1.0, 8, 1, 0.0)

    gather(Other, Many(4), tmp_path / "b")
    with pytest.raises(ValueError, match="two labels that differ in kept, loss_before"):
        merge([tmp_path / "merged", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="merged exists: choose a new folder"):
        merge([tmp_path / "b"], tmp_path / "merged")


def test_a_shard_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    gather(Stub, Many(4), tmp_path / "a")
    shard = tmp_path / "a" / "labels-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:4] + bytes(200) + whole[204:])  # its end, which tells what it holds, is sound
    with pytest.raises(ValueError, match=r"labels-00000.parquet: unreadable .* delete it to label"):
        merge([tmp_path / "a"], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_every_shard_says_which_run_wrote_it(tmp_path: Path) -> None:
    gather(Stub, Many(4), tmp_path, data={"turns": "first"}, workers=2, engine=Local())
    told = described(tmp_path / "labels-00000.parquet")
    assert told.settings.model_dump() == {"kind": "stub", "keep": 2, "turns": "first"}
    run = told.run
    assert run
    assert (run.engine, run.workers, run.machines, run.total) == ("local", 2, ("cpu",), 4)
    assert run.started <= run.written
    with pytest.raises(ValueError, match="turns is 'first' there and None here"):
        gather(Stub, Many(4), tmp_path)
