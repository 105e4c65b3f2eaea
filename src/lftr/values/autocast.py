"""Compute decisions in float32 even where the caller runs the model under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off on the device of ``like`` while the body runs.

    Autocast computes products of float32 tensors in half precision: scores would tie, and a mask of
    float32's lowest value would overflow.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if _casts(kind) else nullcontext()


def _casts(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except TypeError:  # torch before 2.4 has a function for each device
        cpu = kind == "cpu"
        return torch.is_autocast_cpu_enabled() if cpu else torch.is_autocast_enabled()
