"""FocusLLaVA's samplers: a learned level for each region, then the slots that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from ...values.selection import Flow, Selection
from ...values.tokens import VisualTokens
from .composing import after
from .flows import groups_of, mean_flow
from .learned_scores import LEAST, ExpertScores, mapped, perturbed, scaled, soft_top
from .region_levels import (
    Regions,
    by_level,
    costs,
    divide,
    explained,
    joined,
    leaders,
    regions_of,
)
from .scaling import unit, z_score
from .signals import encoder_features

_SIDE = 4  # of a region, as published
_POOLED = 2  # slots that the gate leaves for each that stays
_SPARE = 2  # slots that the gate may leave while fitting, for each that it leaves
_FLAT = 1e-6  # variance explained that rounding may bring about


class RegionSamplers(ExpertScores):
    """Pools regions by a learned gate, then keeps half of the slots by what is asked.

    The vision-guided sampler values each refinement of a region (4 x 4, 2 x 2, no pooling) by the
    variance that it explains and by a network on the region's mean features. Regions are divided in
    the order of these values into twice as many slots as stay. The text-guided sampler scores
    tokens as `ExpertScores` does, a slot by the mean of its cell, and the best stay. At first the
    gate decides by variance alone. If half of the tokens stay or more, or if there are fewer slots
    than frames, the text-guided sampler alone decides, about tokens.

    Differs from the original: its gate takes one level for each region by itself, trained with a
    loss that balances the levels; here values compete for a number of slots. Its text-guided
    sampler is in a layer of the language model; here it reads the prompt's embeddings, which say
    less, and what stands out in the item.
    """

    def __init__(self, widths: Mapping[str, int], width: int = 64) -> None:
        super().__init__(widths, width)
        self.gate_weight = nn.Parameter(torch.ones(()))
        self.gate_hidden = nn.Linear(self.seen + 2, width)
        self.gate_last = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.gate_last.weight)

    def worth(self, tokens: VisualTokens, groups: Sequence[Regions]) -> Tensor:
        """Return the value ``(B, E)`` of each refinement, float32."""
        x = scaled(encoder_features(tokens)[0])
        variance = explained(unit(tokens.features), groups)
        signal = z_score(variance.clamp_min(_FLAT).log())
        seen = [x[:, one.inside].mean(dim=2).repeat(1, len(one.cost), 1) for one in groups]
        size = costs(groups).log2().expand_as(signal)
        inputs = torch.cat([torch.cat(seen, dim=1), torch.stack([signal, size], dim=2)], dim=2)
        more = mapped(self.gate_last, gelu(mapped(self.gate_hidden, inputs)))
        return signal * self.gate_weight + more.squeeze(2)

    def decide(self, tokens: VisualTokens, keep: int) -> Selection:
        pool, groups = _pooling(tokens, keep)
        if not groups:
            return super().decide(tokens, keep)
        counts = divide(self.worth(tokens, groups), groups, pool)
        index, slot = groups_of(leaders(groups, counts))
        pooled = Selection(index, mean_flow(slot, pool))
        return after(pooled, Selection.top(pooled.apply(self.scores(tokens)), keep))

    def relax(
        self, tokens: VisualTokens, keep: int, temperature: float, noise: torch.Generator
    ) -> Selection:
        """Divide regions further than the budget, each level with a share, and keep slots softly.

        The gate of a refinement is between 0 and 1; their costs, times these gates, sum to the
        budget. A region's tokens are divided among the slots that would hold them at each level, by
        the share of the level, and a slot is the mean of what it holds. The gates of the slots, as
        in `VisualScores.relax`, sum to ``keep`` over what is there of them. Both are the slots'
        weights. A last refinement that is made in part is so in another way than in `decide`.
        """
        pool, groups = _pooling(tokens, keep)
        if not groups:
            return super().relax(tokens, keep, temperature, noise)
        worth = perturbed(self.worth(tokens, groups), temperature, noise)
        counts = divide(worth, groups, min(tokens.count, _SPARE * pool))
        index, slot = groups_of(leaders(groups, counts))
        worth = joined(by_level(worth, groups))
        least = sum(len(one.inside) for one in groups)
        gates = soft_top(worth, pool - least, temperature, costs(groups))
        shares = _shares(by_level(gates.clamp(LEAST, 1.0), groups), counts, groups)
        held = [slot.gather(1, leaders(groups, counts, level)) for level in range(len(shares))]
        # of each slot: how many tokens it stands for, and by how much it is there
        size = there = torch.zeros_like(index, dtype=torch.float32)
        for target, share in zip(held, shares, strict=True):
            whole = torch.zeros_like(size).scatter_add(1, target, torch.ones_like(share))
            size = size.scatter_add(1, target, share)
            there = there.scatter_add(1, target, share / whole.gather(1, target))
        target, share = torch.cat(held, dim=1), torch.cat(shares, dim=1)
        source = torch.arange(tokens.count, device=index.device).repeat(len(index), len(shares))
        flow = Flow(source, target, share / size.gather(1, target))
        scores = perturbed(flow.combine(self.scores(tokens), index.shape[1]), temperature, noise)
        kept = soft_top(scores, keep, temperature, there.detach())
        return Selection(index, flow, slot_weight=(size * kept).clamp_min(LEAST))


def _pooling(tokens: VisualTokens, keep: int) -> tuple[int, list[Regions]]:
    """Return how many slots the gate leaves, and the regions that it divides into them.

    There are none if it would leave all tokens, or fewer slots than frames.
    """
    pool = _POOLED * keep
    if pool >= tokens.count:
        return pool, []
    return pool, regions_of(tokens.blocks, pool, _SIDE, tokens.features.device)


def _shares(
    gates: Sequence[Tensor], counts: Sequence[Tensor], groups: Sequence[Regions]
) -> list[Tensor]:
    """Return for each level which share ``(B, N)`` of the tokens is at it; they sum to one.

    Parameters
    ----------
    gates : sequence of Tensor, shape (B, L, R)
        By how much each refinement is made, falling from level to level.
    counts : sequence of Tensor of int64, shape (B, R)
        The cells that each region has. What is not divided further is at its last level.
    """
    total = sum(one.inside.numel() for one in groups)
    shares = [
        torch.zeros(len(counts[0]), total, dtype=torch.float32, device=counts[0].device)
        for _ in range(max(len(one.levels) for one in groups))
    ]
    for gate, count, one in zip(gates, counts, groups, strict=True):
        cells = torch.tensor(one.levels, device=count.device).unsqueeze(1)
        divided = (cells < count.unsqueeze(1)).to(gate)  # (B, L + 1, R), from each level on
        reached = pad(gate, (0, 0, 1, 0), value=1.0) * pad(divided[:, :-1], (0, 0, 1, 0), value=1.0)
        share = reached - pad(reached[:, 1:], (0, 0, 0, 1))
        for level, part in enumerate(share.unbind(1)):
            shares[level][:, one.inside] = part.unsqueeze(2)
    return shares
