"""Similarity of tokens at the same position in different frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .scaling import unit


def same_position(
    x: Tensor, frames: Sequence[int], references: Sequence[int], length: Tensor | None = None
) -> Tensor:
    """Return the cosine of every token with the one at its position in another frame.

    Frames are processed one at a time, so that memory is linear in the number of tokens. The cosine
    of a zero token is 0.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
        The tokens of each frame.
    frames, references : sequence of int, of equal length P
        The frames to compare, and with what each.
    length : Tensor, shape (B, T, N), optional
        Of the tokens, if it is known.

    Returns
    -------
    Tensor, shape (B, P, N)
    """
    length = x.norm(dim=3, dtype=torch.float32) if length is None else length
    plain = bool(((length > 1e-15) & (length < 1e15)).all())
    out = torch.zeros(len(x), len(frames), x.shape[2], device=x.device)
    for place, (frame, other) in enumerate(zip(frames, references, strict=True)):
        here, there = x[:, frame], x[:, other]
        if plain:
            products = torch.einsum("bnc,bnc->bn", here.float(), there.float())
            out[:, place] = products / (length[:, frame] * length[:, other])
        else:
            out[:, place] = (unit(here) * unit(there)).sum(dim=2)
    return out.clamp_(-1.0, 1.0)


def stillness(x: Tensor, length: Tensor | None = None) -> Tensor:
    """Return the cosine of every token with that at its position in the frame before.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
    length : Tensor, shape (B, T, N), optional
        Of the tokens, if it is known.

    Returns
    -------
    Tensor, shape (B, T - 1, N)
    """
    last = x.shape[1]
    return same_position(x, range(1, last), range(last - 1), length)
