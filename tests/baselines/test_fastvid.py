from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baselines.fastvid import FastVID, Shares
from tests.baselines.clips import clip


def test_segments_end_where_frames_differ_and_at_the_least_similar_pairs():
    degrees = torch.tensor([0.0, 5.0, 60.0, 62.0, 63.0, 100.0])
    features = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)
    assert FastVID(segments=1).lengths(features) == [2, 3, 1]
    assert FastVID(segments=4).lengths(features) == [1, 1, 3, 1]
    assert FastVID(segments=1, threshold=0.0).lengths(features) == [6]
    assert FastVID(segments=9).lengths(features) == [1] * 6  # more than there are pairs


def test_every_fourth_frame_from_the_last_holds_what_is_merged():
    shares = FastVID().budget([5, 1, 4], places=20, share=10)
    assert shares == Shares([6] * 10, [10, 0, 0, 0, 10, 4, 0, 0, 0, 14], 4)  # 14 of 16, as 6 are salient


@pytest.mark.parametrize("lengths", [[4], [1, 1, 1, 1], [3, 1], [2, 2]])
def test_budgets_that_the_code_can_spend_are_spent_as_it_does(lengths: list[int]):
    method = FastVID()
    for share in range(1, 12):
        official = method.budget(lengths, 24, share)
        keep = sum(official.salient) + sum(official.centres)
        assert method.solved(lengths, 24, keep) == official


def test_what_rounding_leaves_goes_to_salient_tokens_one_per_frame():
    found = FastVID().solved([2, 2], 12, 14)
    assert FastVID().budget([2, 2], 12, 3).salient == [2] * 4
    assert found.salient == [2, 3, 2, 3] and found.centres == [0, 2, 0, 2] and found.alone == 1


def test_a_centre_is_merged_with_its_like_in_the_whole_segment():
    frames = torch.zeros(2, 3, 2)
    frames[:, 0] = torch.tensor([9.0, 9.0])  # salient
    frames[:, 1:] = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 5.0]]])
    attention = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    kept, tokens, into = FastVID.merged(frames, attention, [2], Shares([1, 1], [0, 2], 1), 0.6)
    assert kept.tolist() == [0, 3, 4, 5]
    # the target weighs 0.6, the mean of its members, itself among them, 0.4
    torch.testing.assert_close(tokens, torch.tensor([[9.0, 9], [9, 9], [2.6, 0], [0, 4.2]]))
    assert into.tolist() == [0, 2, 3, 1, 2, 3]


def test_frames_with_as_many_centres_as_one_alone_are_merged_alone():
    frames = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    attention = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    _, tokens, into = FastVID.merged(frames, attention, [2], Shares([1, 1], [0, 1], 1), 0.6)
    assert into.tolist() == [0, -1, -1, 1, 2, 2] and len(tokens) == 3


def test_the_most_attended_tokens_of_the_pooling_head_are_salient():
    view = clip()
    attention = torch.rand(48, generator=torch.Generator().manual_seed(1))
    features = torch.eye(4)
    seen = replace(view, probe=lambda: (features, attention))
    index = FastVID(context=0.0).select(seen, 8).index
    assert index.tolist() == sorted(
        12 * frame + place
        for frame in range(4)
        for place in attention[12 * frame : 12 * frame + 12].topk(2).indices.tolist()
    )


def test_without_a_pooling_head_it_says_what_to_do():
    view = clip()
    missing = type(view)(**{**vars(view), "probe": type(view).__dataclass_fields__["probe"].default})
    with pytest.raises(ValueError, match="fastvid reads the pooling head .*choose signal=keys"):
        FastVID().select(missing, 8)
    assert len(FastVID(signal="keys").select(missing, 8).index) == 8
    assert FastVID().tower_layers == () and FastVID(signal="keys").tower_layers == (-1,)


def test_keys_are_asked_by_the_mean_query_of_their_frame():
    view = clip()
    _, attention = FastVID(signal="keys").signals(view, torch.arange(48).view(4, 12))
    keys, queries = view.keys(-1)[12:24], view.queries(-1)[12:24].mean(0)
    expected = torch.stack([(keys[:, head] @ queries[head] / 8**0.5).softmax(0) for head in (0, 1)]).mean(0)
    torch.testing.assert_close(attention[1], expected)
