"""Divide a clip into the static positions of each segment and the other tokens of each frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...values.selection import Flow, Selection
from .segments import Segments


@dataclass(frozen=True)
class ClipParts:
    """The static positions of each segment of a clip.

    The parts of the clip are, in this order, the static positions of each segment and the other
    positions of each frame. A part is a row of ``N`` positions, some of which are its members.

    Parameters
    ----------
    segments : list of (first, end)
        All frames, in order.
    still : Tensor of bool, shape (S, N)
        The static positions of each segment.
    """

    segments: Segments
    still: Tensor

    @property
    def members(self) -> Tensor:
        """The members of each part, ``(S + T, N)``."""
        length = self.lengths
        return torch.cat([self.still, ~self.still.repeat_interleave(length, dim=0)])

    @property
    def lengths(self) -> Tensor:
        """The number of frames of each segment, ``(S,)``."""
        device = self.still.device
        return torch.tensor([end - first for first, end in self.segments], device=device)

    def loosened(self, score: Tensor, keep: int) -> ClipParts:
        """Return parts with at least ``keep`` members; the least static positions become dynamic.

        Parameters
        ----------
        score : Tensor, shape (S, N)
            How static each position is; higher for more static ones.
        keep : int
            At most the number of all tokens.
        """
        missing = keep - int(self.members.sum())
        if missing <= 0:
            return self
        gains = (self.lengths - 1).unsqueeze(1).expand_as(self.still).flatten()
        order = score.masked_fill(~self.still, torch.inf).flatten().argsort(stable=True)
        gained = torch.where(self.still.flatten()[order], gains[order], 0).cumsum(0)
        number = int((gained < missing).sum()) + 1
        still = self.still.flatten().clone()
        still[order[:number]] = False
        return replace(self, still=still.view_as(self.still))

    def stills(self, x: Tensor) -> Tensor:
        """Return the mean over each segment of the tokens ``(T, N, C)``: ``(S, N, C)``."""
        return torch.stack([x[first:end].float().mean(dim=0) for first, end in self.segments])

    def selection(self, leader: Tensor, leader_share: float | None = None) -> Selection:
        """Return the decision that merges every token into its leader.

        Parameters
        ----------
        leader : Tensor of int64, shape (S + T, N)
            The position into which each member of a part is merged, its own for a leader; -1 for a
            member that is dropped, and for positions that are not members.
        leader_share : float, optional
            Weight of a leader in its slot if others merge into it; by default weights are equal.
        """
        size = leader.shape[1]
        place = torch.arange(size, device=leader.device)
        leads = leader == place
        first = torch.tensor([start for start, _ in self.segments], device=leader.device)
        frames = self.segments[-1][1]
        base = torch.cat([first, torch.arange(frames, device=leader.device)]) * size
        anchors = (base.unsqueeze(1) + place)[leads].sort().values
        slot = torch.zeros(frames * size, dtype=torch.int64, device=leader.device)
        slot[anchors] = torch.arange(len(anchors), device=leader.device)

        part, token = (leader >= 0).nonzero(as_tuple=True)
        lead = leader[part, token]
        group = part * size + lead
        number = torch.bincount(group, minlength=leader.numel())[group].float()
        weight = 1.0 / number
        if leader_share is not None:
            others = (1.0 - leader_share) / (number - 1.0).clamp_min(1.0)
            weight = torch.where(number == 1, 1.0, torch.where(token == lead, leader_share, others))
        # a static position has one token in every frame of its segment
        length = torch.cat([self.lengths, torch.ones_like(base[len(first) :])])[part]
        again = torch.arange(len(part), device=leader.device).repeat_interleave(length)
        begin = (length.cumsum(0) - length)[again]
        later = torch.arange(len(again), device=leader.device) - begin
        source = (base[part] + token)[again] + later * size
        target = slot[base[part] + lead][again]
        return Selection(anchors, Flow(source, target, (weight / length)[again]))
