"""What is known of the call that a thread is in, for the hooks on every part of a model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..items import VisualItem
    from .api import Cache, CallArguments
    from .checks import Forward
    from .columns import CachedPrompt
    from .layers.decoding import DecodingPass
    from .layers.layer_decisions import Decisions
    from .layers.layer_pass import LayerPass
    from .layers.slot_weights import WeightPass
    from .reduced_call import ReducedCall


@dataclass
class Generation:
    """One call of ``generate``.

    Attributes
    ----------
    cache : Cache, optional
        The cache that the caller passed, until the first forward has received it.
    reduced : ReducedCall, optional
        The reduced call; None if this call has nothing to reduce.
    decisions : dict, optional
        What layer methods decided in this call. Without a cache every forward contains the prompt,
        and later ones repeat these decisions.
    filled : Cache, optional
        The cache that its forwards fill, once that is known.
    begun : bool
        Whether its first forward has begun.
    """

    cache: Cache | None
    reduced: ReducedCall | None
    decisions: Decisions | None = None
    filled: Cache | None = None
    begun: bool = False

    def contains(self, call: CallArguments) -> bool:
        """Whether a forward belongs to this generation.

        A callback may call the model on another prompt. The forwards of a generation begin with
        its prompt and share its cache; without a cache, each repeats the prompt.
        """
        if not self.begun or (self.filled is None and call.cache is not None):
            self.begun, self.filled = True, call.cache
            return True
        if self.filled is not None or self.reduced is None:
            return call.cache is self.filled
        prompt, ids = self.reduced.call.ids, call.ids
        if not isinstance(ids, Tensor) or ids.shape[1] < prompt.shape[1]:
            return False
        start = ids[:, : prompt.shape[1]]
        return not len(start) % len(prompt) and bool(
            (start == prompt.repeat_interleave(len(start) // len(prompt), dim=0)).all()
        )


@dataclass(frozen=True)
class PromptColumns:
    """What the columns of a forward are.

    Attributes
    ----------
    visual : Tensor of bool, shape (B, L)
        Which are visual tokens.
    known : Tensor of bool, shape (B, L or more)
        Which are not padding; with earlier columns of the conversation where the mask has them.
    items : sequence of VisualItem
        The images and videos that the visual tokens belong to; empty where that is not known.
    """

    visual: Tensor
    known: Tensor
    items: Sequence[VisualItem] = ()


class CallState(threading.local):
    """What is known of the call that a thread is in; each thread has its own.

    The hooks of a model run on three levels, from the outside in. Each level writes what the levels
    inside it read:

    1. ``generate`` sets `generation` while it runs, and then restores the previous value, since a
       callback may call ``generate`` again.
    2. The model's ``forward`` sets `forward`, `prompt`, `columns`, `log_weight` and `decoding_pass`
       when it begins. When it ends, it reads the first two and the last.
    3. The language model's forward takes `columns` and `log_weight`, which are valid for one
       forward, and sets `layer_pass` and `weight_pass`, which the hooks on its layers read. When it
       ends, `stack` is closed, in the reverse order of what was opened.

    A call that is interrupted (KeyboardInterrupt) skips the hooks at its end. Therefore the
    beginnings of 2 and 3 discard what such a call left, and so does the removal of a reduction.

    Attributes
    ----------
    generation : Generation, optional
        The ``generate`` that is running.
    forward : Forward, optional
        The arguments of the current forward.
    prompt : CachedPrompt, optional
        The record for the cache that a forward outside ``generate`` fills.
    columns : PromptColumns, optional
        What the columns of the next forward are.
    log_weight : Tensor of float32, shape (B, L'), optional
        The logarithms of how many tokens the columns of the next forward's conversation stand for,
        see `CachedPrompt`; later columns have 0.
    layer_pass : LayerPass, optional
        What methods inside the language model do in its current forward.
    weight_pass : WeightPass, optional
        The weights of slots in its current forward.
    decoding_pass : DecodingPass, optional
        What corrects the logits of the current forward.
    stack : ExitStack
        What has to be undone after the language model's current forward.
    """

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.forward: Forward | None = None
        self.prompt: CachedPrompt | None = None
        self.columns: PromptColumns | None = None
        self.log_weight: Tensor | None = None
        self.layer_pass: LayerPass | None = None
        self.weight_pass: WeightPass | None = None
        self.decoding_pass: DecodingPass | None = None
        self.stack = ExitStack()

    def end_passes(self) -> None:
        """End the language model's forward, or discard one that was interrupted."""
        self.stack.close()
        self.layer_pass = self.weight_pass = None
