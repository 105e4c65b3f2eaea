"""Token merging inside the vision encoder: how much, in which of its layers, and of what.

A merge is a value that knows no model; ``hosts/transformers/encoder/merge.py`` applies it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...options.plain import Plain
from ...values.budget import Budget, parse_keep, resolve
from ...values.errors import ArgumentError, UnsupportedModelError
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..operations.matching import halvings, soft_matching
from ..operations.signals import keys, saliency


@dataclass(frozen=True)
class MergingLayer:
    """One encoder layer between its attention and its MLP, for a stack of images.

    Attributes
    ----------
    tokens : VisualTokens
        The states ``(B, N, D)`` as features, the layer's keys, and for merges that ask for it the
        attention that the layer pays to them and its values. A class token, if there is one, comes
        first.
    size : Tensor, shape (B, N)
        How many of the image's tokens each token stands for; 0 for a slot that nothing flowed into.
    class_token : bool
        Whether the first token is a class token. It merges with no other.
    place : int
        Which of the layers this is, from 0.
    layers : int
        How many layers there are up to the one whose output the model uses.
    total : int
        Tokens of each image before any merge, without the class token.
    memory : dict
        What a merge keeps for later layers of the same pass; empty at the first.
    """

    tokens: VisualTokens
    size: Tensor
    class_token: bool
    place: int
    layers: int
    total: int
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def patches(self) -> VisualTokens:
        """The tokens without the class token."""
        count, first = self.tokens.count, int(self.class_token)
        index = torch.arange(first, count, device=self.tokens.features.device)
        return self.tokens.take(index) if first else self.tokens

    @property
    def grid(self) -> Grid:
        """The grid of the image before any merge; images of CLIP and SigLIP are square."""
        side = math.isqrt(self.total)
        if side * side != self.total:
            raise UnsupportedModelError(f"{self.total} tokens of the encoder form no square image")
        return (1, side, side)


class EncoderMerge(Plain, ABC, kind="encoder"):
    """Decides which tokens merge while the vision encoder runs; `lftr.reduce` takes it.

    Merged tokens are means weighted by the number of tokens that each stands for; tokens keep
    their order. The number of tokens that leave the encoder follows from sizes alone.

    Attributes
    ----------
    source : Source, optional
        The publication or program that the merge follows.
    """

    source: ClassVar[Source | None] = None

    @property
    def weighs_attention(self) -> bool:
        """Whether attention after a merge counts a token as often as it has merged tokens."""
        return False

    @property
    def reads_attention(self) -> bool:
        """Whether the merge needs the layer's attention."""
        return False

    @property
    def reads_received(self) -> bool:
        """Whether the merge needs the attention that tokens receive where there is a class token.

        Without a class token that is what `reads_attention` gives.
        """
        return False

    @property
    def reads_values(self) -> bool:
        """Whether the merge needs the layer's values."""
        return False

    @abstractmethod
    def places(self, layers: int) -> range:
        """Return which of the ``layers`` up to the one whose output the model uses are shown."""

    @abstractmethod
    def count(self, tokens: int, total: int) -> int:
        """Return how many of the ``tokens`` that reach a merging layer go on.

        Class tokens are not counted.

        Parameters
        ----------
        total : int
            Tokens of the image before any merge.
        """

    def observe(self, layer: MergingLayer) -> None:
        """Look at a layer before its merge, also at one where nothing merges."""

    def left(self, layer: MergingLayer) -> int:
        """Return how many tokens of each image go on, where that depends on more than sizes.

        By default `count`. Images of a stack go on with one number. Where fewer of an image are
        wanted, `merge` leaves it slots of which nothing is made (factor 0 in the flow). They
        receive no attention if the merge `weighs_attention`.
        """
        return self.count(layer.tokens.count - int(layer.class_token), layer.total)

    @abstractmethod
    def merge(self, layer: MergingLayer, remove: int) -> Selection:
        """Return the decision for a stack that removes ``remove`` tokens of each image."""


