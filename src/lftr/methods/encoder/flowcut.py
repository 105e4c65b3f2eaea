"""FlowCut inside the vision encoder: drop the tokens from which little information flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...values.selection import Flow, Selection
from ...values.source import Source
from ..operations.composing import identity
from ..operations.information_flow import information_flow, share
from ..operations.signals import saliency
from .merges import KeepingMerge, MergingLayer

# in the memory of a pass: scores, stand-ins for evidence, how many tokens of each image go on
_FLOW, _NOTES, _NUMBERS = "flow", "notes", "numbers"


@dataclass(frozen=True)
class EncoderFlowCut(KeepingMerge):
    """Drop tokens in every second layer, by the information that has flowed from them so far.

    A layer's score of a token is that of the method ``flowcut``. Scores add up over the layers: a
    layer's own counts half, what was there before the other half. Tokens are dropped in the last
    layer but one of those that the model uses, and in every second layer before it: of those that
    are too many a share of ``(1 - e**2) / sqrt(r)``, where ``e`` is the entropy of the class
    token's attention to the tokens, as a share of its maximum, and ``r`` the number of layers that
    follow up to the last one that drops. That one drops all that are left over.

    Parameters
    ----------
    keep : float or int
        Tokens of an image that are left, a ratio or a number; ``1.0`` leaves the encoder as it is.

    Notes
    -----
    It keeps 64, 128 or 192 of LLaVA-1.5's 576 tokens. The number that leaves the encoder is exact;
    how many each layer before drops depends on the image, also in a batch, where images with fewer
    tokens are filled up and masked. Not under FlashAttention, which takes no such mask.
    Differs: each image of a batch has its own numbers (the original drops in all as many as in the
    one that loses most). Encoders without a class token have the attention that a token receives
    from all, in place of both shares (in the original, for Qwen2-VL, the attention of the mean
    query). The original's versions for LLaVA-NeXT and Qwen2-VL keep twice as many in the encoder
    and drop the rest inside the language model.
    """

    source = Source(
        "FlowCut",
        arxiv="2505.19536",
        venue="NeurIPS 2025",
        code="https://github.com/TungChintao/FlowCut",
        function="CLIPEncoder_forward",
    )
    weighs_attention: ClassVar[bool] = True  # padding must receive none
    reads_attention: ClassVar[bool] = True
    reads_values: ClassVar[bool] = True
    keep: float | int = 1 / 9

    def places(self, layers: int) -> range:
        """Return every layer but the last, or the only one; none if all tokens stay."""
        return range(0 if self.keeps_all else _dropping(layers) + 1)

    def observe(self, layer: MergingLayer) -> None:
        """Add the layer's scores to those before, and compute how many tokens go on."""
        scores, layer.memory[_NOTES] = information_flow(layer.patches)
        before = layer.memory.get(_FLOW, scores)
        layer.memory[_FLOW] = 0.5 * before + 0.5 * scores
        layer.memory[_NUMBERS] = self._numbers(layer)

    def left(self, layer: MergingLayer) -> int:
        """Return the number of the image that keeps most; the others are padded to it."""
        return int(layer.memory[_NUMBERS].max())

    def merge(self, layer: MergingLayer, remove: int) -> Selection:
        """Keep the highest scores: in each image as many as `observe` computed."""
        scores = layer.memory[_FLOW].masked_fill(~_there(layer), -torch.inf)
        chosen = Selection.top(scores, layer.patches.count - remove)
        kept = scores.gather(1, chosen.index)
        layer.memory[_FLOW] = kept
        rank = kept.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        stays = (rank < layer.memory[_NUMBERS].unsqueeze(1)).float()
        first = int(layer.class_token)
        index = pad(chosen.index + first, (first, 0))
        flow = None
        if not bool(stays.all()):
            whole = identity(index)
            flow = Flow(whole.source, whole.slot, pad(stays, (first, 0), value=1.0))
        return Selection(index, flow, layer.memory[_NOTES])

    def _numbers(self, layer: MergingLayer) -> Tensor:
        """Return how many tokens of each image go on, int64 ``(B,)``."""
        target = self.count(layer.patches.count, layer.total)
        number = _there(layer).sum(dim=1)
        following = _dropping(layer.layers) - layer.place
        if following % 2:
            return number
        if following == 0:
            return torch.full_like(number, target)
        attention = share(saliency(layer.patches)[0])
        most = number.log().clamp_min(torch.finfo(attention.dtype).tiny)
        entropy = -torch.xlogy(attention, attention).sum(dim=1) / most
        dropped = (number - target) / following**0.5 * (1 - entropy.square())
        left: Tensor = number - dropped.round().long()
        return left.clamp_min(target)


def _dropping(layers: int) -> int:
    """Return the last layer that drops tokens: the last but one, or the only one."""
    return max(0, layers - 2)


def _there(layer: MergingLayer) -> Tensor:
    """Return which slots hold a token and are not padding, bool ``(B, N)``."""
    return layer.size[:, int(layer.class_token) :] > 0
