"""Learned scores of tokens, by one expert of what is seen and one of what is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Evidence
from .fitted import Fitted
from .scaling import mean_cosine, unit, z_score
from .signals import ENCODER, SALIENCY, Notes, encoder_features, saliency

_ROUNDS = 40  # of the bisection for the threshold of a soft top-k
LEAST = 1e-6  # gate of a token that is out
_SPARE = 2  # candidates for each token that stays, while fitting


class VisualScores(Fitted):
    """Scores tokens by what is seen, whatever is asked.

    The score is a weighted sum of signals, z-scored within the item (attention, distance from the
    mean of the tokens and of the encoder's features), plus a network on the encoder's features and
    these signals. At first the weights of the signals are one, and the network is zero.

    Parameters
    ----------
    widths : mapping of str to int
        See `Fitted`.
    width : int
        Number of features between the linear maps.
    """

    needs: ClassVar[Evidence] = (SALIENCY, ENCODER, ("features",))

    def __init__(self, widths: Mapping[str, int], width: int = 64) -> None:
        super().__init__(widths, width=width)
        self.signals = 4 if "text_token_embeds" in widths else 3
        self.seen = next(widths[name] for name in ENCODER if name in widths)
        self.weight = nn.Parameter(torch.ones(self.signals))
        self.hidden = nn.Linear(self.seen + self.signals, width)
        self.last = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Return a score ``(B, N)`` for each token, float32."""
        x, _ = encoder_features(tokens)
        x = scaled(x)
        signals = self._signals(tokens)
        hidden = gelu(mapped(self.hidden, torch.cat([x, signals], dim=2)))
        more = mapped(self.last, hidden)
        return (signals * self.weight).sum(dim=2) + more.squeeze(2)

    def _signals(self, tokens: VisualTokens) -> Tensor:
        return seen_signals(tokens)[0]

    def decide(self, tokens: VisualTokens, keep: int) -> Selection:
        return Selection.top(self.scores(tokens), keep)

    def relax(
        self, tokens: VisualTokens, keep: int, temperature: float, noise: torch.Generator
    ) -> Selection:
        """Keep the best by perturbed scores, twice as many, each with a gate for its weight.

        A token's gate in (0, 1) is its slot's weight in attention: a token of gate 0 is not there.
        The gates of an item sum to ``keep``.
        """
        scores = perturbed(self.scores(tokens), temperature, noise)
        index = scores.topk(min(scores.shape[1], _SPARE * keep), dim=1).indices.sort(dim=1).values
        gates = soft_top(scores.gather(1, index), keep, temperature)
        return Selection(index, slot_weight=gates.clamp(LEAST, 1.0))


class ExpertScores(VisualScores):
    """Scores tokens by what is seen and by what is asked.

    The second expert compares each token with each token of the prompt, in a space of its own, and
    adds the soft maximum over the prompt. At first it adds nothing.
    """

    needs: ClassVar[Evidence] = (*VisualScores.needs, ("text_token_embeds",))

    def __init__(self, widths: Mapping[str, int], width: int = 64) -> None:
        super().__init__(widths, width)
        self.text_keys = nn.Linear(widths["text_token_embeds"], width, bias=False)
        self.token_keys = nn.Linear(self.seen, width, bias=False)
        nn.init.zeros_(self.token_keys.weight)

    def scores(self, tokens: VisualTokens) -> Tensor:
        x, _ = encoder_features(tokens)
        _, text = tokens.evidence("text_token_embeds")
        token_keys = mapped(self.token_keys, scaled(x))
        text_keys = mapped(self.text_keys, scaled(text))
        # by the width, not its root: keys that are fitted together add up in their product
        products = torch.bmm(text_keys, token_keys.mT).mT / self.text_keys.out_features
        return super().scores(tokens) + torch.logsumexp(products, dim=2)

    def _signals(self, tokens: VisualTokens) -> Tensor:
        _, text = tokens.evidence("text_token_embeds")
        middle = text.float().mean(dim=1, keepdim=True)
        relevance = z_score(mean_cosine(tokens.features, middle))
        return torch.cat([super()._signals(tokens), relevance.unsqueeze(2)], dim=2)


def seen_signals(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return what stands out in an item ``(B, N, 3)``, z-scored, and notes on the evidence.

    The attention of the encoder; how far a token is from the mean of its item, by its features and
    by those of the encoder.
    """
    attention, notes = saliency(tokens)
    seen, more = encoder_features(tokens)
    parts = [attention, _apart(tokens.features), _apart(seen)]
    return torch.stack([z_score(part) for part in parts], dim=2), notes + more


def perturbed(scores: Tensor, temperature: float, noise: torch.Generator) -> Tensor:
    """Return scores with logistic noise, drawn on the CPU."""
    logistic = torch.rand(scores.shape, generator=noise).logit(eps=1e-6).to(scores)
    return scores + temperature * logistic


def soft_top(scores: Tensor, keep: int, temperature: float, cost: Tensor | float = 1.0) -> Tensor:
    """Return gates in (0, 1) whose costs sum to ``keep`` in each row, with their gradient.

    ``sigmoid((score - threshold) / temperature)``, with the threshold at which they do.

    Parameters
    ----------
    scores : Tensor, shape (B, N)
    keep : int
        Below the sum of the costs; else all gates are 1.
    cost : Tensor, shape (N,) or (B, N), optional
        What a gate of 1 adds to the sum; it has no gradient.
    """
    cost = torch.as_tensor(cost, device=scores.device).to(scores).expand_as(scores)
    if bool((cost.sum(dim=1) <= keep).all()):
        return torch.ones_like(scores)
    with torch.no_grad():
        low, high = (edge.unsqueeze(1) for edge in scores.aminmax(dim=1))
        low, high = low - 20 * temperature, high + 20 * temperature
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            gates = ((scores - middle) / temperature).sigmoid()
            many = (gates * cost).sum(dim=1, keepdim=True) > keep
            low, high = torch.where(many, middle, low), torch.where(many, high, middle)
        gates = ((scores - low) / temperature).sigmoid()
        slope = gates * (1 - gates) * cost
        share = slope / slope.sum(dim=1, keepdim=True).clamp_min(1e-12)
    # the threshold moves with the scores so that the sum stays (implicit differentiation)
    threshold = low + (share * (scores - scores.detach())).sum(dim=1, keepdim=True)
    return ((scores - threshold) / temperature).sigmoid()


def _apart(x: Tensor) -> Tensor:
    """Return how far each token is from the mean direction of its item, ``(B, N)``, by cosine."""
    distance: Tensor = -mean_cosine(x, x)
    return distance


def mapped(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return a linear map of ``(B, N, D)``; an item's rounding does not depend on the others."""
    out: Tensor = torch.bmm(linear.weight.expand(len(x), -1, -1), x.mT).mT
    return out if linear.bias is None else out + linear.bias


def scaled(x: Tensor) -> Tensor:
    """Return rows ``(..., D)`` at length ``√D``, so that their entries are near one."""
    size: int = x.shape[-1]
    return unit(x) * math.sqrt(size)
