"""What a gate sees of a prompt: its text's states."""

from __future__ import annotations

import torch
from torch import Tensor


def features_of(states: Tensor, text: Tensor) -> Tensor:
    """Return the mean of the text's states without the last, and the last, each at length ``√C``.

    Parameters
    ----------
    states : Tensor, shape (L, C)
        Hidden states before a layer.
    text : Tensor of int64, shape (M,)
        Rows of text after the image, at least one. One alone is its own mean.

    Returns
    -------
    Tensor, shape (2 C,)
        Float32, detached.
    """
    said = states[text].detach().float()
    before = said[:-1] if len(said) > 1 else said
    return torch.cat([_normal(before.mean(dim=0)), _normal(said[-1])])


def _normal(x: Tensor) -> Tensor:
    return x / x.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny)
