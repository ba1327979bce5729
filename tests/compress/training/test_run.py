"""Training on a planted rule: the words of the question name what to keep, and only examples say how."""

import csv
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaModel

from compress.base import View
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import CONFIG, WEIGHTS, Compressor, Tokens
from compress.labels import Label, LabelConfig, label
from compress.models.loading import Embedded
from compress.parallel.processes import Processes
from compress.samples import Sample
from compress.training.examples import collect
from compress.training.features import InMemory
from compress.training.losses import LOSSES
from compress.training.run import CHECKPOINT, CURVES, PICTURE, TrainConfig, preset, train

WIDTH, VISUAL, THINGS = 32, 24, 4
QUICK = TrainConfig(epochs=3, batch=16)
Pair = tuple[torch.Tensor, torch.Tensor]


class Planted:
    """Just enough of an adapter: image s shows things as tokens, question "thing 2" is one word embedding
    after them.
    """

    name, processor, image_side = "planted", None, 8

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=32
        )
        self.decoder = LlamaModel(config)
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.looks, self.words = torch.randn(THINGS, WIDTH), torch.randn(THINGS, WIDTH)

    def fingerprint(self) -> str:
        return "planted"

    def shows(self, image: Image.Image) -> torch.Tensor:
        generator = torch.Generator().manual_seed(image.getpixel((0, 0))[0] * 256 + image.getpixel((0, 0))[1])
        return torch.randint(THINGS, (VISUAL,), generator=generator)

    def embed(self, image: Image.Image, question: str) -> Embedded:
        things = self.shows(image)
        generator = torch.Generator().manual_seed(int(things.sum()))
        visual = self.looks[things] + 0.3 * torch.randn(VISUAL, WIDTH, generator=generator)
        word = self.words[int(question.split()[1])]
        rows = torch.cat([torch.ones(1, WIDTH), visual, word[None]])
        nothing = torch.empty(0, dtype=torch.long)
        place = torch.arange(len(rows))
        return Embedded(rows, torch.arange(1, 1 + VISUAL), len(rows), nothing, (4, 6), place)


def lessons(mllm: Planted, first: int, count: int) -> tuple[list[Sample], list[Label]]:
    samples, labels = [], []
    for number in range(first, first + count):
        image = Image.new("RGB", (1, 1), (number // 256, number % 256, 0))
        thing = number % THINGS
        there = mllm.shows(image) == thing
        if not there.any():
            continue
        samples.append(Sample(str(number), image, f"thing {thing}", ("yes",)))
        kept = tuple(there.nonzero()[:, 0].tolist())
        score = tuple((there.float() - 0.5).tolist())
        labels.append(Label(str(number), kept, 1.0, 0.1, 0.1, 10, 0, 0.0, score))
    return samples, labels


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def few(planted) -> tuple[list[Sample], list[Label]]:
    return lessons(planted, 0, 40)


def auc(mllm: Planted, compressor: Compressor) -> float:
    """Mean AUC over samples that training never saw."""
    samples, labels = lessons(mllm, 5000, 60)
    values = []
    for sample, one in zip(samples, labels, strict=True):
        embedded = mllm.embed(sample.image, sample.question)
        text = embedded.embeds[[0, -1]]
        scores = compressor.score(Tokens(embedded.embeds[embedded.visual], text, 1))
        truth = [place in one.kept for place in range(VISUAL)]
        if not all(truth):
            values.append(roc_auc_score(truth, scores))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "list", "target": "lead"}, {"loss": "focal+cos", "norm": True}],
    ids=["paper", "soft", "focal"],
)
def test_compressor_learns_a_planted_rule(planted, tmp_path, options):
    samples, labels = lessons(planted, 0, 400)
    config = TrainConfig(epochs=24, batch=32, **options)
    result = train(planted, labels, samples, tmp_path, config)
    assert auc(planted, result.compressor) > 0.95
    assert result.best.score > 0.9  # share of held-out labels found


