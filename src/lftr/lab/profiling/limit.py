"""The physical limit: a prompt with so few visual tokens to begin with."""

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
    """Return arguments for the plain model: as many visual tokens as ``setting`` keeps, encoded.

    Nothing of lftr runs when they are used, nothing is left for the encoder to do, and the prompt
    has no gaps. Which tokens stand in does not matter to time. None for models whose prompt does
    not hold the visual tokens, and for those that encode within their own generate.
    """
    if family_of(call.model).kind != "prefill":
        return None
    short = Setting("limit", get_method("uniform"), setting.keep, "compact", setting.encoder)
    with call.under(short) as reduction:
        prepared = reduction.prepare(**call.inputs)
    positions = prepared.get("position_ids")
    if positions is not None and positions.ndim == 2:  # without gaps, the model's own are the same
        del prepared["position_ids"]
    return prepared


@torch.inference_mode()
def time_short(call: Call, prepared: dict[str, Any]) -> float:
    """Run the plain model over what `short_prompt` gave; milliseconds."""
    clock = Clock(call.model.device)
    call.model(**prepared, **last_logits(call.model))
    clock.lap("prefill")
    return reading(clock, "prefill")
