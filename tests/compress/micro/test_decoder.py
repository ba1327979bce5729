"""Thinned scenes: what the last course shows of an image."""

import torch

from compress.micro.decoder import thin

OWNER = torch.tensor([[-1] * 100 + [0] * 30 + [1] * 13 + [2]]).expand(400, -1)


def seen(share: float) -> torch.Tensor:
    return thin(OWNER, share, torch.Generator().manual_seed(1))


def test_no_scene_is_thinned_at_share_zero():
    assert seen(0.0).all()


def test_everything_that_is_there_stays_visible():
    kept = seen(1.0)
    for thing in (-1, 0, 1, 2):
        assert (kept & (thing == OWNER)).any(1).all()


def test_each_thing_has_a_share_of_its_own_from_nearly_nothing_to_nearly_all():
    kept = seen(1.0)
    behind, thing = kept[:, :100].float().mean(1), kept[:, 100:130].float().mean(1)
    for part in (behind, thing):
        assert part.min() < 0.1 and part.max() > 0.9 and 0.4 < part.mean() < 0.6
    assert torch.corrcoef(torch.stack([behind, thing]))[0, 1].abs() < 0.2


def test_the_share_of_thinned_scenes_is_as_asked():
    assert 0.2 < (~seen(0.3).all(1)).float().mean() < 0.4
