"""Scale features and scores."""

from __future__ import annotations

import torch
from torch import Tensor


def with_lengths(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows ``(..., C)`` in float32 and their lengths ``(...)``.

    If lengths would over- or underflow, all rows are at length one instead; zero rows stay zero.
    """
    x = x.float()
    length = x.norm(dim=-1)
    if bool(((length > 1e-15) & (length < 1e15)).all()):
        return x, length
    x = unit(x)
    return x, x.norm(dim=-1).round()


def lengths(x: Tensor) -> Tensor:
    """Return the lengths of rows ``(..., C)`` of any finite values.

    In float32; in float64, which takes far longer, if some would over- or underflow.
    """
    length: Tensor = x.norm(dim=-1, dtype=torch.float32)
    if not bool(((length > 1e-15) & (length < 1e15)).all()):
        length = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return length


def unit(x: Tensor) -> Tensor:
    """Return the rows ``(..., C)`` at length one, in float32; zero rows stay zero.

    Rows whose length would over- or underflow are brought near one by their largest entry first.
    """
    x = x.float()
    length = x.norm(dim=-1, keepdim=True)
    safe = (length > 1e-15) & (length < 1e15)
    if not bool(safe.all()):
        largest = x.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        x = x / torch.where(safe, 1.0, largest)  # exact where a row is safe
        length = x.norm(dim=-1, keepdim=True)
    return torch.div(x, length.clamp_min(torch.finfo(x.dtype).tiny))


def min_max(scores: Tensor, floor: float = 0.0) -> Tensor:
    """Return scores ``(..., N)`` mapped to ``[0, 1]`` within each row, plus ``floor / spread``.

    A row of equal scores becomes all ones.
    """
    scores = scores.float()
    low, high = scores.aminmax(dim=-1, keepdim=True)
    spread = high - low
    flat = spread <= torch.finfo(scores.dtype).tiny
    return torch.where(flat, 1.0, (scores - low + floor) / spread.masked_fill(flat, 1.0))


def z_score(scores: Tensor) -> Tensor:
    """Return scores ``(..., N)`` with mean zero and deviation one in each row; zeros if equal."""
    scores = scores.float()
    centred = scores - scores.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    flat = deviation <= 1e-6 * scores.abs().amax(dim=-1, keepdim=True)
    return torch.where(flat, 0.0, centred / deviation.masked_fill(flat, 1.0))


def mean_cosine(x: Tensor, targets: Tensor) -> Tensor:
    """Return the cosine ``(B, N)`` of the rows of ``x`` ``(B, N, C)`` with some targets.

    Averaged over the targets ``(B, M, C)``.
    """
    middle = unit(targets).mean(dim=1, keepdim=True)
    x, length = with_lengths(x)
    # this way round, the rounding of an item does not depend on the others of the batch
    cosine = torch.bmm(middle, x.mT).squeeze(1)
    return cosine / length.clamp_min(torch.finfo(length.dtype).tiny)
