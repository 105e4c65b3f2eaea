"""Counts that the original programs round, floor or break ties of, against plain arithmetic."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from every import item

import lftr
from lftr.methods.operations.apportion import CEILED, ROUNDED, apportion
from lftr.methods.operations.density import peak_scores
from lftr.methods.operations.segments import still_windows


def plain_peaks(x, count, neighbours):
    """The density peaks of ``(N, C)`` by two loops."""
    distance = torch.cdist(x.double(), x.double()) / x.shape[1] ** 0.5
    density = [math.exp(-float(row.sort().values[:neighbours].square().mean())) for row in distance]
    score = []
    for i, row in enumerate(distance):
        denser = [float(row[j]) for j in range(len(x)) if density[j] > density[i]]
        score.append(density[i] * min(denser, default=float(row.max())))
    return sorted(sorted(range(len(x)), key=lambda i: -score[i])[:count])


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1 / 3, 0.9])
def test_halves_are_rounded_as_programs_round_them(factor):
    sizes = torch.tensor([[5, 7, 6, 9, 2, 11]])
    wanted = [round(size * factor) for size in sizes[0].tolist()]
    assert apportion(sum(wanted), sizes, sizes, ROUNDED).tolist() == [wanted]
    offset = torch.tensor([ROUNDED] * 3 + [CEILED] * 3)
    wanted[3:] = [math.ceil(size * factor) for size in sizes[0, 3:].tolist()]
    assert apportion(sum(wanted), sizes, sizes, offset).tolist() == [wanted]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("side", [6, 10, 14])
def test_dycoke_floors_as_its_program_does(ratio, side):
    tokens = item(0, (8, side, side))
    chosen = lftr.methods.DyCoke(merging_ratio=ratio).select(tokens, "auto")
    few = int((1 - ratio) * side**2)
    counts = (chosen.index // side**2).bincount(minlength=8).tolist()
    assert counts == [few if frame in (1, 2, 3, 5, 7) else side**2 for frame in range(8)]


def test_dycoke_merges_as_much_as_published():
    assert lftr.methods.DyCoke().merging_ratio == 0.7


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58])
def test_prunevid_floors_in_double_precision(share):
    tokens = item(1, (4, 10, 10))
    method = lftr.methods.PruneVid(share=share)
    assert method.select(tokens, "auto").count == 4 * int(100 * share)


def test_of_windows_of_equal_worth_holitom_takes_the_shortest():
    still = torch.tensor([[True, False], [False, True]])
    assert still_windows(still) == [(0, 2), (2, 3)]
    assert still_windows(torch.zeros(4, 3, dtype=torch.bool)) == [(i, i + 1) for i in range(5)]
    assert still_windows(torch.ones(4, 3, dtype=torch.bool)) == [(0, 5)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keep", [3, 5, 9])
def test_holitom_measures_density_by_no_more_tokens_than_clusters(seed, keep):
    tokens = item(seed, (1, 6, 6))
    x = tokens.features.repeat(3, 1)
    clip = lftr.VisualTokens(x, grid=(3, 6, 6), attention_received=torch.ones(len(x)))
    chosen = lftr.methods.HoliTom().select(clip, keep)
    assert chosen.index.tolist() == plain_peaks(tokens.features, keep, min(7, keep))


def test_each_part_can_have_neighbours_of_its_own():
    x = item(2, (3, 4, 4)).features.reshape(3, 16, -1)
    several = peak_scores(x, torch.tensor([2, 5, 40]))
    for row, neighbours, got in zip(x, (2, 5, 16), several, strict=True):
        torch.testing.assert_close(got, peak_scores(row[None], neighbours)[0])


@pytest.mark.parametrize(("count", "dominant"), [(2, 1), (3, 2), (5, 4), (9, 6)])
def test_holitom_rounds_the_attended_part_of_a_frame(count, dominant):
    tokens = item(3, (2, 5, 5))
    score = torch.rand(50, generator=torch.Generator().manual_seed(0))
    tokens = dataclasses.replace(tokens, attention_received=score, cls_attention=None)
    chosen = lftr.methods.HoliTom(threshold=1.0, contextual=0.3).select(tokens, 2 * count)
    alone = chosen.flow.slot.bincount(minlength=2 * count) == 1
    for frame in range(2):
        attended = score[frame * 25 : frame * 25 + 25].topk(dominant).indices + frame * 25
        inside = chosen.index[(chosen.index // 25 == frame) & alone]
        assert set(attended.tolist()) <= set(inside.tolist())
    # what is not attended merges, all of it
    assert chosen.flow.source.sort().values.equal(torch.arange(50))
