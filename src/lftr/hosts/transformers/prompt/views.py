"""Stopping criteria and logits processors of the caller see the caller's own prompt.

Inside ``generate`` the prompt is shorter. A stopping criterion that counts columns, or a processor
that cuts off the prompt, was written for the full one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..api import ALLOWING, PROCESSING, STOPPING


@dataclass(frozen=True)
class PromptView:
    """Turns ids that begin with the shorter prompt into ids that begin with the caller's.

    Attributes
    ----------
    full : Tensor, shape (B, L)
        The caller's prompt.
    shortened : int
        Columns of the shorter one.
    """

    full: Tensor
    shortened: int

    def __call__(self, ids: Tensor) -> Tensor:
        """Return ids ``(B * n, L + new)`` for ids ``(B * n, L' + new)``."""
        rows = self.full.repeat_interleave(len(ids) // len(self.full), dim=0)
        return torch.cat([rows.to(ids.device), ids[:, self.shortened :]], dim=1)

    def callbacks(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return the caller's criteria and processors, wrapped so that they see the full prompt."""
        wrapped: dict[str, Any] = {}
        if criteria := call.get(STOPPING):
            wrapped[STOPPING] = StoppingCriteriaList(
                [_Criterion(self, one) for one in _each(criteria)]
            )
        if processors := call.get(PROCESSING):
            wrapped[PROCESSING] = LogitsProcessorList(
                [_processor(self, one) for one in _each(processors)]
            )
        if (allowed := call.get(ALLOWING)) is not None:
            wrapped[ALLOWING] = lambda row, ids: allowed(
                row, torch.cat([self.full[row].to(ids.device), ids[self.shortened :]])
            )
        return wrapped


def _each(callbacks: Any) -> Iterable[Callable[..., Any]]:
    return callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]


class _Criterion(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, view: PromptView, inner: Callable[..., Any]) -> None:
        self.view, self.inner = view, inner

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return self.inner(self.view(input_ids), scores, **kwargs)


class _FullPromptLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, view: PromptView, inner: Callable[..., Any]) -> None:
        self.view, self.inner = view, inner

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        return self.inner(self.view(input_ids), scores)


class _StepLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """A processor that takes the denoising step; transformers passes it by its name."""

    def __init__(self, view: PromptView, inner: Callable[..., Any]) -> None:
        self.view, self.inner = view, inner

    def __call__(self, input_ids: Tensor, scores: Tensor, cur_step: Any) -> Any:
        return self.inner(self.view(input_ids), scores, cur_step=cur_step)


def _processor(view: PromptView, inner: Callable[..., Any]) -> LogitsProcessor:
    asks = "cur_step" in inspect.signature(inner).parameters
    return (_StepLogitsProcessor if asks else _FullPromptLogitsProcessor)(view, inner)
