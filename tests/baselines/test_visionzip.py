from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.visionzip import VisionZip
from compress.attach.session import attach
from compress.base import VISION, View
from compress.models.loading import MLLM

GOLDEN = np.load(
    Path(__file__).parents[2] / "bench" / "fidelity" / "golden" / "visionzip.npz"
)  # dvlab-research/VisionZip, executed


@pytest.mark.parametrize("case", range(int(GOLDEN["n_cases"])))
def test_it_keeps_and_merges_as_the_official_code(case: int):
    data = {
        name.split("/")[1]: torch.as_tensor(GOLDEN[name])
        for name in GOLDEN
        if name.startswith(f"case{case}/")
    }
    dominant, contextual = data["num_dominant"].item(), data["num_contextual"].item()
    for sample in range(len(data["hidden_states"])):
        hidden = data["hidden_states"][sample]
        attention = data["cls_attention"][sample, :, 1:]
        keys = data["key_metric"][sample, 1:]
        zipped = VisionZip.zip(attention.sum(0), keys, hidden[1:], dominant, contextual)
        kept = torch.cat([torch.tensor([0]), zipped.dominant + 1])  # counted with CLS as position 0
        assert torch.equal(kept, data["kept_dominant_positions"][sample])
        assert torch.equal(zipped.targets + 1, data["contextual_target_positions"][sample])

        view = View(
            depth=VISION,
            hidden=hidden[1:],
            visual=torch.empty(0),
            text=torch.empty(0),
            index=torch.arange(len(hidden) - 1),
            grid=(1, len(hidden) - 1),
            cls_token=hidden[:1],
            cls=lambda layer, attention=attention: attention,
            keys=lambda layer, keys=keys: keys[:, None],
        )
        keep = dominant + contextual
        selection = VisionZip(contextual=contextual / keep).select(view, keep)
        assert selection.index.tolist() == [-1, *zipped.dominant.tolist(), *zipped.targets.tolist()]
        torch.testing.assert_close(selection.tokens, data["output_tokens"][sample], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("keep", "contextual"), [(192, 30), (128, 20), (64, 10)])
def test_budgets_split_as_published(keep: int, contextual: int):
    hidden = torch.randn(576, 8, generator=torch.Generator().manual_seed(0))
    view = View(
        depth=VISION,
        hidden=hidden,
        visual=torch.empty(0),
        text=torch.empty(0),
        index=torch.arange(576),
        grid=(24, 24),
        cls_token=hidden[:1],
        cls=lambda layer: hidden[:, :4].T,
        keys=lambda layer: hidden[:, None],
    )
    selection = VisionZip().select(view, keep)
    assert selection.tokens is not None and len(selection.index) == keep
    changed = (selection.tokens[1:] != hidden[selection.index[1:]]).any(1)
    assert changed.sum() == contextual and changed[-contextual:].all()


def test_a_contextual_token_is_its_target_plus_the_mean_of_its_group():
    attention = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0])
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]])
    features = torch.arange(5.0)[:, None]
    zipped = VisionZip.zip(attention, keys, features, dominant=2, contextual=2)
    assert zipped.dominant.tolist() == [0]
    assert zipped.targets.tolist() == [1, 3]  # every second of 1, 2, 3, 4
    assert zipped.merged.tolist() == [[1 + (2 + 4) / 2], [3.0]]


def test_the_decoder_gets_cls_dominant_and_contextual_tokens(tiny: MLLM, pictures):
    with attach(tiny, VisionZip(), 64) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
    (record,) = trace.samples
    kept, merged = record.kept[VISION], record.merged[VISION]
    assert record.entering == [64] * 6
    assert kept[0] == -1 and kept[1:54] == sorted(kept[1:54]) and kept[54:] == sorted(kept[54:])
    assert merged[:54] == [True] + [False] * 53 and any(merged[54:])  # a target may have no followers


def test_positions_are_contiguous():
    assert VisionZip().positions == "compact"


def test_a_tower_without_cls_is_refused():
    hidden = torch.zeros(4, 2)
    view = View(VISION, hidden, hidden, hidden, torch.arange(4), (2, 2))
    with pytest.raises(ValueError, match="needs a vision tower with a CLS token"):
        VisionZip().select(view, 2)


def test_tiles_are_compressed_one_by_one_in_the_official_order(tiny_next: MLLM, pictures):
    inputs = tiny_next.prepare(pictures[:1], ["how many ?"])
    (picture,) = tiny_next.pictures(inputs)
    with attach(tiny_next, VisionZip(), 42) as trace, torch.no_grad():
        tiny_next.model(**inputs)
    (record,) = trace.samples
    kept = record.kept[VISION]
    assert record.entering == [42] * 6 and picture.tiles == 5
    tiles = [int(picture.tile[index]) if index >= 0 else None for index in kept]
    # 42 = 9 + 9 + 8 + 8 + 8: of each CLS, 7 or 6 dominant ones and 1 contextual
    assert tiles[:9] == [None] + [0] * 8 and kept[1:8] == sorted(kept[1:8])
    dominant = kept[9:34]
    assert dominant == sorted(dominant)
    assert [tiles[9:34].count(tile) for tile in (1, 2, 3, 4)] == [7, 6, 6, 6]
    assert kept[34:38] == [-1] * 4 and tiles[38:] == [1, 2, 3, 4]


@pytest.mark.parametrize("keep", [1, 3, 5, 7])
def test_tiles_share_a_budget_smaller_than_their_number(tiny_next: MLLM, pictures, keep: int):
    inputs = tiny_next.prepare([pictures[0].resize((192, 192))], ["what color is the star ?"])
    with attach(tiny_next, VisionZip(), keep, match="tokens") as trace, torch.no_grad():
        tiny_next.model(**inputs)
    assert set(trace.samples[0].entering) == {keep}


def test_a_budget_of_one_token_is_cls():
    assert [VisionZip(contextual=0.9).split(keep) for keep in (1, 2, 10)] == [(1, 0), (1, 1), (1, 9)]


@pytest.mark.parametrize("share", [-1, 1, 1.5])
def test_shares_that_make_no_sense_are_refused(share: float):
    with pytest.raises(ValueError, match="contextual="):
        VisionZip(contextual=share)
