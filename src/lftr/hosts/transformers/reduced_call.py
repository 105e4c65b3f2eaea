"""A call with a shorter prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..items import VisualItem
from .api import CallArguments
from .columns import CachedPrompt


@dataclass(frozen=True)
class ReducedCall:
    """A call with a shorter prompt.

    Attributes
    ----------
    call : CallArguments
        The arguments of the reduced call.
    prompt : CachedPrompt, optional
        The content of a cache that this call fills, for hosts that shorten the prompt.
    lag : Tensor, optional
        How far the last column's position, ``(..., B, 1)``, is behind that of the full prompt,
        where the prompt ends in an item whose last token went; decoding goes on from there.
    starts : bool
        Whether there is something new to report; false if a reduced prompt only continues.
    items : sequence of VisualItem
        The images and videos whose tokens are in ``call``, in the prompt's order, where the host
        knows how they lie.
    """

    call: CallArguments
    prompt: CachedPrompt | None = None
    lag: Tensor | None = None
    starts: bool = True
    items: Sequence[VisualItem] = ()

    @property
    def columns(self) -> int:
        """Columns of the whole shorter conversation, cached ones included."""
        return self.length if self.prompt is None else self.prompt.columns.index.shape[1]

    @property
    def shorter(self) -> bool:
        """Whether columns of the caller's conversation were dropped."""
        return self.prompt is not None and self.columns < self.prompt.full

    @property
    def length(self) -> int:
        """Columns of the shorter prompt."""
        return int(self.call.ids.shape[1])
