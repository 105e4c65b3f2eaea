"""Counts that the original programs round, floor or break ties of, against plain arithmetic."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from every import item

import lftr
from lftr.methods.operations.apportion import CEILED, ROUNDED, apportion
from lftr.methods.operations.density import peak_scores
from lftr.methods.operations.recycling import clusters_of
from lftr.methods.operations.segments import still_windows
from lftr.methods.video.vidcom2 import likenesses
from lftr.values.budget import resolve


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


def cosines(x):
    """Of ``(N, C)``, as lists."""
    x = x.double() / x.double().norm(dim=1, keepdim=True)
    return (x @ x.T).tolist()


@pytest.mark.parametrize("grid", [(1, 4, 5), (1, 7, 7), (1, 8, 10)])
@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.5, 0.57, 0.7, 1.0])
def test_vispruner_floors_the_attended_part(grid, ratio):
    """``int(K * r)`` by attention; 8 near-duplicates go in a round, the last round what is left."""
    tokens = item(4, grid)
    total = len(tokens.features)
    attention = tokens.cls_attention.double().mean(dim=0).tolist()
    like = cosines(tokens.encoder_features)
    for keep in range(2, total, 3):
        order = sorted(range(total), key=lambda i: -attention[i])
        kept, rest = order[: int(keep * ratio)], order[int(keep * ratio) :]
        while len(kept) < keep < len(kept) + len(rest):
            even, odd = rest[::2], rest[1::2]
            likeness = {i: max(like[i][j] for j in odd) for i in even}
            even.sort(key=likeness.__getitem__, reverse=True)
            over = len(kept) + len(rest) - keep
            rest = even[min(8, over, len(even)) :] + odd
        wanted = sorted(kept if len(kept) == keep else kept + rest)
        chosen = lftr.methods.VisPruner(important_ratio=ratio).select(tokens, keep)
        assert chosen.index.tolist() == wanted


def test_visionzip_rounds_to_the_published_numbers():
    for keep, contextual in ((64, 10), (128, 20), (192, 30)):  # dominant ones with the CLS token
        assert round(keep * lftr.methods.VisionZip().contextual) == contextual


@pytest.mark.parametrize("grid", [(1, 5, 5), (1, 7, 10)])
@pytest.mark.parametrize("share", [0.0, 10 / 64, 0.25, 0.5, 1.0])
def test_visionzip_steps_through_what_is_not_dominant(grid, share):
    tokens = item(5, grid)
    total = len(tokens.features)
    attention = tokens.cls_attention.double().mean(dim=0).tolist()
    for keep in range(1, total):
        contextual = round(keep * share)
        order = sorted(range(total), key=lambda i: -attention[i])
        kept, rest = order[: keep - contextual], sorted(order[keep - contextual :])
        step = max(1, len(rest) // contextual) if contextual else 1
        targets = list(range(0, len(rest), step))[:contextual]
        chosen = lftr.methods.VisionZip(contextual=share).select(tokens, keep)
        assert chosen.index.tolist() == sorted(kept + [rest[i] for i in targets])


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (7, 10)])
@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1.0])
def test_hiprune_rounds_a_fifth_of_its_part(rows, columns, alpha):
    """Halves of Python's round go to the even number, here and there."""
    tokens = item(6, (1, rows, columns))
    shallow, deep = (
        values.double().tolist()
        for values in (tokens.attention_received_shallow, tokens.attention_received)
    )
    places = range(rows * columns)
    for keep in range(2, rows * columns):
        anchors = sorted(places, key=lambda i: -shallow[i])[: round(keep * alpha / 5)]
        level = dict.fromkeys(places, 0)
        for i in anchors:
            row, column = divmod(i, columns)
            for r, c in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if 0 <= r < rows and 0 <= c < columns:
                    level[r * columns + c] = 1
        level |= dict.fromkeys(anchors, 2)
        wanted = sorted(places, key=lambda i: (-level[i], -deep[i]))[:keep]
        chosen = lftr.methods.HiPrune(alpha=alpha).select(tokens, keep)
        assert chosen.index.tolist() == sorted(wanted)


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.5, 0.57])
@pytest.mark.parametrize("contextual", [0.0, 0.29, 0.4, 0.58])
@pytest.mark.parametrize("segment", [1, 3, 6])
def test_fastvid_floors_shares_of_frames(ratio, contextual, segment):
    """``int(N * ratio)`` of a frame, of which ``int(F * d)`` merge; segments of equal frames."""
    frames, step = 6, 4
    tokens = item(7, (frames, 6, 6))
    score = torch.rand(frames * 36, generator=torch.Generator().manual_seed(1))
    kinds = torch.eye(frames)[torch.arange(frames) // segment]
    tokens = dataclasses.replace(
        tokens, frame_features=kinds, attention_received=score, cls_attention=None
    )
    share = int(36 * ratio)
    merged = int(share * contextual)
    wanted = [share - merged] * frames
    for first in range(0, frames, segment):
        holders = range(first + segment - 1, first - 1, -step)
        for frame in holders:
            wanted[frame] += merged * segment // len(holders)
    wanted = [min(36, one) for one in wanted]  # beyond that the program fails
    method = lftr.methods.FastVID(segments=1, threshold=0.5, contextual=contextual, step=step)
    chosen = method.select(tokens, frames * share)
    counts = (chosen.index // 36).bincount(minlength=frames).tolist()
    lost = frames * share - sum(wanted)  # there; here they go to the most attended
    assert all(count >= least for count, least in zip(counts, wanted, strict=True))
    assert lost or counts == wanted
    for frame in range(frames):
        attended = score[frame * 36 : frame * 36 + 36].topk(share - merged).indices + frame * 36
        assert set(attended.tolist()) <= set(chosen.index.tolist())


@pytest.mark.parametrize("scale", [0.1, 0.15, 0.25, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("side", [4, 5, 6, 7, 10])
def test_vidcom2_rounds_each_frame(scale, side):
    """Halves to the even number, and at least one token of a frame."""
    frames = 8
    for seed in range(3):
        tokens = item(seed, (frames, side, side))
        method = lftr.methods.VidCom2(base_scale=scale, temperature=0.1)
        to_clip, _ = likenesses(tokens.features.reshape(1, frames, side**2, -1))
        scales = (scale * method.shares(to_clip)[0]).clamp_max(1.0)
        wanted = [max(1, round(float(one * side**2))) for one in scales]
        chosen = method.select(tokens, "auto")
        assert (chosen.index // side**2).bincount(minlength=frames).tolist() == wanted


@pytest.mark.parametrize("total", [256, 576])
def test_outliers_are_floored_to_their_own_number(total):
    """PruMerge and TRIM keep ``int(N * (outliers / N))``, and PruMerge+ every n-th token more.

    At the sizes that their encoders have this is the number of outliers. At others, such as 196 and
    729, the product may be a little below it, and the program keeps one token less.
    """
    for outliers in range(1, total):
        ratio = outliers / total
        assert int(total * ratio) == outliers
        if step := int(int(1 / ratio) / 3):
            assert step == total // outliers // 3
    assert int(729 * (4 / 729)) == 3


@pytest.mark.parametrize(
    ("method", "evidence"),
    [("prumerge", "cls_attention"), ("trim", "visual_projected"), ("prumerge-plus", "")],
)
def test_all_outliers_stay_whatever_the_size(method, evidence):
    """Of 729 tokens too, where the programs lose one of four."""
    score = torch.zeros(729)
    score[[5, 70, 300, 728]] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    tokens = dataclasses.replace(
        item(8, (1, 27, 27)), cls_attention=score[None], attention_received=score
    )
    if evidence == "visual_projected":
        tokens = dataclasses.replace(
            tokens, visual_projected=-score[:, None], text_embeds=torch.ones(1, 1)
        )
    chosen = lftr.get_method(method).select(tokens, "auto")
    sampled = len({5, 70, 300, 728, *range(0, 728, 729 // 4 // 3)}) if not evidence else 4
    assert chosen.count == sampled + 1
    assert {5, 70, 300} <= set(chosen.index.tolist())


@pytest.mark.parametrize(
    ("stages", "published"),
    [
        ([300, 200, 110], [309, 204, 113]),
        ([303, 110, 36], [312, 117, 39]),
        ([238, 48, 26], [249, 55, 27]),
        ([66, 30, 17], [82, 32, 18]),
    ],
)
def test_sparsevlm_recycles_as_published(stages, published):
    """Stage by stage: ``int(0.3 * dropped) + 1`` tokens, ``int(m / 10) + 1`` clusters of them."""
    total = 576
    for best, slots in zip(stages, published, strict=True):
        assert best + int((int((total - best) * 0.3) + 1) / 10) + 1 == slots
        assert clusters_of(total, slots, 0.3) == slots - best
        total = slots


def test_sparsevlm_recycles_as_its_program_does_at_every_size():
    for total in range(4, 700, 7):
        for keep in range(2, total, 5):
            clusters = clusters_of(total, keep, 0.3)
            best = keep - clusters
            there = int((int((total - best) * 0.3) + 1) / 10) + 1
            assert clusters == there or clusters == keep // 2 < there


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.125, 0.29, 0.098])
def test_what_is_floored_or_rounded_there_is_rounded_up_here(ratio):
    """DivPrune and FastV round, PyramidDrop floors: never more than one token apart."""
    for total in range(8, 700):
        ours = resolve(ratio, total)
        assert ours == -(-Fraction(str(ratio)) * total // 1)
        assert ours - round(ratio * total) in (0, 1)
        assert ours - int(ratio * total) in (0, 1)
