"""Cells, interpolation and folding: nothing is lost, nothing counted twice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods.before.fold import fold, unfold
from lftr.methods.operations.cells import cells

grid = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
many = settings(max_examples=60, deadline=None, derandomize=True)


def image(frames, rows, columns, channels=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(frames * rows * columns, channels, generator=draw)


def planes(x, rows, columns):
    """Turn ``(T * H * W, C)`` into ``(T, C, H, W)``."""
    return x.reshape(-1, rows, columns, x.shape[1]).permute(0, 3, 1, 2)


@many
@given(st.lists(grid, min_size=1, max_size=3), st.floats(0, 1), st.sampled_from([0.25, 1.0, 4.0]))
def test_cells_are_rectangles_that_cover_every_token_once(tiles, share, aspect):
    total = sum(t * h * w for t, h, w in tiles)
    count = 1 + round(share * (total - 1))
    cell, anchor = cells(tuple(tiles), count, aspect)
    assert cell.shape == (total,)
    assert cell.unique().equal(torch.arange(count))  # none is empty, none too many
    assert cell[anchor].equal(torch.arange(count))  # an anchor is in its own cell
    assert (anchor.diff() > 0).all()
    frames = [(h, w) for t, h, w in tiles for _ in range(t)]
    start = 0
    for height, width in frames:
        frame = cell[start : start + height * width].reshape(height, width)
        start += height * width
        for one in frame.unique():
            rows, columns = (frame == one).nonzero().T
            box = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
            assert len(rows) == box
            if count < len(frames):
                assert box == height * width  # cells are runs of whole frames


@many
@given(grid, st.floats(0, 1))
def test_cells_are_even(grid, share):
    """Along each side, parts differ by one at most."""
    frames, rows, columns = grid
    count = frames + round(share * (rows * columns - 1)) * frames
    cell, _ = cells((grid,), count)
    frame = cell[: rows * columns].reshape(rows, columns)
    heights = [int((frame == one).any(1).sum()) for one in frame.unique()]
    assert max(heights) - min(heights) <= 1
    for row in frame:
        widths = row.unique(return_counts=True)[1]
        assert widths.max() - widths.min() <= 1


@pytest.mark.parametrize("side", [2, 3, 4, 6, 8, 12])
def test_pool_is_average_pooling_where_that_is_defined(side):
    x = image(2, 24, 24)
    chosen = lftr.methods.Pool().select(lftr.VisualTokens(x, grid=(2, 24, 24)), 2 * side**2)
    expected = F.avg_pool2d(planes(x, 24, 24), 24 // side)
    torch.testing.assert_close(chosen.apply(x), expected.permute(0, 2, 3, 1).reshape(-1, 3))


def test_anchors_are_in_the_middle():
    tokens = lftr.VisualTokens(image(1, 12, 12), grid=(1, 12, 12))
    middle = tokens.coordinates[lftr.methods.Pool().select(tokens, 16).index, 1:]
    assert (middle % 3 == 1).all()
    upper_left = tokens.coordinates[lftr.methods.Pool().select(tokens, 9).index, 1:]
    assert (upper_left % 4 == 1).all()


def test_pool_on_a_line_without_a_grid():
    x = image(1, 1, 12)
    chosen = lftr.methods.Pool().select(lftr.VisualTokens(x), 4)
    torch.testing.assert_close(chosen.apply(x), x.reshape(4, 3, 3).mean(1))
    assert chosen.index.tolist() == [1, 4, 7, 10]


@pytest.mark.parametrize(
    "layout", [{"grid": [1, 4, 3]}, {"tiles": [[1, 2, 3]] * 2}, {"grid": torch.tensor([1, 4, 3])}]
)
def test_layouts_are_read_whatever_holds_them(layout):
    chosen = lftr.methods.Pool().select(lftr.VisualTokens(image(1, 4, 3), **layout), 2)
    assert chosen.assignment(12).tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("size", [(12, 12), (8, 8), (6, 6), (5, 5), (7, 7), (24, 24)])
def test_interpolate_is_interpolate(size):
    x = image(2, 24, 24)
    tokens = lftr.VisualTokens(x, grid=(2, 24, 24))
    chosen = lftr.methods.Interpolate().select(tokens, 2 * size[0] * size[1])
    expected = F.interpolate(planes(x, 24, 24), size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(chosen.apply(x), expected.permute(0, 2, 3, 1).reshape(-1, 3))


def test_interpolate_at_half_is_two_by_two_pooling():
    x = image(1, 10, 14)
    chosen = lftr.methods.Interpolate().select(lftr.VisualTokens(x, grid=(1, 10, 14)), 5 * 7)
    expected = F.avg_pool2d(planes(x, 10, 14), 2)
    torch.testing.assert_close(chosen.apply(x), expected.permute(0, 2, 3, 1).reshape(-1, 3))


@many
@given(grid, st.floats(0, 1))
def test_interpolate_reads_a_ramp_at_evenly_spread_points(grid, share):
    """Bilinear samples of a linear image are the points themselves; anchors are nearest to them."""
    frames, rows, columns = grid
    total = frames * rows * columns
    keep = 1 + round(share * (total - 1))
    tokens = lftr.VisualTokens(torch.randn(total, 2), grid=grid)
    chosen = lftr.methods.Interpolate().select(tokens, keep)
    ramp = tokens.coordinates.float()
    point = chosen.apply(ramp)
    if keep == total:
        assert point.equal(ramp)
        return
    assert (point - ramp[chosen.index]).abs().max() <= 0.5 + 1e-5
    assert len(point.mul(1e4).round().unique(dim=0)) == keep
    if keep >= frames:
        for frame in range(frames):
            inside = point[point[:, 0].round() == frame]
            middle = torch.tensor([(rows - 1) / 2, (columns - 1) / 2])
            torch.testing.assert_close(inside.amin(0)[1:] + inside.amax(0)[1:], 2 * middle)


@many
@given(grid, st.tuples(st.integers(1, 4), st.integers(1, 9)), st.booleans())
def test_unfold_inverts_fold(grid, window, batched):
    x = image(*grid)
    x = torch.stack([x, x + 1]) if batched else x
    folded, mask = fold(x, grid, window)
    assert unfold(folded, grid, window).equal(x)
    places = window[0] * window[1]
    assert folded.shape[-1] == places * 3
    assert mask.shape == (folded.shape[-2], places)
    assert mask.sum() == grid[0] * grid[1] * grid[2]
    padding = folded.unflatten(-1, (places, 3))[..., ~mask, :]
    assert (padding == 0).all()


def test_fold_concatenates_windows_in_raster_order():
    x = torch.arange(2 * 4 * 4).reshape(32, 1)
    folded, mask = fold(x, (2, 4, 4), (2, 2))
    assert folded[0].tolist() == [0, 1, 4, 5]
    assert folded[1].tolist() == [2, 3, 6, 7]
    assert folded[4].tolist() == [16, 17, 20, 21]
    assert mask.all()


@pytest.mark.parametrize("window", [(2, 8), (2, 2), (8, 2), (4, 4)])
def test_fold_reads_windows_out_as_their_mean(window):
    x = image(1, 24, 24)
    folded, _ = fold(x, (1, 24, 24), window)
    chosen = lftr.methods.Fold(*window).select(lftr.VisualTokens(x, grid=(1, 24, 24)), len(folded))
    torch.testing.assert_close(chosen.apply(x), folded.unflatten(1, (-1, 3)).mean(1))


def test_multi_scale_pool_holds_both_grids():
    x = image(1, 24, 24)
    chosen = lftr.get_method("multi-scale-pool").select(lftr.VisualTokens(x, grid=(1, 24, 24)), 180)
    got = chosen.apply(x)
    weight = torch.zeros(180, 576).index_put_((chosen.flow.slot, chosen.flow.source), torch.ones(1))
    assert weight[torch.arange(180), chosen.index].all()  # each anchor is in its own cell
    for side in (12, 6):
        for row in F.adaptive_avg_pool2d(planes(x, 24, 24), side).flatten(2)[0].T:
            assert ((got - row).abs().amax(1) < 1e-5).sum() == 1


def test_cls_only_is_the_attended_mean():
    x, attention = image(1, 6, 6), torch.rand(3, 36)
    tokens = lftr.VisualTokens(x, grid=(1, 6, 6), cls_attention=attention)
    share = attention.mean(0) / attention.mean(0).sum()
    chosen = lftr.get_method("cls-only").select(tokens, 1)
    torch.testing.assert_close(chosen.apply(x), share[None] @ x)
    assert chosen.index.item() == attention.mean(0).argmax()
    chosen = lftr.get_method("cls-only").select(tokens, 4)
    got, quarter = chosen.apply(x), (tokens.coordinates[:, 1:] // 3 @ torch.tensor([2, 1]))
    for token, slot in zip(chosen.index, got, strict=True):
        inside = quarter == quarter[token]
        part = attention.mean(0) * inside
        assert token == part.argmax()
        torch.testing.assert_close(slot, part / part.sum() @ x)


def test_region_router_refines_what_varies():
    x = torch.ones(16, 16, 4)
    draw = torch.Generator().manual_seed(0)
    x[4:8, 8:12] = torch.randn(4, 4, 4, generator=draw)
    x = x.reshape(256, 4)
    tokens = lftr.VisualTokens(x, grid=(1, 16, 16))
    method = lftr.get_method("region-router")
    fine = method.select(tokens, 16 + 15)  # one region whole, fifteen as one cell each
    torch.testing.assert_close(fine.apply(x).unique(dim=0), x.unique(dim=0))
    coarse = method.select(tokens, 16)
    pooled = F.avg_pool2d(planes(x, 16, 16), 4).flatten(2)[0].T
    torch.testing.assert_close(coarse.apply(x), pooled)
    partly = method.select(tokens, 16 + 8)
    inside = (tokens.coordinates[partly.index, 1:] // 4 == torch.tensor([1, 2])).all(1)
    assert inside.sum() == 9


def test_region_router_weighs_levels_together():
    """A chequered region, fine detail only, costs 15 slots; one of plain quarters costs 3."""
    angle = torch.zeros(16, 16)
    chequered = (torch.arange(4)[:, None] + torch.arange(4)) % 2 * 2 - 1
    quarters = (torch.arange(4)[:, None] // 2 + torch.arange(4) // 2) % 2 * 2 - 1
    method = lftr.get_method("region-router")

    def slots(share, keep):
        """Return the slots of both, the quarters' gain being ``share`` of the chequers'."""
        angle[4:8, 4:8] = 0.3 * chequered
        angle[8:12, 8:12] = (0.3 * torch.ones(1)).sin().mul(share**0.5).asin() * quarters
        x = torch.stack([angle.cos(), angle.sin()], dim=-1).reshape(256, 2)
        tokens = lftr.VisualTokens(x, grid=(1, 16, 16))
        region = tokens.coordinates[method.select(tokens, keep).index, 1:] // 4
        return [int((region == place).all(1).sum()) for place in (1, 2)]

    assert slots(3 / 13.5, 16 + 3) == [1, 4]  # 3 slots for 0.074 each, 15 for 0.067
    assert slots(3 / 13.5, 16 + 18) == [16, 4]
    assert slots(3 / 16.0, 16 + 3) == [4, 1]  # 0.0625 and 0.067: the chequers, in part
    assert slots(3 / 16.0, 16 + 15) == [16, 1]


@many
@given(grid, st.floats(0, 1), st.integers(1, 5), st.integers(0, 99))
def test_region_router_counts_every_token_once(grid, share, side, seed):
    x = image(*grid, seed=seed)
    keep = max(1, round(share * len(x)))
    chosen = lftr.methods.RegionRouter(side).select(lftr.VisualTokens(x, grid=grid), keep)
    sizes = torch.bincount(chosen.assignment(len(x)), minlength=keep).float()
    torch.testing.assert_close(sizes @ chosen.apply(x), x.sum(0), rtol=1e-4, atol=1e-4)