def test_scores_grade_kept_tokens_by_their_lead(planted):
    samples, _ = lessons(planted, 0, 1)
    score = (0.4, 0.9, 0.2, 0.1, *[-1.0] * (VISUAL - 4))
    one = Label(samples[0].id, (0, 1), 1.0, 0.1, 0.1, 10, 0, 0.0, score)
    wanted = {"lead": [0.2 / 0.7, 1.0, 0.0], "label": [1.0, 1.0, 0.0], "score": [0.4 / 0.9, 1.0, 0.2 / 0.9]}
    for target, expected in wanted.items():
        examples = collect(
            [one], samples, InMemory(planted), target=target, processes=Processes(),
            progress=lambda *_: None, say=lambda text: None,
        )  # fmt: skip
        (found,) = examples.lesson([0], text=True).targets
        assert found[:3].tolist() == pytest.approx(expected)
        assert target == "score" or found[2:].sum() == 0
        assert found[4:].sum() == 0  # nothing below zero


def test_without_text_the_rule_cannot_be_learned(planted, tmp_path):
    samples, labels = lessons(planted, 0, 400)
    result = train(planted, labels, samples, tmp_path, TrainConfig(epochs=24, batch=32, text=False))
    assert auc(planted, result.compressor) < 0.75


def test_the_best_epoch_is_the_one_that_stays(planted, few, tmp_path):
    samples, labels = few
    scores = iter([0.2, 0.9, 0.4])
    seen: list[torch.Tensor] = []

    def validate(compressor: Compressor) -> float:
        seen.append(compressor.head.weight.detach().clone())
        return next(scores)

    result = train(planted, labels, samples, tmp_path, QUICK, validate=validate)
    assert result.best.epoch == 2
    assert torch.equal(result.compressor.head.weight, seen[1])
    assert torch.equal(Compressor.load(tmp_path).head.weight, seen[1])
    with (tmp_path / CURVES).open() as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [0.2, 0.9, 0.4]
    assert Image.open(tmp_path / PICTURE).size[0] > 100
    assert json.loads((tmp_path / CONFIG).read_text())["info"]["epoch"] == 2


def weights(compressor: Compressor) -> list[torch.Tensor]:
    return list(compressor.state_dict().values())


def same(one: Compressor, other: Compressor) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_same_seed_same_weights_whatever_the_order_of_the_samples(planted, few, tmp_path):
    samples, labels = few
    one = train(planted, labels, samples, tmp_path / "1", QUICK)
    other = train(planted, labels[::-1], samples[::-1], tmp_path / "2", QUICK)
    third = train(planted, labels, samples, tmp_path / "3", replace(QUICK, seed=1))
    assert same(one.compressor, other.compressor)
    assert not same(one.compressor, third.compressor)


def test_of_equal_epochs_the_earliest_stays(planted, few, tmp_path):
    samples, labels = few
    scores, seen = iter([0.2, 0.9, 0.9]), []

    def validate(compressor: Compressor) -> float:
        seen.append(compressor.head.weight.detach().clone())
        return next(scores)

    result = train(planted, labels, samples, tmp_path, QUICK, validate=validate)
    assert result.best.epoch == json.loads((tmp_path / CONFIG).read_text())["info"]["epoch"] == 2
    assert torch.equal(result.compressor.head.weight, seen[1]) and not torch.equal(seen[1], seen[2])


