"""Decisions about decisions: one after the other, and stacks of single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...values.errors import LftrError
from ...values.selection import Flow, Selection

ROUNDING = 1e-5  # shares of a token that are smaller are none


def identity(index: Tensor) -> Flow:
    """Return the flow in which every slot ``(B, K)`` is its anchor."""
    slot = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return Flow(index, slot, torch.ones_like(index, dtype=torch.float32))


def merged_notes(*parts: Selection) -> tuple[str, ...]:
    """Return the notes of all decisions, each once."""
    return tuple(dict.fromkeys(note for part in parts for note in part.notes))


def check_composable(*parts: Selection) -> None:
    """Refuse decisions with a ``slot_weight``, which does not say what it counts.

    Raises
    ------
    LftrError
        If one has a ``slot_weight``.
    """
    if any(part.slot_weight is not None for part in parts):
        raise LftrError(
            "a selection with a slot_weight (Merge with weighting='anchor') cannot be composed "
            "with another one: it does not say which tokens its slots stand for"
        )


def with_heirs(chosen: Selection, slot: Tensor, inner: object) -> Selection:
    """Return a stack whose dropped tokens flow into ``slot`` ``(B, N)``, where each counts as one.

    Tokens that flow somewhere already stay where they flow; of those that do so in part, the rest
    flows into ``slot``. Where all do, the choice of the method ``inner`` is returned with a note
    that says so.
    """
    check_composable(chosen)
    flow = chosen.flow or identity(chosen.index)
    lost = 1.0 - _carried(flow, slot.shape[1])
    lost = lost.where(lost > ROUNDING, 0.0)
    if not bool(lost.any()):
        note = f"{inner} merges all tokens that it drops by itself: merging its choice adds nothing"
        return replace(chosen, notes=(*chosen.notes, note))
    before = chosen.weight
    after = before.scatter_add(1, slot, lost)
    kept = flow.weight * (before / after).gather(1, flow.slot)
    source = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    return replace(
        chosen,
        flow=Flow(
            torch.cat([flow.source, source], dim=1),
            torch.cat([flow.slot, slot], dim=1),
            torch.cat([kept, lost / after.gather(1, slot)], dim=1),
            torch.cat([flow.shares(), lost], dim=1),
        ),
    )


def _carried(flow: Flow, total: int) -> Tensor:
    """Return how much of each of ``total`` tokens flows into slots, ``(B, N)``."""
    none = torch.zeros(len(flow.source), total, device=flow.source.device)
    return none.scatter_add(1, flow.source, flow.shares())


def after(first: Selection, second: Selection) -> Selection:
    """Return ``second``, about the slots of ``first``, as a decision about what ``first`` saw.

    Both are stacks. Exact: ``after(a, b).apply(x)`` is ``b.apply(a.apply(x))``, and its weight is
    ``b.inherited(a.weight)``, up to rounding.
    """
    notes = merged_notes(first, second)
    check_composable(first, second)
    if first.flow is None:
        whole = second.through(first.index)
        return Selection(whole.index, whole.flow, notes)
    flow = _product(first.flow, second.flow or identity(second.index), first.count)
    return Selection(first.index.gather(1, second.index), flow, notes)


def _product(first: Flow, second: Flow, middle: int) -> Flow:
    """Multiply two flows as the sparse matrices they are; ``middle`` slots lie between them."""
    giver = torch.where(second.weight != 0, second.source, middle)  # padding gives from nowhere
    order = giver.argsort(dim=1, stable=True)
    number = torch.zeros_like(giver[:, :1]).expand(-1, middle + 1)
    number = number.scatter_add(1, giver, torch.ones_like(giver))
    start = number.cumsum(1) - number
    most = torch.arange(int(number[:, :middle].amax()), device=giver.device)
    inside = most < number.gather(1, first.slot).unsqueeze(2)
    place = start.gather(1, first.slot).unsqueeze(2) + most
    entry = order.gather(1, place.clamp_max(order.shape[1] - 1).flatten(1))

    def times(left: Tensor, right: Tensor) -> Tensor:
        product = right.gather(1, entry).reshape(place.shape) * left.unsqueeze(2)
        return (product * inside).flatten(1)

    source = first.source.unsqueeze(2).expand(place.shape).flatten(1)
    weight = times(first.weight, second.weight)
    parts = source, second.slot.gather(1, entry), weight, times(first.shares(), second.shares())
    if len(most) == 1:
        return Flow(*parts)
    row, at = weight.nonzero(as_tuple=True)
    return padded(row, *(part[row, at] for part in parts), batch=len(order))


def padded(row: Tensor, *entries: Tensor, batch: int) -> Flow:
    """Return a stack's flow from sources, slots, weights and shares of the given rows.

    Short rows end in zeros.
    """
    order = row.argsort(stable=True)
    row = row[order]
    length = torch.bincount(row, minlength=batch)
    place = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
    longest = int(length.max())

    def fill(values: Tensor) -> Tensor:
        out = values.new_zeros(batch, longest)
        out[row, place] = values[order]
        return out

    return Flow(*map(fill, entries))


def union(first: Selection, second: Selection) -> Selection:
    """Return the slots of two stacks of decisions; their anchors are distinct.

    What ``second`` keeps is not in the slots of ``first`` any more. A token that both merge stands
    for half a token in each.
    """
    index, notes = torch.cat([first.index, second.index], dim=1), merged_notes(first, second)
    check_composable(first, second)
    if first.flow is None and second.flow is None:
        return Selection(index, notes=notes)
    one = _without(first.flow or identity(first.index), second.index, first.count)
    two = second.flow or identity(second.index)
    source = torch.cat([one.source, two.source], dim=1)
    share = torch.cat([one.shares(), two.shares()], dim=1)
    carried = _carried(Flow(source, source, share, share), int(source.max()) + 1)
    flow = Flow(
        source,
        torch.cat([one.slot, two.slot + first.count], dim=1),
        torch.cat([one.weight, two.weight], dim=1),
        share / carried.clamp_min(1.0).gather(1, source),
    )
    return Selection(index, flow, notes)


def _without(flow: Flow, tokens: Tensor, count: int) -> Flow:
    """Return a stack's flow into ``count`` slots, of which ``tokens`` ``(B, T)`` are no part.

    What is left of a slot is scaled to its former sum. A slot of such tokens alone stays.
    """
    last = torch.maximum(flow.source.max(), tokens.max())
    gone = torch.zeros(len(tokens), int(last) + 1, dtype=torch.bool, device=tokens.device)
    size = flow.weight.float().abs()
    left = size * ~gone.scatter(1, tokens, True).gather(1, flow.source)
    before, after = (
        size.new_zeros(len(size), count).scatter_add(1, flow.slot, one) for one in (size, left)
    )
    scale = torch.where(after > 0, before / after, 1.0).gather(1, flow.slot)
    stays = (left > 0) | (after == 0).gather(1, flow.slot)
    return replace(flow, weight=flow.weight * scale * stays, share=flow.shares() * stays)


class Joined:
    """A stack's decisions, gathered from decisions about parts of its items.

    Parameters
    ----------
    batch, count : int
        Items of the stack and slots of each.
    device : torch.device
        Where the parts are.
    """

    def __init__(self, batch: int, count: int, device: torch.device) -> None:
        self.index = torch.zeros(batch, count, dtype=torch.int64, device=device)
        self.weight = torch.ones(batch, count, device=device)
        self.entries: list[tuple[Tensor, ...]] = []
        self.parts: list[Selection] = []

    def add(self, part: Selection, row: Tensor, token: Tensor, slot: Tensor) -> None:
        """Take in a stack of decisions, each about a run of tokens of the item ``row``.

        Parameters
        ----------
        part : Selection
            ``P`` decisions.
        row, token, slot : Tensor of int64, shape (P,)
            Item of each, and the first of its tokens and slots there.
        """
        row, token, slot = (
            start.unsqueeze(1).to(self.index.device) for start in (row, token, slot)
        )
        place = slot + torch.arange(part.count, device=slot.device)
        index = part.index.to(self.index.device)
        self.index[row, place] = index + token
        if part.flow is not None or part.slot_weight is not None:
            self.weight[row, place] = part.weight.to(self.weight)
        flow = part.flow or identity(index)
        source, target = flow.source + token, flow.slot + slot
        entries = (row.expand_as(source), source, target, flow.weight, flow.shares())
        self.entries.append(tuple(entry.flatten() for entry in entries))
        self.parts.append(part)

    def selection(self) -> Selection:
        """Return the decision about whole items."""
        notes = merged_notes(*self.parts)
        weighted = any(part.slot_weight is not None for part in self.parts)
        weight = self.weight if weighted else None
        if all(part.flow is None for part in self.parts):
            return Selection(self.index, None, notes, weight)
        flow = padded(*map(torch.cat, zip(*self.entries, strict=True)), batch=len(self.index))
        return Selection(self.index, flow, notes, weight)


def stacked(parts: Sequence[Selection]) -> Selection:
    """Return single decisions of equal size as a stack."""
    joined = Joined(len(parts), parts[0].count, parts[0].index.device)
    zero = torch.zeros(1, dtype=torch.int64)
    for i, part in enumerate(parts):
        flow = part.flow
        if flow is not None:
            flow = Flow(*(p[None] for p in (flow.source, flow.slot, flow.weight, flow.shares())))
        weight = part.slot_weight if part.slot_weight is None else part.slot_weight[None]
        stack = Selection(part.index[None], flow, part.notes, weight)
        joined.add(stack, zero + i, zero, zero)
    return joined.selection()
