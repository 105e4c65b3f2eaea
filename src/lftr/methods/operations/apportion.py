"""Divide exactly K slots among parts in proportion, with the rounding that a program uses."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDED = 0.5  # counts are `round(claim * factor)` for the factor that meets the total
FLOORED = 1.0  # `int(claim * factor)`
CEILED = 0.0  # `ceil(claim * factor)`


def apportion(
    total: int, claims: Tensor, limits: Tensor, offset: float | Tensor = ROUNDED, least: int = 0
) -> Tensor:
    """Return how many of ``total`` slots each part gets, in proportion to its claim.

    For every total there is a factor, so that each count is the part's claim times that factor,
    rounded as ``offset`` says and clamped between ``least`` and the limit. Programs multiply and
    round in this way: for a total that such a program can reach, the counts are equal to its own,
    and all other totals are possible too. A larger total never takes a slot from a part. If a slot
    is due to several parts at the same factor, the parts to which the rounding gives it come first
    (a half is rounded to the even number, as in Python and PyTorch), then the earlier parts. With
    fewer slots than parts, the parts with the largest claims get one each.

    Parameters
    ----------
    total : int
        At most the sum of the limits.
    claims : Tensor, shape (B, P)
        Non-negative. Parts without a claim come last. Where claims are shares of a count, float64,
        since float32 rounds some of their products up to the next whole number.
    limits : Tensor of int64, shape (P,) or (B, P)
        Largest number of slots of each part.
    offset : float or Tensor, shape (P,)
        `ROUNDED`, `FLOORED` or `CEILED`, for all parts or for each.
    least : int
        Number of slots that every part gets first, as long as there are enough.

    Returns
    -------
    Tensor of int64, shape (B, P), on the CPU
    """
    batch, parts = claims.shape
    claims, limits = claims.cpu().double(), limits.cpu().expand(batch, parts)
    place = torch.arange(max(int(limits.amax()), 1), device="cpu")
    shift = torch.as_tensor(offset, dtype=torch.float64, device="cpu").expand(parts)
    worth = claims.unsqueeze(2) / (place + shift.unsqueeze(1)).clamp_min(1e-9)
    # a first slot before every second one, and what has no claim after all that has one
    worth = torch.where(place < least, claims.unsqueeze(2) * 2.0**100 + 2.0**64, worth)
    idle = -1.0 - place.double()
    worth = torch.where((claims.unsqueeze(2) > 0) | (place < least), worth, idle)
    worth = worth.masked_fill(place >= limits.unsqueeze(2), -torch.inf)
    due = torch.where(shift.unsqueeze(1) == ROUNDED, place % 2 == 1, shift.unsqueeze(1) == FLOORED)
    first = due.flatten().int().argsort(descending=True, stable=True)
    order = worth.flatten(1)[:, first].argsort(dim=1, descending=True, stable=True)
    order = first[order[:, :total]]
    counts = torch.zeros(batch, parts, dtype=torch.int64, device="cpu")
    return counts.scatter_add_(1, order // len(place), torch.ones_like(order))


def floored(total: int, claims: Tensor, limits: Tensor) -> Tensor:
    """Return how many of ``total`` slots each part gets: its share, rounded down, and the rest.

    The rest goes to the parts of the largest claims, one slot each. What a part cannot take is
    divided among the others by the same rule.

    Parameters
    ----------
    total : int
        At most the sum of the limits.
    claims : Tensor, shape (B, P)
        Non-negative. If all are zero, they count as equal.
    limits : Tensor of int64, shape (P,)
        Largest number of slots of each part.

    Returns
    -------
    Tensor of int64, shape (B, P), on the CPU
    """
    claims, limits = claims.cpu().double(), limits.cpu()
    counts = torch.zeros(claims.shape, dtype=torch.int64, device="cpu")
    least = claims.amax(dim=1, keepdim=True).clamp_min(1e-300) * 1e-9
    claims = claims.maximum(least)
    while bool((counts.sum(dim=1) < total).any()):
        open_ = claims.where(counts < limits, 0.0)
        share = open_ / open_.sum(dim=1, keepdim=True).clamp_min(1e-300)
        counts += (share * (total - counts.sum(dim=1, keepdim=True))).floor().long()
        counts = counts.minimum(limits)
        open_ = claims.where(counts < limits, -1.0)
        rank = open_.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        counts += (rank < total - counts.sum(dim=1, keepdim=True)) & (open_ > 0)
    return counts


def largest_remainders(total: int, weights: Tensor) -> Tensor:
    """Divide slots in proportion to weights, rounded down; the largest remainders get one more.

    Parameters
    ----------
    total : int
    weights : Tensor, shape (P,), on the CPU
        Non-negative; equal shares if their sum is below 1e-8.

    Returns
    -------
    Tensor of int64, shape (P,), on the CPU
    """
    return capped_remainders(total, weights, torch.full(weights.shape, total))


def capped_remainders(total: int, weights: Tensor, limits: Tensor) -> Tensor:
    """Divide slots as `largest_remainders`; what is above a part's limit is divided again.

    Parameters
    ----------
    total : int
        At most the sum of the limits.
    weights : Tensor, shape (P,), on the CPU
    limits : Tensor of int64, shape (P,), on the CPU
        Largest number of slots of each part.
    """
    counts = torch.zeros_like(limits)
    while (left := total - int(counts.sum())) > 0:
        room = limits - counts
        active = weights.where(room > 0, 0.0)
        if active.sum() < 1e-8:
            active = (room > 0).to(weights)
        claim = active / active.sum() * left
        floor = claim.floor()
        more = left - int(floor.sum())
        order = (claim - floor).masked_fill(room <= 0, -1.0).argsort(descending=True, stable=True)
        share = floor.long()
        share[order[:more]] += 1
        counts += torch.minimum(share, room)
    return counts


def highest(scores: Tensor, counts: Tensor) -> Tensor:
    """Return where the highest ``counts`` ``(R,)`` scores of each row ``(R, N)`` are."""
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < counts.unsqueeze(1)
