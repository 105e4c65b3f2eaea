"""The primitives against plain loops, on whole maps and row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lftr.methods.operations import coverage, listed_rows, similarity, thinning
from lftr.methods.operations.apportion import floored
from lftr.methods.operations.coverage import facility_location
from lftr.methods.operations.directions import gram
from lftr.methods.operations.greedy import (
    determinantal,
    farthest_point,
    k_centre,
    soft_nms,
    suppress,
)
from lftr.methods.operations.lazy_greedy import lazy_greedy
from lftr.methods.operations.outliers import outlier_count
from lftr.methods.operations.scaling import lengths, mean_cosine, min_max, unit, z_score
from lftr.methods.operations.thinning import thin
from lftr.methods.operations.turns import turns


def clustered(seed, count=90, width=24, batch=3):
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 7, width, generator=draw)
    member = torch.randint(0, 7, (batch, count), generator=draw)
    x = centres.gather(1, member.unsqueeze(2).expand(-1, -1, width))
    return x + 0.6 * torch.randn(batch, count, width, generator=draw) + 0.5


def scores_of(x, seed=0):
    return torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(seed)) + 0.05


def cosines(x):
    x = x.double()
    x = x / x.norm(dim=1, keepdim=True)
    return x @ x.T


@pytest.fixture(params=["small", "held", "rows"])
def mode(request, monkeypatch):
    """Let the N x N map be small, be held but large, or be too large."""
    if request.param != "small":
        monkeypatch.setattr(similarity, "WHOLE", 8)
        monkeypatch.setattr(similarity, "BLOCK", 16)
    if request.param == "rows":
        monkeypatch.setattr(coverage, "HELD", 0)
        monkeypatch.setattr(listed_rows, "LIST", 12)
        monkeypatch.setattr(listed_rows, "BLOCK", 16)
        monkeypatch.setattr(listed_rows, "FEW", 4)
    return request.param


def test_farthest_point(mode):
    x = clustered(0)
    order = farthest_point(x, 40)
    for row, got in zip(x, order, strict=True):
        distance = 1.0 - cosines(row)
        distance.fill_diagonal_(torch.inf)
        wanted = [int(distance.amin(0).argmax())]
        distance.fill_diagonal_(-torch.inf)
        for _ in range(39):
            wanted.append(int(distance[wanted].amin(0).argmax()))
        assert got.tolist() == wanted


def test_duplicates_of_the_picked_come_last_and_in_order(mode):
    draw = torch.Generator().manual_seed(10)
    group = torch.stack([torch.randperm(90, generator=draw) % 9 for _ in range(3)])
    distinct = torch.randn(3, 9, 24, generator=draw)
    x = distinct.gather(1, group.unsqueeze(2).expand(-1, -1, 24))
    quality = torch.ones(3, 90)
    for order in (farthest_point(x, 90), determinantal(x, quality, 90)):
        for groups, got in zip(group, order, strict=True):
            assert len(set(groups[got[:9]].tolist())) == 9
            assert got[9:].equal(got[9:].sort().values)


def test_determinantal(mode):
    x = clustered(1)
    quality = scores_of(x)
    order = determinantal(x, quality, 20)
    for row, q, got in zip(x, quality.double(), order, strict=True):
        kernel = q[:, None] * cosines(row) * q
        wanted = []
        for _ in range(20):
            rest = [j for j in range(len(row)) if j not in wanted]
            sets = [torch.tensor([*wanted, j]) for j in rest]
            gains = [torch.logdet(kernel[s][:, s]).item() for s in sets]
            wanted.append(rest[int(np.argmax(gains))])
        assert got.tolist() == wanted


def test_determinantal_beyond_the_rank(mode):
    x = clustered(2, width=5)
    quality = scores_of(x)
    order = determinantal(x, quality, 60)
    for q, got in zip(quality, order.tolist(), strict=True):
        assert len(set(got)) == 60
        tail = q[got[5:]]
        assert (tail[1:] <= tail[:-1]).all()  # nothing new is left: by quality


def greedy_cover(like, weight, bonus, got):
    """Follow the picks ``got`` by the rule in plain; each must have the largest value, or tie."""
    covered = torch.zeros(like.shape[1]).double()
    for i, pick in enumerate(got):
        value = (like - covered).clamp_min(0).sum(1) * weight + bonus
        value[got[:i]] = -torch.inf
        # two that are left to cover each other tie by the rule itself
        assert value[pick] > value.max() - 1e-4
        covered = torch.maximum(covered, like[pick])


@pytest.mark.parametrize("combined", ["weight", "bonus", "plain"])
def test_facility_location(mode, combined):
    x = clustered(3)
    scores = scores_of(x)
    given = {} if combined == "plain" else {combined: scores}
    order = facility_location(x, 30, **given)
    for row, s, got in zip(x, scores.double(), order.tolist(), strict=True):
        weight = s if combined == "weight" else torch.ones(90).double()
        bonus = s if combined == "bonus" else torch.zeros(90).double()
        greedy_cover(cosines(row), weight, bonus, got)


def test_facility_location_by_a_local_kernel_among_some(mode):
    x = clustered(11)
    importance = scores_of(x)
    among = torch.arange(1, 90, 2)
    order = facility_location(x, 20, among=among, width=0.3, importance=importance)
    for row, s, got in zip(x, importance.double(), order, strict=True):
        like = torch.exp((cosines(row) - 1) / 0.3) * s
        assert (got % 2 == 1).all()
        greedy_cover(like[1::2], torch.ones(45).double(), 0.0, (got // 2).tolist())


def test_facility_location_among_equals_goes_in_order(mode):
    x = torch.ones(2, 40, 6)
    assert facility_location(x, 40).tolist() == [list(range(40))] * 2


def test_rows_that_are_listed_are_not_computed_again(monkeypatch):
    draw, computed = torch.Generator().manual_seed(12), []
    like = torch.eye(200) + 0.05 * torch.rand(200, 200, generator=draw)
    monkeypatch.setattr(listed_rows, "LIST", 200)

    def rows(some):
        computed.append(some)
        return like[some]

    one, zero = torch.ones(200), torch.zeros(200)
    listed = listed_rows.ListedRows(rows, 200, 200, like.device)
    picks = lazy_greedy(listed, 60, one, zero)
    greedy_cover(like.double(), one.double(), zero.double(), picks.tolist())
    assert torch.cat(computed).sort().values.equal(torch.arange(200))


def test_tokens_that_add_nothing_more_are_picked_by_their_bonus(mode):
    x = torch.nn.functional.one_hot(torch.arange(90) % 3, 24).float().expand(2, -1, -1)
    bonus = scores_of(x)
    order = facility_location(x, 90, bonus=bonus * 1e-3)
    for row, got in zip(bonus, order, strict=True):
        assert sorted(got[:3] % 3) == [0, 1, 2]
        assert (row[got[3:]].diff() <= 0).all()


def test_soft_nms(mode):
    x = clustered(4)
    scores = scores_of(x)
    order = soft_nms(x, scores, 60, 20.0)
    for row, s, got in zip(x, scores.double(), order, strict=True):
        similar, left, wanted = cosines(row), s.clone(), []
        for _ in range(60):
            pick = int(left.argmax())
            wanted.append(pick)
            left = left - torch.exp(-20.0 * (1 - similar[pick]) ** 2) * left[pick].clamp_min(0)
            left[wanted] = -torch.inf
        assert got.tolist() == wanted


def test_suppress(mode):
    x = clustered(5)
    scores = scores_of(x)
    order = suppress(x, scores, 60, 0.6)
    for row, s, got in zip(x, scores, order, strict=True):
        similar, kept, skipped = cosines(row), [], []
        for j in s.argsort(descending=True).tolist():
            (skipped if any(similar[i, j] > 0.6 for i in kept) else kept).append(j)
        assert len(kept) < 60  # so that the skipped are needed
        assert got.tolist() == (kept + skipped)[:60]


@pytest.mark.parametrize("remembered", [3, 64])
@pytest.mark.parametrize("size", [61, 60])
def test_thin(monkeypatch, remembered, size):
    monkeypatch.setattr(thinning, "NEIGHBOURS", remembered)
    monkeypatch.setattr(thinning, "BLOCK", 700)
    x = clustered(6)
    draws = [torch.Generator().manual_seed(i) for i in range(3)]
    members = torch.stack([torch.randperm(90, generator=draw) for draw in draws])
    left = thin(x, members[:, :size], 7, 8)
    for row, start, got in zip(x, members[:, :size].tolist(), left.tolist(), strict=True):
        similar = cosines(row)
        while len(start) > 7:
            even, odd = start[::2], start[1::2]
            nearest = similar[even][:, odd].amax(1)
            order = nearest.argsort(descending=True).tolist()
            start = [even[i] for i in order[min(8, len(start) - 7, len(even)) :]] + odd
        assert got == start


@pytest.mark.parametrize("count", [5, 255, 256, 300, 519])
def test_gram_is_the_product(count):
    x = clustered(7, count=count, batch=2)
    got = gram(x)
    torch.testing.assert_close(got, x @ x.mT, rtol=1e-5, atol=1e-4)


def test_outliers_are_numpys():
    draw = torch.Generator().manual_seed(8)
    scores = torch.randn(5, 77, generator=draw).exp()
    for row, count in zip(scores.numpy(), outlier_count(scores), strict=True):
        low, high = np.percentile(row, [25, 75])
        assert count == (row > high + 1.5 * (high - low)).sum() > 0


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_lengths_of_any_finite_rows(size):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    x[1] = 0.0
    wanted = x.double().square().sum(dim=1).sqrt() * size
    torch.testing.assert_close(lengths(x * size).double() / size, wanted / size)
    assert lengths(x[[0, 2]]).dtype == torch.float32


def test_unit():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30]])
    wanted = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    torch.testing.assert_close(unit(x), wanted)
    assert unit(x.half()[:2]).dtype == torch.float32
    plain = clustered(9)[0]
    assert unit(torch.cat([plain, 1e30 * plain]))[:90].equal(unit(plain))  # whatever is beside it


def test_scores_to_a_common_scale():
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    assert min_max(scores).tolist() == [[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]]
    assert min_max(scores, floor=0.5)[0].tolist() == [0.25, 1.25, 0.75]
    z = z_score(scores)
    torch.testing.assert_close(z[0], torch.tensor([-1.0, 1.0, 0.0]) * 1.5**0.5)
    assert z[1].tolist() == [0.0, 0.0, 0.0]
    x, targets = torch.eye(3)[None], torch.tensor([[[2.0, 0.0, 0.0], [0.0, 3.0, 4.0]]])
    torch.testing.assert_close(mean_cosine(x, targets)[0], torch.tensor([0.5, 0.3, 0.4]))


@pytest.mark.parametrize("weighted", [False, True])
def test_k_centre(mode, weighted):
    x = clustered(11)
    covered = torch.tensor([[4, 80], [7, 8], [0, 1]])
    weight = scores_of(x) if weighted else None
    order = k_centre(x, 40, covered, weight)
    for b, got in enumerate(order):
        distance = 1.0 - cosines(x[b])
        if weighted:
            distance = distance * weight[b]
        picks = covered[b].tolist()
        for _ in range(40):
            left = distance[picks].amin(0)
            left[picks] = -torch.inf
            picks.append(int(left.argmax()))
        assert got.tolist() == picks[2:]


def test_turns_rank_within_parts():
    scores = torch.randint(0, 5, (3, 40), generator=torch.Generator().manual_seed(0))
    shared = torch.arange(40) % 3 * 2  # part 1 is empty
    for part in (shared, torch.stack([shared, shared.flip(0), shared.sort().values])):
        got = turns(scores, part)
        for row, parts, places in zip(scores, part.expand(3, 40), got, strict=True):
            for token in range(40):
                mates = [i for i in range(40) if parts[i] == parts[token]]
                mates.sort(key=lambda i: (-int(row[i]), i))
                assert mates[places[token]] == token


@pytest.mark.parametrize("claims", [[3.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
def test_floored_meets_every_total(claims):
    limits = torch.tensor([4, 9, 2])
    for total in range(16):
        (counts,) = floored(total, torch.tensor([claims]), limits)
        assert counts.sum() == total
        assert (counts <= limits).all()
    assert floored(8, torch.tensor([[3.0, 1.0, 1.0]]), torch.tensor([9, 9, 9])).tolist() == [
        [5, 2, 1]  # 4.8, 1.6 and 1.6: what is left goes to the largest claims
    ]
