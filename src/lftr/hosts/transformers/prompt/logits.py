"""``logits_to_keep`` of the caller's prompt, translated to the shorter prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from ....values.errors import ArgumentError, UnsupportedModelError
from ..api import CallArguments, takes_columns_by_row, versions
from ..columns import Columns, pads_left


def shorter_logits(
    requested: int | Tensor, columns: Columns, mask: Tensor, start: int, held: int
) -> int | Tensor:
    """Return ``requested`` in columns of the shorter prompt.

    A number asks for that many last columns of the caller's prompt; none may have been dropped.

    Parameters
    ----------
    requested : int or Tensor
        Columns ``(n,)`` of the caller's prompt or ``(B, n)`` of each row; or a mask, bool
        ``(B, L)``.
    columns : Columns
        The columns of the new part that stay.
    mask : Tensor, shape (B, S)
        Which columns of the new part are tokens, not padding.
    start : int
        The first new column of the caller's prompt.
    held : int
        Number of columns that the model receives before the new part.

    Raises
    ------
    ArgumentError
        If a column was dropped, or belongs to an earlier turn.
    UnsupportedModelError
        If the rows need different columns and this release of transformers takes one set.
    """
    rows, length = mask.shape
    if isinstance(requested, int):
        if requested <= 1 and pads_left(mask):
            return requested
        requested = min(requested, length)
        last = torch.arange(length - requested, length, device=mask.device)
        if pads_left(mask) and bool((columns.index[:, -requested:] == last).all()):
            return requested
        requested = start + last
    place = torch.full((rows, length), -1, device=mask.device)
    to = torch.arange(columns.index.shape[1], device=mask.device).expand_as(columns.index)
    place.scatter_(1, columns.index.masked_fill(~columns.real, 0), to)
    first = (columns.index == 0) & columns.real  # padding overwrote it
    place[:, 0] = torch.where(first.any(dim=1), to.masked_fill(~first, 0).amax(dim=1), -1)
    place = torch.where(mask.bool(), place, length)  # padding has no column
    if requested.dtype == torch.bool:
        marks = requested[:, start:].to(mask.device)
        _check(requested, place.masked_fill(~marks, 0))
        kept = columns.take(marks, False)
        return torch.nn.functional.pad(kept, (held, 0), value=False)
    wanted = (
        torch.where(requested < 0, requested + start + length, requested).to(mask.device) - start
    )
    if bool((wanted < 0).any()) or bool((wanted >= length).any()):
        raise ArgumentError.of(
            CallArguments.name("logits"), requested.tolist(), f"{start} to {start + length - 1}"
        )
    shorter = place.gather(1, wanted.expand(rows, -1))
    _check(requested, shorter)
    shorter = shorter.clamp(max=columns.index.shape[1] - 1) + held
    if bool((shorter == shorter[0]).all()):
        return shorter[0]
    if not takes_columns_by_row():
        raise UnsupportedModelError(
            f"{CallArguments.name('logits')} = {requested.tolist()} become different columns in "
            f"each row of the shorter prompt, which this release cannot take; call it one row "
            f"at a time; {versions()}"
        )
    return shorter


def _check(requested: Tensor, columns: Tensor) -> None:
    if bool((columns < 0).any()):
        raise ArgumentError.of(
            CallArguments.name("logits"),
            requested.tolist(),
            "columns of text; a visual token among these was dropped",
        )
