"""AOT: anchors gather what is dropped by optimal transport, in each frame and then over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.apportion import apportion
from ..operations.scaling import unit
from ..operations.segments import cut_at
from ..operations.signals import SALIENCY, saliency, stand_in
from ..operations.transport import sinkhorn
from ..operations.windows import spread_top, windows
from .base import ClipMethod

# constants of the program
_EPSILON = 0.1  # of both transports
_SPACE = 0.5  # weight of the distance in the grid
_NEAREST = 0.1  # share of the mean with the nearest tokens in an anchor
_SPAN = 1.5  # frames; deviation of the Gaussian over time
_WINDOWS = 3  # along a side of a frame

SHALLOW = ("attention_received_shallow", "attention_received")


@dataclass(frozen=True)
class AOT(ClipMethod, name="aot"):
    """Choose attended anchors in every frame, and move what is dropped into them by transport.

    In a frame, half of the anchors are chosen by the attention of a middle layer, from square
    windows alike (nine in a frame of 24 x 24), and the others by late attention. The other tokens
    of the frame are moved into them by optimal transport, at the cost of one minus the cosine plus
    half the distance in the grid. Then the clip is divided into equal segments. The anchors of a
    segment's first frame stay. Those of its other frames are moved into them in the same way, frame
    by frame, except for those whose transport is least decided, which stay too.

    Parameters
    ----------
    local : float
        Share in [0, 1] of a frame's anchors that are chosen from windows.
    rest : float
        Share in [0, 1] of the anchors that stay in frames other than the first of a segment.
    segments : int
        Number of segments; as published 8, for 32 or 64 frames.

    Notes
    -----
    Evidence: the attention received in a middle layer; attention.
    Differs from the original: acts on the tokens that enter the language model (there anchors are
    chosen before frames are pooled). The count is exact, and sets the number of anchors of a frame
    (there that is an option, and with the same number it keeps as many). A segment's first anchors
    are kept once, with what moved into them (there also a second time, without). Sinkhorn's scaling
    runs 100 times, in float64 (there until it hardly changes). With fewer slots than segments there
    are fewer segments, with one token each.
    """

    source = Source(
        "AOT",
        arxiv="2603.01400",
        venue="CVPR 2026",
        code="https://github.com/TyroneLi/AOT",
        function="token_merging_siglip_with_OTA, ota_merge_N_to_M_time",
    )
    local: Annotated[float, Range(0.0, 1.0)] = 0.5
    rest: Annotated[float, Range(0.0, 1.0)] = 0.3
    segments: Annotated[int, Range(1)] = 8

    @property
    def evidence(self) -> Evidence:
        return (SHALLOW, SALIENCY)

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        size = height * width
        x = tokens.features.reshape(frames, size, -1).double()
        used, middle = tokens.evidence(*SHALLOW)
        late, notes = saliency(tokens.as_batch())
        notes += stand_in(used, SHALLOW[0])
        scores = middle.float().view(frames, 1, size), late.view(frames, 1, size)
        number = min(self.segments, frames, keep)
        starts = [frames * i // number for i in range(number)]
        anchors, counts = self._counts(frames, size, starts, keep)
        index: list[Tensor] = []  # kept tokens of the clip
        parts: list[tuple[Tensor, int]] = []  # what they are made of, and its first token
        for start, end in cut_at(starts, frames):
            pick = self._anchors(scores[0][start], scores[1][start], tokens, counts[start])
            key = x.new_zeros(len(pick), (end - start) * size)
            key[:, :size] = _frame_assignment(x[start], pick, (height, width))
            states = key[:, :size] @ x[start]
            index.append(pick + start * size)
            parts.append((key, start * size))
            for t in range(start + 1, end):
                pick = self._anchors(scores[0][t], scores[1][t], tokens, anchors)
                within = _frame_assignment(x[t], pick, (height, width))
                moving = within @ x[t]
                share = _assign_over_time(moving, states, t - start)
                # two anchors on each side are equally decided, but for rounding
                order = share.amax(dim=1).mul(2.0**24).round().argsort(stable=True)
                stay, go = order[: counts[t]], order[counts[t] :]
                share = share[go].mT
                load = 1.0 + share.sum(dim=1, keepdim=True)
                key[:, (t - start) * size : (t - start + 1) * size] = share @ within[go]
                key /= load
                states = (states + share @ moving[go]) / load
                index.append(pick[stay] + t * size)
                parts.append((within[stay], t * size))
        return Selection(torch.cat(index), _flow(parts), notes)

    def _counts(
        self, frames: int, size: int, starts: list[int], keep: int
    ) -> tuple[int, list[int]]:
        """Return the number of anchors of a frame, and how many tokens of each frame are kept."""
        others = sorted(set(range(frames)) - set(starts))
        anchors = 1
        while anchors < size and keep > len(starts) * anchors + len(others) * self._stay(anchors):
            anchors += 1
        claims = torch.tensor([[1.0] * len(starts) + [self.rest] * len(others)])
        counts = [0] * frames
        shares = apportion(keep, claims, torch.tensor([anchors]))[0].tolist()
        for frame, share in zip((*starts, *others), shares, strict=True):
            counts[frame] = share
        return anchors, counts

    def _stay(self, anchors: int) -> int:
        """Return how many anchors of a later frame stay in the program: those below a quantile."""
        return math.ceil(self.rest * (anchors - 1))

    def _anchors(self, middle: Tensor, late: Tensor, tokens: VisualTokens, count: int) -> Tensor:
        """Return the ``count`` anchors of a frame, ascending, by its scores ``(1, N)``."""
        _, height, width = tokens.blocks[0]
        window = windows(((1, height, width),), max(1, min(height, width) // _WINDOWS))
        near = spread_top(middle, window, int(count * self.local))
        late = late.scatter(1, near, -torch.inf)
        far = late.argsort(dim=1, descending=True, stable=True)[:, : count - near.shape[1]]
        return torch.cat([near, far], dim=1)[0].sort().values


def _frame_assignment(x: Tensor, pick: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return what the anchors of a frame are made of, ``(M, N)``; rows sum to one.

    Parameters
    ----------
    x : Tensor of float64, shape (N, C)
        The frame's tokens.
    pick : Tensor of int64, shape (M,)
        The anchors.
    shape : (H, W)
    """
    slots = torch.arange(len(pick), device=x.device)
    whole = x.new_zeros(len(pick), len(x))
    whole[slots, pick] = 1.0
    loose = torch.ones(len(x), dtype=torch.bool, device=x.device)
    loose[pick] = False
    if not bool(loose.any()) or not len(pick):
        return whole
    near = unit(x).double()
    cosine = near[loose] @ near[pick].mT
    axes = [torch.linspace(0, 1, length, dtype=x.dtype, device=x.device) for length in shape]
    place = torch.cartesian_prod(*axes)
    plan = sinkhorn(1.0 - cosine + _SPACE * torch.cdist(place[loose], place[pick]), _EPSILON)
    moved, joined = whole.clone(), whole.clone()
    moved[:, loose] = plan.mT
    joined[cosine.argmax(dim=1), loose.nonzero().squeeze(1)] = 1.0
    moved, joined = (one / one.sum(dim=1, keepdim=True) for one in (moved, joined))
    return (1.0 - _NEAREST) * moved + _NEAREST * joined


def _assign_over_time(x: Tensor, key: Tensor, steps: int) -> Tensor:
    """Return how later anchors ``x`` ``(M, C)`` are divided among first ones, ``(M, M0)``.

    ``steps`` is how many frames lie between them; rows sum to one.
    """
    cost = 1.0 - unit(x).double() @ unit(key).double().mT
    cost = (cost - cost.min()) * (1.0 - math.exp(-(steps**2) / (2.0 * _SPAN**2)))
    plan = sinkhorn(cost, _EPSILON)
    return plan / plan.sum(dim=1, keepdim=True)


def _flow(parts: list[tuple[Tensor, int]]) -> Flow:
    """Return the flow into slots, of which each part has the rows of some.

    A part is a matrix of slots by tokens, and the place of its first token in the clip.
    """
    sources, slots, weights, first = [], [], [], 0
    for rows, start in parts:
        rows = rows.float()
        slot, source = rows.nonzero().unbind(1)
        sources.append(source + start)
        slots.append(slot + first)
        weights.append(rows[slot, source])
        first += len(rows)
    return Flow(torch.cat(sources), torch.cat(slots), torch.cat(weights))
