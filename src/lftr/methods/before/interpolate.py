"""Resample the features of each frame at evenly spread points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.budget import share
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import Method
from ..operations.cells import bands, centres
from ..operations.remembered import remembered


@dataclass(frozen=True)
class Interpolate(Method, name="interpolate"):
    """Resample each frame bilinearly (``align_corners=False``) at ``K`` evenly spread points.

    If ``K`` fills a nearly square ``h x w`` grid, this is ``F.interpolate`` to that size, and half
    of both sides is 2 x 2 mean pooling. For any other ``K``, some rows of points have one more than
    others; each row is evenly spread. Frames and tiles get points in proportion to their size. With
    fewer points than frames, a run of frames gets one point, the centre of its middle frame. The
    anchor of a slot is the token nearest to its point. Tokens without a grid are treated as one
    row.

    Notes
    -----
    The original reduces 256 to 64 tokens by ``interpolate(mode="bilinear")``.
    Differs from the original: acts on the output of the connector (there before it), at any count.
    """

    source = Source(
        "Magic-MM-Embedding", arxiv="2602.05275", note="its downsampling without parameters"
    )

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        batch, device = len(tokens.features), tokens.features.device
        index, *flow = (p.to(device).expand(batch, -1) for p in _points(tokens.blocks, keep))
        return Selection(index, Flow(*flow))


@remembered
def _points(blocks: tuple[Grid, ...], count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return anchors, and the sources, slots and weights of four tokens a point, on the CPU."""
    frames = [(h, w) for t, h, w in blocks for _ in range(t)]
    sizes = torch.tensor([h * w for h, w in frames], device="cpu")
    first = (sizes.cumsum(0) - sizes).tolist()
    if count < len(frames):
        counts = [0] * len(frames)
        for middle in centres(len(frames), count).tolist():
            counts[middle] = 1
    else:
        counts = share(count, sizes.tolist(), sizes.tolist())
    index, source, weight = [], [], []
    for shape, start, part in zip(frames, first, counts, strict=True):
        if part:
            anchor, corners, shares = _frame_points(*shape, part)
            index.append(anchor + start)
            source.append(corners + start)
            weight.append(shares)
    slot = torch.arange(count, device="cpu").repeat_interleave(4)
    return torch.cat(index), torch.cat(source).flatten(), slot, torch.cat(weight).flatten()


def _frame_points(rows: int, columns: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest token ``(K,)``, the four around ``(K, 4)`` and their weights."""
    in_band = bands(rows, columns, count)
    number = torch.full((count,), len(in_band), device="cpu")
    band = torch.arange(len(in_band), device="cpu").repeat_interleave(in_band)
    step = torch.arange(count, device="cpu") - (in_band.cumsum(0) - in_band)[band]
    near_y, low_y, high_y, part_y = _axis(rows, band, number)
    near_x, low_x, high_x, part_x = _axis(columns, step, in_band[band])
    corners = [y * columns + x for y in (low_y, high_y) for x in (low_x, high_x)]
    shares = [y * x for y in (1 - part_y, part_y) for x in (1 - part_x, part_x)]
    return near_y * columns + near_x, torch.stack(corners, dim=1), torch.stack(shares, dim=1)


def _axis(total: int, place: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return nearest, lower and upper token and the upper's share at ``(place+1/2)/count``.

    In whole numbers, so that points between two tokens are so exactly.
    """
    point = (2 * place + 1) * total  # in units of 1 / (2 count), half a token ahead
    low = (point - count) // (2 * count)
    part = ((point - count) % (2 * count)).float() / (2 * count)
    return (point - 1) // (2 * count), low, (low + 1).clamp_max(total - 1), part
