"""VisToG's semantic slots: learned queries that group the tokens of an item."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...values.selection import Flow, Selection
from ...values.tokens import VisualTokens
from .fitted import Fitted
from .flows import mean_flow, with_anchors
from .greedy import farthest_point
from .scaling import unit
from .signals import ENCODER, encoder_features

_SHARPNESS = 10.0  # of the assignment, at first


class SemanticSlots(Fitted):
    """Groups tokens around learned queries, which first look at the item; a slot is a mean.

    Each query attends to the item's tokens and is changed by what it sees. Every token joins the
    query that is nearest by cosine. The anchor of a slot is the token nearest to its query that no
    earlier query took, and stays in the slot, so that no slot is empty. With fewer slots than
    queries the first are used, so that fitting with several budgets orders them. With more, further
    slots are tokens that are far from the anchors.

    Parameters
    ----------
    widths : mapping of str to int
        See `Fitted`.
    width : int
        Number of features in which queries and tokens are compared.
    slots : int
        Number of queries; 64 as published.
    """

    needs = (ENCODER,)

    def __init__(self, widths: Mapping[str, int], width: int = 64, slots: int = 64) -> None:
        super().__init__(widths, width=width, slots=slots)
        (size,) = widths.values()
        self.query = nn.Parameter(torch.randn(slots, width))
        self.key = nn.Linear(size, width, bias=False)
        self.look = nn.Linear(size, 2 * width, bias=False)
        self.change = nn.Linear(width, width, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.change.weight)

    @torch.no_grad()
    def initialise(self, tokens: VisualTokens) -> None:
        """Let the queries be tokens of some items that are far apart."""
        keys = unit(self._keys(tokens)).flatten(0, 1).unsqueeze(0)
        picks = farthest_point(keys, min(len(self.query), keys.shape[1]))
        self.query[: picks.shape[1]] = keys[0, picks[0]]

    def decide(self, tokens: VisualTokens, keep: int) -> Selection:
        logits, anchors = self._logits(tokens, keep)
        slot = with_anchors(logits.argmax(dim=1), anchors)
        return Selection(anchors, mean_flow(slot, keep))

    def relax(
        self, tokens: VisualTokens, keep: int, temperature: float, noise: torch.Generator
    ) -> Selection:
        """Group by perturbed similarities (Gumbel), with the gradient of soft groups."""
        logits, anchors = self._logits(tokens, keep)
        uniform = torch.rand(logits.shape, generator=noise).clamp(1e-6, 1 - 1e-6).to(logits)
        logits = logits - temperature * (-uniform.log()).log()
        soft = logits.softmax(dim=1)
        slot = with_anchors(logits.argmax(dim=1), anchors)
        hard = torch.zeros_like(soft).scatter_(1, slot.unsqueeze(1), 1.0)
        member = hard + (soft - soft.detach())  # straight through
        weight = member / member.sum(dim=2, keepdim=True)
        batch, total = slot.shape
        source = torch.arange(total, device=slot.device).expand(batch, keep, total)
        target = torch.arange(keep, device=slot.device).view(1, keep, 1).expand(batch, keep, total)
        flow = Flow(source.flatten(1), target.flatten(1), weight.flatten(1))
        return Selection(anchors, flow, slot_weight=hard.sum(dim=2))

    def _keys(self, tokens: VisualTokens) -> Tensor:
        x, _ = encoder_features(tokens)
        return self.key(unit(x)) * x.shape[-1] ** 0.5  # type: ignore[no-any-return]

    def _logits(self, tokens: VisualTokens, keep: int) -> tuple[Tensor, Tensor]:
        """Return similarities ``(B, K, N)`` of slots and tokens, and the anchors ``(B, K)``."""
        x, _ = encoder_features(tokens)
        keys = unit(self._keys(tokens))
        query = self.query[:keep].expand(len(x), -1, -1)
        where, what = (self.look(unit(x)) * x.shape[-1] ** 0.5).chunk(2, dim=2)
        seen = (torch.bmm(query, where.mT) / query.shape[-1] ** 0.5).softmax(dim=2)
        query = unit(query + self.change(torch.bmm(seen, what)))
        cosine = torch.bmm(query, keys.mT)
        with torch.no_grad():
            anchors = _distinct(cosine)
            more = keep - anchors.shape[1]
            if more:
                anchors = torch.cat([anchors, _far(keys, anchors, more)], dim=1)
        if more:
            seeds = keys.gather(1, anchors[:, -more:, None].expand(-1, -1, keys.shape[2]))
            cosine = torch.cat([cosine, torch.bmm(seeds, keys.mT)], dim=1)
        return cosine * self.sharpness.exp(), anchors


def _distinct(cosine: Tensor) -> Tensor:
    """Return for each query in turn the nearest token ``(B, K)`` that no earlier one took."""
    free = torch.zeros_like(cosine[:, 0])
    picks = []
    for row in cosine.unbind(1):
        pick = (row + free).argmax(dim=1)
        free = free.scatter(1, pick.unsqueeze(1), -torch.inf)
        picks.append(pick)
    return torch.stack(picks, dim=1)


def _far(keys: Tensor, anchors: Tensor, more: int) -> Tensor:
    """Return ``more`` tokens, each the farthest from all anchors and those picked before."""
    held = keys.gather(1, anchors.unsqueeze(2).expand(-1, -1, keys.shape[2]))
    nearest = torch.bmm(held, keys.mT).amax(dim=1).scatter(1, anchors, torch.inf)
    picks = []
    for _ in range(more):
        pick = nearest.argmin(dim=1, keepdim=True)
        row = torch.bmm(keys.gather(1, pick.unsqueeze(2).expand(-1, 1, keys.shape[2])), keys.mT)
        nearest = nearest.maximum(row.squeeze(1)).scatter(1, pick, torch.inf)
        picks.append(pick)
    return torch.cat(picks, dim=1)
