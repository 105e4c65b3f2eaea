"""Build flows: the weights with which tokens are averaged into slots."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...values.selection import Flow
from .directions import Directions
from .scaling import unit

BLOCK = 1 << 22  # similarities that are in memory at once
ROUNDING = 1e-6  # cosines that are nearer than this are equal


def mean_flow(slot: Tensor, count: int) -> Flow:
    """Return the flow that averages the tokens of each slot.

    Parameters
    ----------
    slot : Tensor of int64, shape (B, N)
        Slot of each token.
    count : int
        Number of slots.
    """
    ones = torch.ones_like(slot, dtype=torch.float32)
    number = ones.new_zeros(len(slot), count).scatter_add_(1, slot, ones)
    source = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    return Flow(source, slot, number.reciprocal_().gather(1, slot))


def weighted_flow(slot: Tensor, weight: Tensor, count: int) -> Flow:
    """Return the flow that averages the tokens of each slot by non-negative ``weight`` ``(B, N)``.

    A slot whose weights are all zero is the plain mean. Entry ``i`` of the flow is token ``i``.
    """
    weight, one = weight.float(), torch.ones_like(weight, dtype=torch.float32)
    source = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    whole = Flow(source, slot, weight).combine(one, count).gather(1, slot)
    if bool((whole <= 0).any()):
        weight = torch.where(whole > 0, weight, one)
        whole = Flow(source, slot, weight).combine(one, count).gather(1, slot)
    return Flow(source, slot, weight / whole)


def grouped_flow(source: Tensor, slot: Tensor, count: int) -> Flow:
    """Return the flow that averages the tokens of each slot; a token may be in several slots.

    Parameters
    ----------
    source, slot : Tensor of int64, shape (E,)
        Tokens and their slots; no slot is left out.
    count : int
        Number of slots.
    """
    number = torch.bincount(slot, minlength=count)
    return Flow(source, slot, 1.0 / number[slot].float())


def nearest(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slot ``(B, N)`` of the kept token nearest to each token, and their cosine.

    A kept token is in its own slot; ties go to the earlier slot.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    index : Tensor of int64, shape (B, K)
        The kept tokens.
    """
    return clusters(Directions.of(x), index)


def clusters(
    tokens: Directions,
    index: Tensor,
    rounds: int = 0,
    part: Tensor | None = None,
    cosine: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the slot ``(B, N)`` of each token, and its cosine with the slot's centre.

    The centre is the kept token at first. In each round of k-means it becomes the mean of the
    slot's tokens, scaled to length one, and every token goes to the slot of the nearest centre.
    Kept tokens stay in their own slots.

    Parameters
    ----------
    tokens : Directions
        Of ``(B, N)`` tokens.
    index : Tensor of int64, shape (B, K)
        The kept tokens.
    rounds : int
        Rounds of k-means.
    part : Tensor of int64, shape (N,), optional
        The part of the item that each token is in, such as its frame. Tokens go to slots of the
        same part if it has any.
    cosine : Tensor, shape (B, K, N), optional
        The cosines of the kept tokens with all, if they are known.
    """
    parts = None if part is None else (part, part[index])
    shape = (*index.shape, tokens.shape[1])

    def cosines(some: slice) -> Tensor:
        return tokens.rows(index, some) if cosine is None else cosine[:, :, some]

    slot, best = _nearest(cosines, shape, parts)
    slot = with_anchors(slot, index)
    if rounds:
        rows, length = tokens.joined()
        x = rows / length.unsqueeze(2)
    for _ in range(rounds):
        centres = unit(mean_flow(slot, index.shape[1]).combine(x, index.shape[1]))
        slot, best = nearest_to(x, centres, parts)
        slot = with_anchors(slot, index)
    return slot, best


def nearest_to(
    x: Tensor, centres: Tensor, parts: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the centre of ``(B, K, C)`` nearest to each token of ``(B, N, C)``, and their cosine.

    Of equally near centres the earlier is taken; cosines that differ by rounding alone are equal.
    Tokens are compared in blocks, so that memory stays linear in N.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
        Tokens of length one.
    centres : Tensor, shape (B, K, C)
        Centres of length one.
    parts : tuple of Tensor, shapes (N,) and (B, K), optional
        The part of the item that each token and each centre is in. A centre of another part is
        taken only if no centre is in the token's part.
    """
    shape = (*centres.shape[:2], x.shape[1])
    return _nearest(lambda some: torch.bmm(centres, x[:, some].mT), shape, parts)


def _nearest(
    cosines: Callable[[slice], Tensor],
    shape: tuple[int, int, int],
    parts: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return what `nearest_to` does, from the cosines ``(B, K, n)`` of some of the tokens."""
    batch, count, total = shape
    step = max(1, BLOCK // (count * batch))
    slots, best = [], []
    for start in range(0, total, step):
        cosine = cosines(slice(start, start + step))
        if parts is not None:
            cosine = cosine - 3.0 * (parts[1].unsqueeze(2) != parts[0][start : start + step])
        best.append(cosine.amax(dim=1))
        slots.append((cosine >= best[-1].unsqueeze(1) - ROUNDING).max(dim=1).indices)
    return torch.cat(slots, dim=1), torch.cat(best, dim=1)


def with_anchors(slot: Tensor, index: Tensor) -> Tensor:
    """Return ``slot`` ``(B, N)`` with every kept token of ``index`` ``(B, K)`` in its own slot."""
    return slot.scatter(1, index, torch.arange(index.shape[1], device=slot.device).expand_as(index))


def groups_of(leader: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leaders ``(B, K)``, ascending, and the slot ``(B, N)`` of each token.

    Parameters
    ----------
    leader : Tensor of int64, shape (B, N)
        The token that leads each token's group, equally many in each row; leaders lead themselves.
    """
    place = torch.arange(leader.shape[1], device=leader.device)
    leads = leader == place
    index = leads.nonzero()[:, 1].reshape(len(leader), -1)
    return index, (leads.cumsum(1) - 1).gather(1, leader)
