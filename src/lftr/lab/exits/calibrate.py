"""Finds the layer after which a model's answers no longer need the image, without labels."""

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


def calibrate_exit(
    model: Any,
    inputs: Sequence[Mapping[str, Any]],
    *,
    agreement: float = 0.99,
    max_new_tokens: int = 32,
) -> StaticExit:
    """Find the earliest layer before which the visual tokens can be dropped with the same answers.

    The full model answers every prompt. A bisection over the layers then repeats the answers with
    the visual tokens dropped before one layer, and ends each try as soon as too many answers
    differ. It assumes that a later exit agrees more; the agreement at the returned layer, and the
    lack of it one layer before, are measured. The outputs of the vision encoder are held in memory
    until the end.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that `lftr.reduce` takes.
    inputs : sequence of mapping
        Outputs of the model's processor, each for a prompt or a batch; no answers are needed.
    agreement : float
        Least share of prompts whose greedy answer stays the same, token by token.
    max_new_tokens : int
        Tokens of each answer that are compared.

    Returns
    -------
    StaticExit
        For `lftr.reduce`. Its layer is the model's depth, so that nothing is dropped, if no layer
        reaches the agreement.

    Raises
    ------
    LftrError
        If an argument is out of its range, or the model cannot be reduced inside.
    """
    from ...hosts.transformers.encoder.encode_cache import encode_once
    from ...hosts.transformers.eval_mode import evaluating
    from ...hosts.transformers.wrapped import unwrapped

    model = unwrapped(model)
    check("agreement", agreement, Annotated[float, Range(0.0, 1.0)])
    check("max_new_tokens", max_new_tokens, Annotated[int, Range(1)])
    layers, inputs = exit_layers(model), list(inputs)
    with torch.no_grad(), evaluating(model), encode_once(model):
        full = [_answers(model, batch, max_new_tokens) for batch in inputs]
        prompts = sum(map(len, full))
        if not prompts:
            raise ArgumentError.of("inputs", inputs, "at least one prompt")
        allowed = prompts - agreement * prompts
        low, high = layers[0], layers[-1] + 1  # the model's depth drops nothing, and agrees
        while low < high:
            layer = (low + high) // 2
            if _count_differing(model, inputs, full, layer, max_new_tokens, allowed) > allowed:
                low = layer + 1
            else:
                high = layer
    return StaticExit(Exit(high))


def _count_differing(
    model: Any,
    inputs: Sequence[Mapping[str, Any]],
    full: Sequence[list[list[int]]],
    layer: int,
    max_new_tokens: int,
    enough: float,
) -> int:
    """Count answers that differ with an exit before ``layer``; stop above ``enough``."""
    differing = 0
    with reduce(model, StaticExit(Exit(layer))):
        for batch, expected in zip(inputs, full, strict=True):
            answers = _answers(model, batch, max_new_tokens)
            differing += sum(a != b for a, b in zip(answers, expected, strict=True))
            if differing > enough:
                break
    return differing


def _answers(model: Any, batch: Mapping[str, Any], max_new_tokens: int) -> list[list[int]]:
    """Return the ids of each row's prompt and greedy answer, without padding at the end."""
    from ...hosts.transformers.api import end_tokens

    ids: Tensor = model.generate(
        **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
    )
    padding = {model.generation_config.pad_token_id, *end_tokens(model)}
    rows = ids.tolist()
    for row in rows:
        while row and row[-1] in padding:
            row.pop()
    return rows


def exit_layers(model: Any) -> list[int]:
    """Return the layers before which the visual tokens of ``model`` can be dropped, ascending.

    Raises
    ------
    LftrError
        If the model cannot be reduced inside its language model.
    """
    depth = int(model.config.get_text_config().num_hidden_layers)
    first = next((layer for layer in range(1, depth) if _can_exit(model, layer)), depth)
    if first == depth:
        reduce(model, StaticExit(Exit(depth - 1))).remove()  # raises, with the reason
    return list(range(first, depth))


def _can_exit(model: Any, layer: int) -> bool:
    try:
        reduce(model, StaticExit(Exit(layer))).remove()
    except ArgumentError:  # a later layer still adds features of the image
        return False
    return True
