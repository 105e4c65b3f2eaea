"""The layer after which a model's answers no longer need the image, found without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ...methods.inside.schedules import Exit
from ...methods.inside.static_exit import StaticExit
from ...options.checks import Range, check
from ...reducing import reduce
from ...values.errors import ArgumentError
from .layers import exit_layers


def calibrate_exit(
    model: Any,
    inputs: Sequence[Mapping[str, Any]],
    *,
    agreement: float = 0.99,
    max_new_tokens: int = 32,
) -> StaticExit:
    """Find the earliest layer before which the image can go with the same answers.

    The whole model answers every prompt; then, by bisection, with the image gone before a layer. A
    layer is given up as soon as too many answers differ. That later exits agree more is assumed;
    the agreement at the layer that is returned, and its lack at one before, are measured. What the
    vision encoder says of each prompt is held until the end.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that `lftr.reduce` takes.
    inputs : sequence of mapping
        What the model's processor returned, of a prompt or a batch each; no answers are needed.
    agreement : float
        Least share of prompts whose greedy answer stays the same, to the token.
    max_new_tokens : int
        Tokens of each answer that are compared.

    Returns
    -------
    StaticExit
        For `lftr.reduce`; at the model's depth, which is never, where no layer will do.

    Raises
    ------
    LftrError
        If an argument is out of its range, or the model cannot be reduced inside.
    """
    from ...hosts.transformers.encoder.encode_cache import encode_once

    check("agreement", agreement, Annotated[float, Range(0.0, 1.0)])
    check("max_new_tokens", max_new_tokens, Annotated[int, Range(1)])
    layers, inputs = exit_layers(model), list(inputs)
    with torch.no_grad(), encode_once(model):
        full = [_answers(model, batch, max_new_tokens) for batch in inputs]
        prompts = sum(map(len, full))
        if not prompts:
            raise ArgumentError.of("inputs", inputs, "at least one prompt")
        allowed = prompts - agreement * prompts
        low, high = layers[0], layers[-1] + 1  # the last is never, and agrees
        while low < high:
            layer = (low + high) // 2
            if _differing(model, inputs, full, layer, max_new_tokens, allowed) > allowed:
                low = layer + 1
            else:
                high = layer
    return StaticExit(Exit(high))


def _differing(
    model: Any,
    inputs: Sequence[Mapping[str, Any]],
    full: Sequence[list[list[int]]],
    layer: int,
    max_new_tokens: int,
    enough: float,
) -> int:
    """Return how many answers differ if the image goes before ``layer``, counted until enough."""
    differing = 0
    with reduce(model, StaticExit(Exit(layer))):
        for batch, wanted in zip(inputs, full, strict=True):
            given = _answers(model, batch, max_new_tokens)
            differing += sum(a != b for a, b in zip(given, wanted, strict=True))
            if differing > enough:
                break
    return differing


def _answers(model: Any, batch: Mapping[str, Any], max_new_tokens: int) -> list[list[int]]:
    """Return the ids of each row's prompt and greedy answer, without what pads their end."""
    ids: Tensor = model.generate(
        **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
    )
    config = model.generation_config
    ends = torch.tensor(config.eos_token_id).flatten().tolist() if config.eos_token_id else []
    padding = {config.pad_token_id, *ends}
    rows = ids.tolist()
    for row in rows:
        while row and row[-1] in padding:
            row.pop()
    return rows
