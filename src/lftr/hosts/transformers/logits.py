"""Which logits a caller asks for, told in columns of the shorter prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ArgumentError, UnsupportedModelError
from .api import Call, takes_columns_by_row, versions
from .prompt import Columns, pads_left


def shorter_logits(
    asked: int | Tensor, columns: Columns, mask: Tensor, start: int, held: int
) -> int | Tensor:
    """Return the logits that are asked for as the model that is given the shorter prompt counts.

    A number is of the last columns of the caller's prompt, none of which may have been dropped.

    Parameters
    ----------
    asked : int or Tensor
        Columns ``(n,)`` of the caller's prompt or ``(B, n)`` of each row; or a mask, bool
        ``(B, L)``.
    columns : Columns
        Those of the new part that stay.
    mask : Tensor, shape (B, S)
        Which columns of the new part are no padding.
    start : int
        First new column of the caller's prompt.
    held : int
        Columns that the model is given in front of the new part.

    Raises
    ------
    ArgumentError
        If one of them was dropped, or is of an earlier turn.
    UnsupportedModelError
        If rows would need columns of their own and this release of transformers takes none.
    """
    rows, length = mask.shape
    if isinstance(asked, int):
        if asked <= 1 and pads_left(mask):
            return asked
        asked = min(asked, length)
        last = torch.arange(length - asked, length, device=mask.device)
        if pads_left(mask) and bool((columns.index[:, -asked:] == last).all()):
            return asked
        asked = start + last
    place = torch.full((rows, length), -1, device=mask.device)
    to = torch.arange(columns.index.shape[1], device=mask.device).expand_as(columns.index)
    place.scatter_(1, columns.index.masked_fill(~columns.real, 0), to)
    first = (columns.index == 0) & columns.real  # padding wrote over it
    place[:, 0] = torch.where(first.any(dim=1), to.masked_fill(~first, 0).amax(dim=1), -1)
    place = torch.where(mask.bool(), place, length)  # nothing is known of padding
    if asked.dtype == torch.bool:
        marks = asked[:, start:].to(mask.device)
        _check(asked, place.masked_fill(~marks, 0))
        kept = columns.take(marks, False)
        return torch.nn.functional.pad(kept, (held, 0), value=False)
    wanted = torch.where(asked < 0, asked + start + length, asked).to(mask.device) - start
    if bool((wanted < 0).any()) or bool((wanted >= length).any()):
        raise ArgumentError.of(
            Call.name("logits"), asked.tolist(), f"{start} to {start + length - 1}"
        )
    found = place.gather(1, wanted.expand(rows, -1))
    _check(asked, found)
    found = found.clamp(max=columns.index.shape[1] - 1) + held
    if bool((found == found[0]).all()):
        return found[0]
    if not takes_columns_by_row():
        raise UnsupportedModelError(
            f"{Call.name('logits')} = {asked.tolist()} are other columns of the shorter prompt in "
            f"every row, which this release takes none of; ask for one row at a time; {versions()}"
        )
    return found


def _check(asked: Tensor, found: Tensor) -> None:
    if bool((found < 0).any()):
        raise ArgumentError.of(
            Call.name("logits"), asked.tolist(), "columns of text; a visual token among them went"
        )