def moved(
    planted: Planted, few: tuple[list[Sample], list[Label]], folder: Path, **options: Any
) -> list[Pair]:
    """Every weight before and after a single step, which has no cosine schedule yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = Compressor.from_decoder(planted.decoder)
    samples, labels = few
    config = TrainConfig(epochs=1, batch=len(samples), loss="ce", **options)
    result = train(planted, labels, samples, folder, config, validate=lambda compressor: 1.0)
    return list(zip(weights(start), weights(result.compressor), strict=True))


def test_weight_decay_pulls_weights_to_zero(planted, few, tmp_path):
    """So large a decay is all of the gradient, and the first step of Adam is lr towards its sign."""
    for before, after in moved(planted, few, tmp_path, weight_decay=1e9):
        torch.testing.assert_close(after, before - 0.003 * before.sign(), atol=1e-5, rtol=0)


def test_gradients_are_clipped_to_the_norm(planted, few, tmp_path):
    """Below Adam's epsilon of 1e-8 a gradient moves nothing."""
    still = moved(planted, few, tmp_path / "clipped", clip=1e-13)
    free = moved(planted, few, tmp_path / "free", clip=1e13)
    assert max(float((after - before).abs().max()) for before, after in still) < 1e-6
    assert max(float((after - before).abs().max()) for before, after in free) > 0.002


def test_the_rate_rises_over_the_warm_up_and_falls_in_a_cosine(planted, few, tmp_path):
    config = TrainConfig(lr=1.0, warmup=0.5)
    rates = [config.rate(step, 8) for step in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    samples, labels = few
    quick = replace(QUICK, batch=len(samples), lr=0.004, warmup=0.6)
    result = train(planted, labels, samples, tmp_path / "run", quick, validate=lambda compressor: 1.0)
    assert [epoch.rate for epoch in result.history] == pytest.approx([0.002, 0.004, 0.004])
    ((before, after), *_) = moved(planted, few, tmp_path / "step", warmup=0.6, weight_decay=1e9, lr=0.004)
    torch.testing.assert_close(after, before - 0.004 * before.sign(), atol=1e-5, rtol=0)


@pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="this build of torch trains in no process forked after training"
)
@pytest.mark.parametrize(
    ("step", "momentum"), [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.5), (8, 0.5), (9, 0.0), (11, 0.0)]
)
def test_a_run_killed_at_any_step_resumes_bit_for_bit(planted, few, tmp_path, step, momentum):
    """Three steps an epoch and a checkpoint every two: before and after a checkpoint, and between epochs."""
    samples, labels = few
    config = replace(QUICK, epochs=4, momentum=momentum)

    def rising(compressor: Compressor) -> float:
        return float(compressor.head.weight.detach().abs().sum())

    whole = train(planted, labels, samples, tmp_path / "whole", config, validate=rising)

    def run(progress) -> None:
        train(
            planted, labels, samples, tmp_path / "cut", config, validate=rising, progress=progress,
            checkpoint_every=2,
        )  # fmt: skip

    def kill(stage: str, done: int, total: int) -> None:
        assert total == (12 if stage == "train" else len(samples))
        if (stage, done) == ("train", step):
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=run, args=(kill,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "cut" / PICTURE).exists()
    taken: list[int] = []
    run(lambda stage, done, total: taken.append(done) if stage == "train" else None)
    checkpointed = max(done for done in range(step + 1) if done % 2 == 0 or (done % 3 == 0 and done < step))
    assert taken == list(range(checkpointed + 1, 13))
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    resumed = train(planted, labels, samples, tmp_path / "cut", config, validate=rising)  # nothing to do
    assert same(resumed.compressor, whole.compressor)
    assert [(e.loss, e.score) for e in resumed.history] == [(e.loss, e.score) for e in whole.history]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == sorted(
        [CHECKPOINT, CONFIG, WEIGHTS, CURVES, PICTURE]
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_in_parts_is_one_step(planted, few, tmp_path, loss):
    samples, labels = few
    config = replace(QUICK, loss=loss, batch=7, epochs=2, momentum=0.5, clip=1.0)
    whole = train(planted, labels, samples, tmp_path / "whole", config)
    parts = train(planted, labels, samples, tmp_path / "parts", config, micro_batch=3)
    ours, theirs = (one.compressor.state_dict() for one in (whole, parts))
    if "list" in loss:  # a softmax does not see the bias: Adam makes steps of rounding errors
        ours["head.bias"] = theirs["head.bias"]
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    assert [epoch.loss for epoch in parts.history] == pytest.approx([epoch.loss for epoch in whole.history])


def test_numpys_numbers_are_settings_that_a_run_resumes_with(planted, few, tmp_path):
    """As from a sweep over np.logspace: checkpoints and JSON hold Python's own numbers only."""
    samples, labels = few
    given = TrainConfig(
        epochs=np.int64(1), batch=16, lr=np.logspace(-3, -2, 2)[0], lambda_cos=np.float32(0.5),
        text=np.True_, seed=np.int64(1),
    )  # fmt: skip
    assert given == TrainConfig(epochs=1, batch=16, lr=0.001, lambda_cos=0.5, seed=1)
    first = train(planted, labels, samples, tmp_path, given)
    assert train(planted, labels, samples, tmp_path, given).history == first.history


def test_the_papers_settings_have_names():
    assert preset("llava-1.5-7b").batch == 256
    for name, (bins, batch) in {"llava-next-7b": (150, 32), "qwen2.5-vl-7b": (150, 48)}.items():
        assert preset(name) == TrainConfig(
            loss="ghm+cos", lambda_cos=1.0, bins=bins, batch=batch, epochs=30, lr=0.003, warmup=0.0
        )
    with pytest.raises(ValueError, match="unknown preset 'llava-1.5-13b'; choose one of llava-1.5-7b"):
        preset("llava-1.5-13b")


def test_another_run_in_the_folder_is_refused_and_the_difference_named(planted, few, tmp_path, monkeypatch):
    samples, labels = few
    train(planted, labels, samples, tmp_path, QUICK)
    with pytest.raises(ValueError, match="lr is 0.003 there and 0.1 here"):
        train(planted, labels, samples, tmp_path, replace(QUICK, lr=0.1))
    with pytest.raises(ValueError, match="data is .* there"):
        train(planted, labels[:20], samples, tmp_path, QUICK)
    with monkeypatch.context() as patched:
        patched.setattr("compress.training.run.fingerprint", lambda *starts: "other")
        with pytest.raises(ValueError, match="was made by other code than this version's"):
            train(planted, labels, samples, tmp_path, QUICK)
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=f"{CHECKPOINT}: unreadable"):
        train(planted, labels, samples, tmp_path, QUICK)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="compressor of another origin"):
        train(planted, labels, samples, tmp_path, replace(QUICK, lr=0.1))


