"""Multimodal LLMs that answer from a fraction of their visual tokens, without training."""

from __future__ import annotations

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
from .reduce import list_families, prepare, reduce, reduce_module
from .selection import Flow, Selection
from .tokens import VisualTokens

__version__ = "0.1.0"
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
    "fit_exit",
    "get_method",
    "list_families",
    "list_methods",
    "methods",
    "prepare",
    "reduce",
    "reduce_module",
    "schedules",
]
