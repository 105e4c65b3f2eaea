"""Labels for gates: whether an answer would have been the same with the image gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...methods.inside.base import LayerMethod, LayerView
from ...methods.inside.schedules import Exit, Schedule
from ...methods.inside.static_exit import StaticExit
from ...methods.operations.exit_gates import features_of
from ...reducing import reduce
from ...values.errors import ArgumentError


@dataclass(frozen=True)
class Reader(LayerMethod):
    """Drops nothing; notes what the gate of each layer would see.

    Parameters
    ----------
    answer : int
        Tokens at the end that a gate does not see: the answer, which is not there yet.
    seen : dict of int to Tensor
        Features of each layer, filled as the model runs.
    """

    answer: int
    seen: dict[int, Tensor] = field(default_factory=dict)
    schedule: Schedule = Exit(1.0)

    def watches(self, depth: int) -> frozenset[int]:
        """Return all layers but the first."""
        return frozenset(range(1, depth))

    def count(self, view: LayerView, planned: int) -> int:
        """Note what a gate would see, and keep everything."""
        end = len(view.states) - self.answer
        text = view.text[view.text < end]
        last = torch.tensor([end - 1], device=text.device)
        self.seen[view.layer] = features_of(view.states, text if len(text) else last)
        return planned


@dataclass(frozen=True)
class Taught:
    """One example as the whole model runs it.

    Attributes
    ----------
    inputs : mapping
        Of one prompt with its answer, and ``labels``.
    features : dict of int to Tensor
        What the gate of each layer sees.
    loss : float
        Of the answer, per token.
    said : Tensor of int64
        The likeliest tokens at the answer's places.
    """

    inputs: Mapping[str, Any]
    features: dict[int, Tensor]
    loss: float
    said: Tensor

    @classmethod
    @torch.no_grad()
    def by(cls, model: Any, inputs: Mapping[str, Any]) -> Taught:
        """Run the whole model on a prompt with its answer.

        Raises
        ------
        ArgumentError
            If there is not exactly one prompt, with an image and an answer.
        """
        reader = Reader(_answer_length(inputs))
        with reduce(model, reader):
            out = model(**inputs)
        if not reader.seen:
            raise ArgumentError.of("data", sorted(inputs), "inputs with an image")
        return cls(inputs, reader.seen, float(out.loss), _said(out.logits, inputs["labels"]))

    @torch.no_grad()
    def needs_no_image(self, model: Any, layer: int, agreement: float, loss: float) -> bool:
        """Whether the answer stays the same if the image is gone before ``layer``.

        Parameters
        ----------
        agreement : float
            Share of the answer's tokens that must be exceeded by those that stay the likeliest.
        loss : float
            What the loss must stay below, as a multiple of the whole model's.
        """
        with reduce(model, StaticExit(Exit(layer))):
            out = model(**self.inputs)
        said = _said(out.logits, self.inputs["labels"])
        same = float((said == self.said).float().mean())
        return same > agreement and float(out.loss) < loss * self.loss


def _answer_length(inputs: Mapping[str, Any]) -> int:
    """Return how many tokens, from the first of the answer on, are no padding."""
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 2 or len(labels) != 1:
        shown = tuple(labels.shape) if isinstance(labels, Tensor) else labels
        allowed = "labels (1, L) of one prompt and its answer, -100 where the prompt is"
        raise ArgumentError.of("data", f"labels of shape {shown}", allowed)
    answered = (labels[0] != -100).nonzero().flatten().tolist()
    if not answered or answered[0] == 0:
        raise ArgumentError.of("data", labels.tolist(), "labels of an answer after a prompt")
    mask: Tensor = inputs.get("attention_mask", torch.ones_like(labels))
    return int(mask[0, answered[0] :].sum())


def _said(logits: Tensor, labels: Tensor) -> Tensor:
    answered = labels[0, 1:].to(logits.device) != -100
    return logits[0, :-1][answered].argmax(dim=-1)
