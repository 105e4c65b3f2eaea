"""ONLY: next-token logits corrected by those of a state in which one layer's text heads speak.

It is meant against hallucination: that a model says what its text suggests and its image does not
show. One early layer attends once more, for the next token alone, with the heads whose attention is
spread over the text rather than over the image. What they put out goes to the end of the model
without the layers between. Where both distributions agree, their logits are added; where they
differ, those of the text-enhanced state are subtracted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..options.checks import Range
from ..options.plain import Plain
from ..values.source import Source

_SMALL = 1e-6  # in the logarithm of the original's entropies


@dataclass(frozen=True)
class ONLY(Plain):
    """Correct next-token logits by a text-enhanced state of one layer; `lftr.reduce` takes it.

    It acts on every token of ``generate``, for prompts with images or videos, reduced or not
    (``keep=1.0``). With ``f`` the model's logits and ``g`` those of the text-enhanced state, the
    next token is chosen from ``f + alpha1 * g`` where the distributions are closer than ``gamma``,
    from ``(1 + alpha2) * f - alpha2 * g`` elsewhere.

    Parameters
    ----------
    layer : int
        The decoder layer that attends once more, from 0.
    gamma : float
        Sum of the absolute differences of both distributions (0 to 2) from which on they contrast.
        The paper has 0.2, and 0.4 for Qwen-VL.
    alpha1, alpha2 : float
        How much ``g`` counts where the distributions agree, and where they contrast.
    beta : float
        Tokens less probable than this share of the most probable one's probability are ruled out,
        by the model's own distribution.
    """

    layer: Annotated[int, Range(0)] = 0
    gamma: Annotated[float, Range(0.0, 2.0)] = 0.2
    alpha1: Annotated[float, Range(0.0)] = 3.0
    alpha2: Annotated[float, Range(0.0)] = 1.0
    beta: Annotated[float, Range(0.0, 1.0)] = 0.1

    source: ClassVar[Source] = Source(
        "ONLY",
        "2507.00898",
        "ICCV 2025",
        code="https://github.com/zifuwan/ONLY",
        function="modeling_llama.py, only_sample.py",
    )

    def combine(self, logits: Tensor, enhanced: Tensor) -> Tensor:
        """Return corrected logits.

        Parameters
        ----------
        logits, enhanced : Tensor, shape (..., V)
            Those of the model, and those of the text-enhanced state.

        Returns
        -------
        Tensor of float32, shape (..., V)
            ``-inf`` for tokens that are ruled out.
        """
        f, g = logits.float(), enhanced.float()
        distance = (f.softmax(dim=-1) - g.softmax(dim=-1)).abs().sum(dim=-1, keepdim=True)
        agreed, contrasted = f + self.alpha1 * g, (1 + self.alpha2) * f - self.alpha2 * g
        least = f.amax(dim=-1, keepdim=True) + (math.log(self.beta) if self.beta else -math.inf)
        ruled_out = (f < least) | f.isneginf()
        return torch.where(distance < self.gamma, agreed, contrasted).masked_fill(
            ruled_out, -math.inf
        )


def text_enhanced(attention: Tensor, visual: Tensor, text: Tensor) -> Tensor:
    """Return the attention of the heads that are spread over the text; that of others is 0.

    Among the text, and among the visual tokens, keys that receive more than a standard deviation
    above the mean lose their attention. A head stays if the ratio of the entropies of what is left,
    over the text and over the visual tokens, is at least the mean of the heads.

    Parameters
    ----------
    attention : Tensor of float32, shape (B, H, n, S)
        Of ``n`` queries, over all keys that they see.
    visual, text : Tensor of bool, shape (B, 1, n, S)
        Which keys are visual tokens, and which are text. A key that is neither, such as the first
        token, keeps its attention and decides nothing.
    """
    thinned = _without_peaks(_without_peaks(attention, visual), text)
    spread = _entropy(thinned, visual, unseen=math.inf).clamp(min=_SMALL)  # 0 over a single token
    ratio = _entropy(thinned, text, unseen=0.0) / spread
    return thinned * (ratio >= ratio.mean(dim=1, keepdim=True)).unsqueeze(-1)


def _without_peaks(attention: Tensor, part: Tensor) -> Tensor:
    count = part.sum(dim=-1, keepdim=True)
    mean = (attention * part).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    squares = ((attention - mean) * part).square().sum(dim=-1, keepdim=True)
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return attention.masked_fill(part & (attention > mean + deviation), 0.0)


def _entropy(attention: Tensor, part: Tensor, unseen: float) -> Tensor:
    """Return the entropy over a part of the keys ``(B, H, n)``; ``unseen`` if it gets nothing."""
    weights = attention * part
    total = weights.sum(dim=-1, keepdim=True)
    shares = weights / total.where(total > 0, 1.0)
    entropy = -(shares * (shares + _SMALL).log()).sum(dim=-1)
    return entropy.where(total.squeeze(-1) > 0, unseen)
