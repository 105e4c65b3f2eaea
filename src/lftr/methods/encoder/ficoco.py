"""FiCoCo inside the vision encoder: filter, correlate and compress in the later layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch.nn.functional import pad

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.source import Source
from ..operations.redundancy import divided, least_useful, usefulness
from ..operations.signals import stand_in
from ..operations.windows import windows
from .merges import KeepingMerge, MergingLayer

_PLACES = "places"  # in the memory of a pass: where in the image each token that is left was
_SIDE = 2  # rows and columns of a window, as in the program


@dataclass(frozen=True)
class EncoderFiCoCo(KeepingMerge):
    """Divide redundant tokens among others like them, in each layer of the encoder's second half.

    What is redundant, and among which tokens it is divided, is that of the method ``ficoco``, by
    the attention and the keys of each layer. Of the layers that the model uses, each in the second
    half removes an equal number of tokens.

    Parameters
    ----------
    keep : float or int
        Tokens of an image that are left, a ratio or a number; ``1.0`` leaves the encoder as it is.
    cls_weight, penalty, quantile
        As in `lftr.methods.FiCoCo`.

    Notes
    -----
    Without a class token, the attention that a token receives decides alone.
    No licence was stated for the program; this follows the paper.
    Differs from the original: redundancy is read from attention after its softmax, and similarity
    is the cosine of keys (there both are the products of queries and keys before it). Kept tokens
    alone receive dropped ones. The original removes 42 of LLaVA-1.5's 576 tokens in each of twelve
    layers.
    """

    source = Source(
        "FiCoCo",
        arxiv="2411.17686",
        venue="AAAI 2026",
        code="https://github.com/kawhiiiileo/FiCoCo",
        note="FiCoCo-V",
    )
    reads_attention: ClassVar[bool] = True
    reads_received: ClassVar[bool] = True
    keep: float | int = 1 / 8
    cls_weight: Annotated[float, Range(0.0, 1.0)] = 0.35
    penalty: Annotated[float, Range(1.0)] = 2.0
    quantile: Annotated[float, Range(0.0, 1.0)] = 0.998

    def places(self, layers: int) -> range:
        """Return the second half of the layers; none if all tokens stay."""
        return range(layers if self.keeps_all else layers // 2, layers)

    def left(self, layer: MergingLayer) -> int:
        """Return how many tokens go on: each layer removes the same number, up to one."""
        first = layer.layers // 2
        gone = layer.total - self.count(layer.total, layer.total)
        return layer.total - gone * (layer.place - first + 1) // (layer.layers - first)

    def merge(self, layer: MergingLayer, remove: int) -> Selection:
        """Remove the least useful tokens; each is divided among kept ones."""
        patches = layer.patches
        received = patches.evidence("attention_received")[1].float()
        notes: tuple[str, ...] = ()
        if patches.cls_attention is None:
            value = usefulness(torch.zeros_like(received), received, 0.0)
            notes = stand_in("attention_received", "cls_attention")
        else:
            value = usefulness(patches.cls_attention.float().mean(1), received, self.cls_weight)
        every = torch.arange(layer.total, device=value.device).expand(len(value), -1)
        places = layer.memory.get(_PLACES, every)
        window = windows((layer.grid,), _SIDE).to(value.device)[places]
        dropped = least_useful(value, window, remove, self.penalty)
        stays = torch.ones_like(value, dtype=torch.bool).scatter_(1, dropped, False)
        kept = stays.nonzero()[:, 1].view(len(value), -1)
        layer.memory[_PLACES] = places.gather(1, kept)
        assert patches.keys is not None
        flow = divided(patches.keys, kept, dropped, self.quantile)
        if not layer.class_token:
            return Selection(kept, flow, notes)
        source, slot = (pad(part + 1, (1, 0)) for part in (flow.source, flow.slot))
        parts = (pad(part, (1, 0), value=1.0) for part in (flow.weight, flow.shares()))
        flow = Flow(source, slot, *parts)
        return Selection(pad(kept + 1, (1, 0)), flow, notes)
