"""The visual tokens whose rotary positions serve as coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.errors import LftrError
from ...values.selection import Selection
from .base import LayerView


def coordinate_tokens(view: LayerView, some: int) -> Tensor:
    """Return which visual tokens have the largest mean cosines and sines of positions.

    Parameters
    ----------
    some : int
        How many of either; a token may be both.

    Returns
    -------
    Tensor of bool, shape (N,)

    Raises
    ------
    LftrError
        If the model has no table of rotary positions.
    """
    if view.rotary is None:
        raise LftrError(
            "coordinates are rotary positions, and this model passes its layers no table of them"
        )
    marks = torch.zeros(len(view.visual), dtype=torch.bool, device=view.states.device)
    for table in view.rotary:
        means = table.to(marks.device)[view.visual].float().mean(dim=-1)
        marks[Selection.top(means, some).index if some else []] = True
    return marks
