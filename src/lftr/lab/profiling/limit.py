"""The physical limit: a plain prompt with as few visual tokens from the start."""

from __future__ import annotations

from typing import Any

import torch

from ...hosts.clock import Clock
from ...hosts.transformers.families import family_of
from ...methods import get_method
from ..asking.settings import Setting
from .call import Call
from .parts import last_logits, reading


@torch.inference_mode()
def short_prompt(call: Call, setting: Setting) -> dict[str, Any] | None:
    """Return arguments for the plain model with as many encoded visual tokens as a setting keeps.

    A forward with them runs neither lftr nor the encoder, and its positions have no gaps. The
    choice of tokens does not affect the time. None for models whose prompt does not contain the
    visual tokens, and for those that encode inside their own ``generate``.
    """
    if family_of(call.model).kind != "prefill":
        return None
    uniform = get_method("uniform")
    short = Setting("limit", uniform, setting.keep, "compact", setting.encoder, weights="none")
    with call.under(short) as reduction:
        prepared = reduction.prepare(**call.inputs)
    positions = prepared.get("position_ids")
    if positions is not None and positions.ndim == 2:  # without gaps, the model's own are the same
        del prepared["position_ids"]
    return prepared


@torch.inference_mode()
def time_short(call: Call, prepared: dict[str, Any]) -> float:
    """Run the plain model on the arguments of `short_prompt`; return milliseconds."""
    clock = Clock(call.model.device)
    call.model(**prepared, **last_logits(call.model))
    clock.lap("prefill")
    return reading(clock, "prefill")