def test_a_loss_that_is_not_a_number_ends_training(planted, few, tmp_path):
    samples, labels = few
    with pytest.raises(ValueError, match="the loss became nan; choose a smaller lr"):
        train(planted, labels, samples, tmp_path, replace(QUICK, lr=1e20))
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_bad_data_and_settings_are_refused(planted, few, tmp_path):
    samples, labels = few
    with pytest.raises(ValueError, match="none of the samples has one of the 2 labels"):
        train(planted, labels[:2], samples[5:8], tmp_path, QUICK)
    with pytest.raises(ValueError, match="does not fit the model's 24 visual tokens"):
        train(planted, [replace(one, kept=(0, 30)) for one in labels], samples, tmp_path, QUICK)
    with pytest.raises(ValueError, match="no scores; train with target=label"):
        train(
            planted,
            [replace(one, score=None) for one in labels],
            samples,
            tmp_path,
            replace(QUICK, target="lead"),
        )
    with pytest.raises(ValueError, match="did you mean 'ghm"):
        TrainConfig(loss="ghm-cos")
    with pytest.raises(ValueError, match="epochs=0"):
        TrainConfig(epochs=0)


def test_labels_of_a_model_train_a_compressor_that_scores_its_views(tiny, pictures, tmp_path):
    samples = [
        Sample(f"s{i}", picture, "what color is the circle ?", ("red",)) for i, picture in enumerate(pictures)
    ]
    made = label(tiny, samples, tmp_path / "labels", LabelConfig(kind="attribution", evaluations=48))
    result = train(tiny, made, samples, tmp_path / "compressor", replace(QUICK, target="lead", batch=2))
    assert result.samples == 4 - 1  # one is held out
    embedded = tiny.embed(pictures[0], "what color is the circle ?")
    text = torch.ones(embedded.prompt, dtype=torch.bool).index_fill(0, embedded.visual, False)
    before = int(embedded.visual[0])
    view = View(0, embedded.embeds[embedded.visual], embedded.embeds[embedded.visual], embedded.embeds[text],
                torch.arange(144), embedded.grid, before=before)  # fmt: skip
    method = EvoComp(str(tmp_path / "compressor"))
    kept = method.select(view, 16).index
    assert len(kept) == 16
    assert torch.equal(method.score(view), result.compressor.score(Tokens(view.visual, view.text, before)))
    with pytest.raises(ValueError, match="no compressor here"):
        EvoComp(str(tmp_path)).score(view)


