"""The columns of a call that no layer has dropped yet, and the states of the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .masks import rows_of


class LiveColumns:
    """The columns of one call that layers work on, as tensors ``(B, R)`` with -1 for padding.

    Parameters
    ----------
    visual : Tensor of bool, shape (B, L)
        Columns that are visual tokens.
    valid : Tensor of bool, shape (B, L)
        Columns that are not padding.

    Attributes
    ----------
    counts : list of int
        Visual tokens of each row of the batch.
    everything : Tensor of int64, shape (B, L)
        All columns.
    alive : Tensor of int64, shape (B, R)
        Those that have not been dropped.
    current : Tensor of int64, shape (B, R)
        Those of the states that `move` returned last.
    left : int
        Number of visual tokens in ``alive``.
    survivors : dict of int to Tensor
        For each row of the batch with visual tokens, the last ones that it had.
    """

    def __init__(self, visual: Tensor, valid: Tensor) -> None:
        self.visual = visual
        self.valid = valid
        self.length = visual.shape[1]
        self.counts: list[int] = visual.sum(dim=1).tolist()
        self.everything = torch.arange(self.length, device=visual.device).expand(visual.shape)
        self.alive = self.everything
        self.current = self.everything
        self.left = sum(self.counts)
        self.survivors = {
            row: visual[row].nonzero().squeeze(1) for row, count in enumerate(self.counts) if count
        }
        self._split: tuple[Tensor, Tensor, Tensor] | None = None
        self._stored: Tensor | None = None  # states of all columns, when they were last worked on

    def move(self, states: Tensor, target: Tensor) -> Tensor:
        """Return the states of the columns ``target``; those of other columns are stored."""
        if target is self.current:
            return states
        if self._stored is None:
            self._stored = torch.cat([states, torch.zeros_like(states[:, :1])], dim=1)
        else:
            place = torch.where(self.current >= 0, self.current, self.length)[..., None]
            place = place.to(states.device).expand_as(states)
            self._stored = self._stored.to(states.device).scatter(1, place, states)
        self.current = target
        return self._stored[:, :-1] if target is self.everything else rows_of(self._stored, target)

    def drop(self, lost: Mapping[int, Tensor]) -> None:
        """Take columns of some rows of the batch out of ``alive``."""
        keep = self._is_alive()
        for row, columns in lost.items():
            keep[row, columns] = False
        for row, before in self.survivors.items():
            after = before[keep[row, before]]
            self.survivors[row] = after if len(after) else before
        self.alive = _columns(keep, self.valid)
        self.left = int((keep & self.visual).sum())
        self._split = None

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` ``(B, L)`` over the visual tokens in ``alive``."""
        return (values * (self._is_alive() & self.visual)).sum()

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return which of ``alive`` are text, which are visual, and both, the visual ones first."""
        if self._split is None:
            alive = self._is_alive()
            text = _columns(alive & ~self.visual, self.valid)
            visual = _columns(alive & self.visual, self.valid)
            self._split = text, visual, torch.cat([visual, text], dim=1)
        return self._split

    def _is_alive(self) -> Tensor:
        """Return which columns have not been dropped and are no padding, bool ``(B, L)``."""
        place = torch.where(self.alive >= 0, self.alive, self.length)
        marks = torch.zeros(len(place), self.length + 1, dtype=torch.bool, device=place.device)
        return marks.scatter(1, place, True)[:, :-1] & self.valid


def _columns(keep: Tensor, valid: Tensor) -> Tensor:
    """Return the columns where ``keep`` ``(B, L)``, padded with -1 on the side of the padding."""
    longest = int(keep.sum(dim=1).max())
    order = keep.to(torch.uint8).argsort(dim=1, stable=True, descending=True)[:, :longest]
    columns = torch.where(keep.gather(1, order), order, -1)
    if not bool(valid[:, -1].all()):
        return columns
    missing = (columns < 0).sum(dim=1, keepdim=True)
    place = (torch.arange(longest, device=keep.device) - missing) % max(longest, 1)
    return columns.gather(1, place.expand(len(columns), longest))