@dataclass(frozen=True)
class KeepingMerge(EncoderMerge, spelled=False):
    """A merge that leaves a number of tokens, or a share of the image's."""

    keep: float | int = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, str) or isinstance(parse_keep(self.keep), Budget):
            raise ArgumentError.of("keep", self.keep, "a ratio in (0, 1] or a whole number >= 1")

    @property
    def keeps_all(self) -> bool:
        """Whether the share is 1.0, so that nothing is hooked."""
        return isinstance(self.keep, float) and self.keep == 1.0

    def count(self, tokens: int, total: int) -> int:
        """Return ``keep`` of ``total``."""
        return min(tokens, resolve(self.keep, total))


@dataclass(frozen=True)
class EncoderToMe(EncoderMerge):
    """Merge the ``r`` most similar pairs of a token at an even and an odd place in every layer.

    Parameters
    ----------
    r : int
        Tokens that each layer removes, half of its tokens at most; 0 leaves the encoder as it is.
    proportional : bool
        Whether the logarithm of a token's size is added to its attention scores, as in the original
        where it runs without training. Off by default, as in FOLDER's ports to multimodal models;
        not under FlashAttention, which takes no such bias.

    Notes
    -----
    As in the original, tokens are matched by the mean of their keys over the heads, between
    attention and MLP, and means are weighted by size.
    Differs: the order of the tokens is restored after every layer (the original leaves unmerged
    ones before destinations), since the language model has positions.
    """

    source = Source(
        "ToMe",
        arxiv="2210.09461",
        venue="ICLR 2023",
        section="3",
        code="https://github.com/facebookresearch/ToMe",
    )
    r: Annotated[int, Range(0)] = 16
    proportional: bool = False

    @property
    def weighs_attention(self) -> bool:
        """Where attention is proportional."""
        return self.proportional

    def places(self, layers: int) -> range:
        """Return every layer; none where ``r`` is 0."""
        return range(layers if self.r else 0)

    def count(self, tokens: int, total: int) -> int:
        """Return ``tokens`` less ``r``, or less half of them."""
        return tokens - min(self.r, tokens // 2)

    def merge(self, layer: MergingLayer, remove: int) -> Selection:
        """Merge once, by keys."""
        metric, _ = keys(layer.tokens)
        return soft_matching(metric, [remove], size=layer.size, class_token=layer.class_token)


@dataclass(frozen=True)
class EncoderFolder(KeepingMerge):
    """Merge once, in the layer whose output the model uses, and protect attended tokens.

    Tokens merge in several passes. Each removes half of the tokens at most; passes go on until
    ``keep`` are left.

    Parameters
    ----------
    keep : float or int
        Tokens of an image that are left, a ratio or a number; ``1.0`` leaves the encoder as it is.
    alpha : float
        Strength of the attention, at least 0. The similarity of a token to others is lowered by
        ``100 * alpha`` times the attention of the class token to it, so that attended tokens are
        not merged into others.

    Notes
    -----
    As in the original, tokens are matched by the mean of their keys over the heads, between
    attention and MLP. It keeps 1/3 or 1/4 of LLaVA-1.5's tokens, with ``alpha = 5``.
    Differs: the order of the tokens is restored (the original leaves unmerged ones before
    destinations); works below 40 tokens, where the original raises; encoders without a class token
    have the attention that a token receives from all.
    """

    source = Source(
        "FOLDER",
        arxiv="2501.02430",
        venue="ICCV 2025",
        code="https://github.com/anakin-skywalker-Joseph/Folder",
        note="the full version, in the encoder",
    )
    alpha: Annotated[float, Range(0.0)] = 5.0

    @property
    def reads_attention(self) -> bool:
        """Where ``alpha`` is not 0."""
        return self.alpha > 0

    def places(self, layers: int) -> range:
        """Return the last layer; none where everything stays."""
        return range(layers if self.keeps_all else layers - 1, layers)

    def merge(self, layer: MergingLayer, remove: int) -> Selection:
        """Merge fold by fold, by keys and attention."""
        metric, notes = keys(layer.tokens)
        penalty = None
        if self.reads_attention:
            attention, notes = saliency(layer.tokens)
            penalty = 100.0 * self.alpha * attention
        total = layer.tokens.count
        folds = halvings(total, total - remove, spare=1)
        chosen = soft_matching(
            metric, folds, size=layer.size, class_token=layer.class_token, penalty=penalty
        )
        return replace(chosen, notes=notes)