@pytest.mark.parametrize("setting", ["lr", "weight_decay", "lambda_cos", "momentum", "warmup", "clip"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_not_finite_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting}={value}: choose a finite number"):
        TrainConfig(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_weights_that_give_no_finite_logits_are_never_saved(
    value: float, planted, few, tmp_path, monkeypatch
) -> None:
    samples, labels = few
    one_step = replace(QUICK, epochs=1, batch=len(samples))

    def spoil(optimizer: torch.optim.Adam) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data[:] = value

    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    with pytest.raises(ValueError, match="epoch 1: weights or logits are not finite numbers"):
        train(planted, labels, samples, tmp_path, one_step, validate=lambda _: 1.0)
    assert not (tmp_path / WEIGHTS).exists()


def test_moments_of_another_shape_are_refused_before_the_first_step(planted, few, tmp_path) -> None:
    samples, labels = few

    def stop(compressor: Compressor) -> float:
        raise KeyboardInterrupt

    scores = iter([lambda _: 1.0, stop])
    with pytest.raises(KeyboardInterrupt):
        train(
            planted, labels, samples, tmp_path, replace(QUICK, epochs=2), validate=lambda c: next(scores)(c)
        )
    path = tmp_path / CHECKPOINT
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"{CHECKPOINT}: it does not fit this training \(exp_avg is \[3\]"):
        train(planted, labels, samples, tmp_path, replace(QUICK, epochs=2), validate=lambda _: 1.0)


def test_a_changed_checkpoint_is_refused_in_one_line(planted, few, tmp_path) -> None:
    samples, labels = few
    config = replace(QUICK, epochs=1)
    train(planted, labels, samples, tmp_path, config, validate=lambda _: 1.0)
    path = tmp_path / CHECKPOINT
    sound = torch.load(path, weights_only=True)
    row = sound["history"][0]
    changes: list[Any] = [
        [], None, 3, {}, {**sound, "history": None}, {**sound, "history": [[1]]},
        {**sound, "history": [*sound["history"], row]},
        {**sound, "history": [(1, 0.1, float("nan"), 1.0, 1.0)]},
        {**sound, "losses": [0.5]}, {**sound, "losses": ["a"]}, {**sound, "settings": []},
        {**sound, "history": []},
        {**sound, "history": [], "compressor": [], "objective": {}, "optimizer": {}},
    ]  # fmt: skip
    for content in changes:
        torch.save(content, path)
        with pytest.raises(ValueError) as caught:
            train(planted, labels, samples, tmp_path, config, validate=lambda _: 1.0)
        said = str(caught.value)
        assert type(caught.value) is ValueError and CHECKPOINT in said, said
        assert "\n" not in said and len(said) < 500
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{CHECKPOINT}: this is a FIFO"):
        train(planted, labels, samples, tmp_path, config, validate=lambda _: 1.0)
