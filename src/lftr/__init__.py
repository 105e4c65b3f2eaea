"""Multimodal LLMs that answer from a fraction of their visual tokens, without training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import bundled, methods
from .budget import Budget
from .errors import LftrError
from .evidence.text import TextTower
from .exits.calibrate import calibrate_exit
from .exits.fit import fit_exit
from .methods import get_method, list_methods
from .methods.base import Method
from .methods.encoder import EncoderFolder, EncoderMerge, EncoderToMe
from .methods.inside import LayerMethod, schedules
from .presets import Preset
from .reduce import list_families, prepare, reduce, reduce_module, reductions, restore
from .selection import Flow, Selection
from .tokens import VisualTokens

if TYPE_CHECKING:
    from . import evaluation, media, suites

__version__ = "0.1.0"
_LATER = ("evaluation", "media", "suites")
__all__ = [
    "Budget",
    "EncoderFolder",
    "EncoderMerge",
    "EncoderToMe",
    "Flow",
    "LayerMethod",
    "LftrError",
    "Method",
    "Preset",
    "Selection",
    "TextTower",
    "VisualTokens",
    "bundled",
    "calibrate_exit",
    "evaluation",
    "fit_exit",
    "get_method",
    "list_families",
    "list_methods",
    "media",
    "methods",
    "prepare",
    "reduce",
    "reduce_module",
    "reductions",
    "restore",
    "schedules",
    "suites",
]


def __getattr__(name: str) -> Any:
    """Import the packages that few need when they are asked for."""
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
