"""The losses against the authors' numbers (golden/ghmc.npz: mmdetection's GHM-C) and against one-line
algebra.

golden/losses_formula.npz was computed in float64 from the formulas in `compress/training/losses.py`, not
by any repository.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.training.losses import GHM, LOSSES, CrossEntropy, Focal, Listwise, cosine_loss, make_objective

GOLDEN = Path(__file__).parents[3] / "bench" / "fidelity" / "golden"


def cases(name: str) -> list[dict[str, torch.Tensor]]:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        found = []
        for i in range(int(archive["n_cases"])):
            prefix = f"case{i}/"
            keys = [key for key in archive.files if key.startswith(prefix)]
            found.append({key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in keys})
    return found


@pytest.mark.parametrize("case", cases("ghmc"), ids=["plain", "momentum", "two-columns"])
def test_ghm_equals_the_reference_over_successive_steps(case):
    loss_of, twin = (GHM(case["bins"].item(), case["momentum"].item()) for _ in range(2))
    for step in range(len(case["logits"])):
        logits = case["logits"][step].clone().requires_grad_()
        targets, valid = case["targets"][step], case["valid"][step] > 0
        tally = twin.tally(logits, targets, valid)
        twin.advance(tally)
        weights = twin.weights(logits, targets, valid, tally)
        torch.testing.assert_close(weights, case["weights"][step], rtol=1e-4, atol=1e-4)
        loss = loss_of(logits, targets, valid)
        loss.backward()
        torch.testing.assert_close(loss.detach(), case["loss"][step], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits.grad, case["grad_logits"][step], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss_of.counts, case["acc_sum_after"][step], rtol=1e-5, atol=1e-5)


def test_ghm_by_all_bins_is_the_paper_formula():
    generator = torch.Generator().manual_seed(0)
    logits, targets = (
        torch.randn(200, generator=generator),
        (torch.rand(200, generator=generator) < 0.2).float(),
    )
    norm = (logits.sigmoid() - targets).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    regions = (norm * 20).floor()
    expected = sum(entropy[regions == b].mean() for b in regions.unique()) / 20  # (1/M) sum of bin means
    everything = torch.ones(200, dtype=torch.bool)
    by_all = GHM(20, normalise_by="bins")(logits, targets, everything)
    torch.testing.assert_close(by_all, expected)
    # Without empty regions the default would be equal; with them it is larger, and lambda weighs less.
    occupied = len(regions.unique())
    assert occupied < 20
    torch.testing.assert_close(GHM(20)(logits, targets, everything), by_all * 20 / occupied)


@pytest.mark.parametrize("case", cases("losses_formula"), ids=["standard", "other"])
def test_focal_and_cosine_equal_their_formulas(case):
    logits, labels = case["logits"][None], case["labels"][None]
    alpha, gamma = case["focal_alpha"].item(), case["focal_gamma"].item()
    everything = torch.ones_like(labels, dtype=torch.bool)
    mean = Focal(alpha, gamma)(logits, labels, everything)
    per_positive = Focal(alpha, gamma, "positives")(logits, labels, everything)
    assert mean.item() == pytest.approx(case["focal_mean"].item(), rel=1e-5)
    assert per_positive.item() == pytest.approx(case["focal_sum_over_num_positives"].item(), rel=1e-5)
    cosine = cosine_loss(case["representations"][None], labels > 0, everything)
    assert cosine.item() == pytest.approx(case["cosine_loss"].item(), abs=1e-6)


def test_cosine_loss_is_minus_one_for_opposite_sides_and_zero_for_an_empty_side():
    hidden = torch.tensor([[[1.0, 0], [2, 0], [-3, 0]], [[1, 0], [0, 1], [1, 1]]])
    valid = torch.ones(2, 3, dtype=torch.bool)
    kept = torch.tensor([[True, True, False], [True, True, True]])
    assert cosine_loss(hidden, kept, valid).item() == pytest.approx((-1 + 0) / 2)


def test_listwise_is_least_when_the_logits_rank_as_the_targets():
    targets, valid = torch.tensor([[1.0, 0.5, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    best = torch.tensor([[2 / 3, 1 / 3, 1e-9]]).log()
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert Listwise()(best, targets, valid).item() == pytest.approx(entropy, rel=1e-5)
    assert Listwise()(best.flip(-1), targets, valid) > Listwise()(best, targets, valid)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_neither_loss_nor_gradient(name):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 6, 4, generator=generator)
    kept = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]]).bool()
    results = []
    for pad in (0, 3):
        logits = F.pad(hidden.sum(-1), (0, pad), value=5.0).requires_grad_()
        valid = F.pad(torch.ones(2, 6), (0, pad)).bool()
        label = F.pad(kept, (0, pad), value=True)
        loss = make_objective(name, bins=10)(
            logits, F.pad(hidden, (0, 0, 0, pad), value=1.0), label.float(), label, valid
        )
        loss.backward()
        assert logits.grad[:, 6:].abs().sum() == 0
        results.append((loss.detach(), logits.grad[:, :6]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up_to_the_loss_of_the_batch(name, momentum):
    """Parts of very different samples, each of which alone would weigh its tokens otherwise."""
    generator = torch.Generator().manual_seed(2)
    easy = torch.tensor([6.0, 0.1, 3.0, 1.0, 0.2])[:, None]
    kept = torch.rand(5, 7, generator=generator) < 0.3
    kept[2] = False  # nothing to rank, nothing to separate
    valid = torch.arange(7) < torch.tensor([7, 4, 7, 5, 6])[:, None]
    hidden = torch.randn(5, 7, 4, generator=generator)
    whole, parts = (make_objective(name, bins=10, momentum=momentum) for _ in range(2))
    for _ in range(2):
        logits, twin = (((kept * 2 - 1) * easy).requires_grad_() for _ in range(2))
        loss = whole(logits, hidden, kept.float(), kept, valid)
        loss.backward()
        cuts = [slice(0, 1), slice(1, 1), slice(1, 3), slice(3, 5)]
        tally = sum(parts.tally(twin[cut], kept[cut].float(), valid[cut]) for cut in cuts)
        assert tally.equal(whole.tally(logits, kept.float(), valid))
        parts.advance(tally)
        shares = [
            parts.part(twin[cut], hidden[cut], kept[cut].float(), kept[cut], valid[cut], tally)
            for cut in cuts
        ]
        sum(shares).backward()
        torch.testing.assert_close(sum(shares), loss)
        torch.testing.assert_close(twin.grad, logits.grad)


def test_cross_entropy_is_the_plain_mean():
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    expected = (np.log(2) + np.log(1 + np.e**2)) / 2
    assert CrossEntropy()(logits, targets, targets >= 0).item() == pytest.approx(expected, rel=1e-6)


def test_unknown_loss_names_the_neighbour():
    with pytest.raises(ValueError, match="did you mean 'ghm"):
        make_objective("ghm+co")
