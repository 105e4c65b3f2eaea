"""Items that show an image twice: a thumbnail, and the tiles as one grid (as in LLaVA-NeXT)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...values.tokens import Grid, VisualTokens
from .apportion import FLOORED, apportion
from .flows import mean_flow
from .remembered import remembered
from .scaling import unit
from .signals import Notes, stand_in

VIEWED = ("cls_attention", "encoder_features", "features")
UNKNOWN = "no thumbnail with stitched tiles is known, so all tokens were treated as one view"


class Views(NamedTuple):
    """The thumbnail and the tiles of an item.

    Attributes
    ----------
    grids : tuple of (T, H, W)
        Layout of the thumbnail, and of each tile in raster order.
    view : Tensor of int64, shape (N,)
        View of each token: 0 is the thumbnail, 1 the first tile.
    below : Tensor of int64, shape (H * W of the thumbnail,)
        The tile, counted from 0, that shows what each token of the thumbnail shows.
    """

    grids: tuple[Grid, ...]
    view: Tensor
    below: Tensor


def views_of(tokens: VisualTokens) -> Views | None:
    """Return the thumbnail and the tiles of an item, None where it is not known to have them.

    They are known where a square is followed by a grid that is larger in one direction at least.
    That grid holds the tiles without the padding of the image; each tile is as large as the
    thumbnail, and padding was cut equally on both sides.
    """
    blocks = tokens.blocks
    if len(blocks) != 2 or blocks[0][0] != 1 or blocks[1][0] != 1:
        return None
    (_, side, width), (_, *stitched) = blocks
    if side != width or max(stitched) <= side or min(stitched) < 2:
        return None
    grids, view, below = _tiling(side, *stitched)
    device = tokens.features.device
    return Views(grids, view.to(device), below.to(device))


@remembered
def _tiling(side: int, *stitched: int) -> tuple[tuple[Grid, ...], Tensor, Tensor]:
    """Return the fields of `Views` for a thumbnail's side and the stitched rows and columns."""
    tile, under, sizes = [], [], []
    for length in stitched:
        number = -(-length // side)
        cut = (number * side - length) // 2  # padding that is gone at the first border
        tile.append((torch.arange(length, device="cpu") + cut) // side)
        under.append(
            (torch.arange(side, device="cpu") // max(side // number, 1)).clamp_max(number - 1)
        )
        sizes.append(tile[-1].bincount().tolist())
    columns = len(sizes[1])
    view = (tile[0].unsqueeze(1) * columns + tile[1]).flatten() + 1
    view = torch.cat([torch.zeros(side * side, dtype=torch.int64, device="cpu"), view])
    grids = ((1, side, side), *((1, high, wide) for high in sizes[0] for wide in sizes[1]))
    return grids, view, (under[0].unsqueeze(1) * columns + under[1]).flatten()


def view_scores(tokens: VisualTokens, view: Tensor) -> tuple[Tensor, Notes]:
    """Return the score ``(B, N)`` of each token in its view ``(N,)``, and a note on a stand-in.

    The attention of the CLS token; for encoders without one, minus the cosine with the mean of
    the view's tokens at length one.
    """
    used, value = tokens.evidence(*VIEWED)
    if used == VIEWED[0]:
        return value.float().mean(dim=1), ()
    x, number = unit(value), int(view.max()) + 1
    mean = unit(mean_flow(view.expand(x.shape[:2]), number).combine(x, number))
    return -(x * mean[:, view]).sum(dim=2), stand_in(used, VIEWED[0], "unlikeness in ")


def view_counts(scores: Tensor, views: Views, keep: int, temperature: float) -> Tensor:
    """Return how many of ``keep`` tokens each view gets, ``(B, V)``, the thumbnail first.

    The thumbnail has its plain share. A tile's share is multiplied by ``1 + s - 1 / n``, where
    ``s`` is the softmax over the ``n`` tiles of the summed scores of what the thumbnail shows of
    each, divided by ``temperature``.

    Parameters
    ----------
    scores : Tensor, shape (B, N)
        Of each token; only those of the thumbnail count.
    views : Views
    keep : int
    temperature : float
    """
    sizes = torch.tensor([rows * columns for _, rows, columns in views.grids], device="cpu")
    thumbnail = scores[:, : sizes[0]].double()
    sums = thumbnail.new_zeros(len(scores), len(sizes) - 1)
    sums.scatter_add_(1, views.below.expand(thumbnail.shape), thumbnail)
    factor = 1.0 + (sums / temperature).softmax(dim=1).cpu() - 1.0 / sums.shape[1]
    claims = sizes * torch.cat([torch.ones_like(factor[:, :1]), factor], dim=1)
    return apportion(keep, claims, sizes, FLOORED)
