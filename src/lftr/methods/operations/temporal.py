"""LFTR's reduction over time, and the choice among the tokens that it leaves of each frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...values.indexing import take
from ...values.selection import Flow, Selection
from ...values.tokens import VisualTokens
from .cells import evenly_spaced
from .composing import padded
from .directions import Directions
from .flows import ROUNDING
from .motion import stillness
from .relevance_greedy import marginal_relevance
from .similarity import Similarity


def most_changed(x: Tensor, length: Tensor, keep: int, first: int) -> Tensor:
    """Return the tokens least similar to those at their position a frame before, ``(B, T, N)``.

    Evenly spread tokens of the first frame come before all others, its remaining tokens last.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
    length : Tensor, shape (B, T, N)
    keep : int
        How many of the ``T * N`` tokens.
    first : int
        Tokens of the first frame that come first, at most ``keep``.
    """
    batch, frames, size, _ = x.shape
    score = torch.full((batch, frames, size), -torch.inf, device=x.device)
    score[:, 1:] = 1.0 - stillness(x, length)
    first = min(first, size)
    spread = (2 * torch.arange(first, device=x.device) + 1) * size // (2 * max(first, 1))
    score[:, 0, spread] = torch.inf
    index = Selection.top(score.flatten(1), keep).index
    mask = torch.zeros(batch, frames * size, dtype=torch.bool, device=x.device)
    return mask.scatter_(1, index, True).view(batch, frames, size)


def run_slots(slot: Tensor, stays: Tensor) -> Tensor:
    """Return slots in which every token has that of the last kept token at its position.

    Parameters
    ----------
    slot : Tensor of int64, shape (B, T, N)
        Slot of every kept token; -1 for other tokens.
    stays : Tensor of bool, shape (B, T, N)
        The tokens that open a run.
    """
    frame = torch.arange(stays.shape[1], device=stays.device)[:, None]
    since = torch.where(stays, frame, -1).cummax(dim=1).values
    return torch.where(since >= 0, slot.gather(1, since.clamp_min(0)), -1)


def slot_flow(slot: Tensor, count: int) -> Flow:
    """Return the flow that averages the tokens of each of ``count`` slots; -1 is no slot.

    Parameters
    ----------
    slot : Tensor of int64, shape (B, N)
    count : int
    """
    row, token = (slot >= 0).nonzero(as_tuple=True)
    to = slot[row, token]
    number = torch.bincount(row * count + to, minlength=len(slot) * count)
    weight = 1.0 / number[row * count + to].float()
    return padded(row, token, to, weight, batch=len(slot))


def nearest_kept(x: Tensor, length: Tensor, kept: Tensor) -> Tensor:
    """Return the slot of the kept token of its frame that is nearest to each token, ``(B, T, N)``.

    Slots count the kept tokens of an item; -1 where a frame keeps none.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
    length : Tensor, shape (B, T, N)
    kept : Tensor of bool, shape (B, T, N)
    """
    slots = kept.flatten(1).cumsum(dim=1).view(kept.shape).flatten(0, 1) - 1
    rows, lengths, kept = x.flatten(0, 1), length.flatten(0, 1), kept.flatten(0, 1)
    number = kept.sum(dim=1)
    index = (~kept).int().argsort(dim=1, stable=True)[:, : int(number.max())]
    inside = kept.gather(1, index)
    centres = take(rows, index, 1) / lengths.gather(1, index).unsqueeze(2)
    cosine = torch.bmm(rows / lengths.unsqueeze(2), centres.mT)
    near = cosine.masked_fill(~inside.unsqueeze(1), -torch.inf)
    best = (near >= near.amax(dim=2, keepdim=True) - ROUNDING).max(dim=2).indices
    slot = torch.where(kept, slots, slots.gather(1, index).gather(1, best))
    return torch.where(number.unsqueeze(1) > 0, slot, -1).view(x.shape[:3])


def pick_in_frames(
    x: Tensor,
    length: Tensor,
    scores: Tensor,
    stays: Tensor,
    counts: Tensor,
    tokens: VisualTokens,
    *,
    diversity: float,
    share: float,
    relevant: bool,
) -> Tensor:
    """Pick in each frame by `marginal_relevance`, among tokens that are left; ``(B, T, N)``.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
    length, scores : Tensor, shape (B, T, N)
    stays : Tensor of bool, shape (B, T, N)
        What can be picked.
    counts : Tensor of int64, shape (B, T)
        Number of picks in each frame, at most the number of tokens left.
    tokens : VisualTokens
        One frame, whose grid tells what is evenly spread.
    diversity : float
        See `marginal_relevance`.
    share : float
        Candidates of a frame, as a multiple of the geometric mean of tokens left and picks.
    relevant : bool
        Whether candidates are those of the highest scores, or evenly spread ones.
    """
    rows, stays, scores = x.flatten(0, 1), stays.flatten(0, 1), scores.flatten(0, 1)
    counts = counts.flatten().to(x.device)
    number = _candidates(stays.sum(dim=1), counts, share)
    if relevant:
        order = scores.masked_fill(~stays, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranks = order.argsort(dim=1)
        able = ranks < number.unsqueeze(1)
    else:
        able = _spread(stays, number, tokens)
    kept = able.clone()  # right where all candidates are picked
    lengths = length.flatten(0, 1)
    width = 2 ** (number - 1).clamp_min(0).double().log2().ceil().long()  # alike ones together
    for alike in width[number > counts].unique().tolist():
        group = ((width == alike) & (number > counts)).nonzero().squeeze(1)
        index = (~able[group]).int().argsort(dim=1, stable=True)[:, : int(number[group].max())]
        place = group.unsqueeze(1)
        near = Directions((rows[place, index],), (lengths[place, index].reciprocal(),))
        most = int(counts[group].max())
        similarity = Similarity(near, most, diagonal=torch.inf)
        inside = able[place, index]
        picks = marginal_relevance(similarity, scores[place, index], most, diversity, among=inside)
        picked = torch.arange(most, device=x.device) < counts[group].unsqueeze(1)
        row, turn = picked.nonzero(as_tuple=True)
        kept[group] = False
        kept[group[row], index[row, picks[row, turn]]] = True
    return kept.view(x.shape[:3])


def _candidates(stays: Tensor, counts: Tensor, share: float) -> Tensor:
    """Return ``share * sqrt(stays * counts)`` ``(R,)``, rounded up, from counts to stays.

    Zero where no token is to be picked.
    """
    if math.isinf(share):
        return stays * (counts > 0)
    means = (share * (stays * counts).double().sqrt()).ceil().long()
    return means.minimum(stays).maximum(counts)


def _spread(stays: Tensor, number: Tensor, tokens: VisualTokens) -> Tensor:
    """Return ``number`` ``(R,)`` evenly spread tokens of those left, ``stays`` ``(R, N)``."""
    whole = stays.sum(dim=1, keepdim=True)
    rank = stays.cumsum(dim=1) - 1
    half, wanted = whole // 2, number.unsqueeze(1)
    able = stays & (
        ((rank + 1) * wanted + half) // whole.clamp_min(1)
        != ((rank * wanted + half) // whole.clamp_min(1))
    )
    full = whole.squeeze(1) == stays.shape[1]
    for count in number[full].unique().tolist():
        row = (full & (number == count)).nonzero().squeeze(1)
        able[row] = False
        if count:
            able[row.unsqueeze(1), evenly_spaced(tokens, count)] = True
    return able
