from __future__ import annotations

import pytest
import torch

from baselines.peaks import density_peaks
from evosearch.groupers import dpc_knn


def test_two_clumps_are_two_clusters():
    generator = torch.Generator().manual_seed(0)
    clumps = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 9.0]]).repeat_interleave(6, 0)
    points = clumps + 0.1 * torch.randn(18, 2, generator=generator)
    _, assignment = density_peaks(points, 3, 3)
    assert [len(set(part.tolist())) for part in assignment.split(6)] == [1, 1, 1]
    assert len(set(assignment.tolist())) == 3


def test_a_centre_belongs_to_its_own_cluster_even_among_duplicates():
    centres, assignment = density_peaks(torch.zeros(5, 2), 2, 2)
    assert assignment[centres].tolist() == [0, 1]


@pytest.mark.parametrize(("points", "clusters", "neighbours"), [(22, 3, 3), (83, 9, 7), (154, 16, 4)])
def test_clusters_are_those_of_the_reference(points: int, clusters: int, neighbours: int):
    generator = torch.Generator().manual_seed(points)
    given, noise = torch.randn(points, 8, generator=generator), torch.rand(points, generator=generator)
    for jitter in (None, noise):
        reference = dpc_knn(given.numpy(), clusters, neighbours, None if jitter is None else jitter.tolist())
        centres, assignment = density_peaks(given, clusters, neighbours, jitter)
        assert centres.tolist() == reference.centres.tolist()
        assert assignment.tolist() == reference.assignment.tolist()
