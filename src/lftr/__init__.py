"""Multimodal LLMs that answer from a fraction of their visual tokens, without training.

Nothing heavy is imported before one of these names is asked for, so that ``lftr --help`` and what
only reads pictures need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bundled, evaluation, media, methods, profiling, schedules, suites, tuning
    from .decoding.only import ONLY
    from .evidence.guidance import Guidance
    from .evidence.text import TextTower
    from .hosts.module.evidence import ModuleEvidence
    from .lab.exits.calibrate import calibrate_exit
    from .lab.exits.fit import fit_exit
    from .lab.fitting.fit import fit
    from .methods import get_method, list_methods
    from .methods.base import Method
    from .methods.encoder.ficoco import EncoderFiCoCo
    from .methods.encoder.flowcut import EncoderFlowCut
    from .methods.encoder.merges import EncoderFolder, EncoderMerge, EncoderToMe
    from .methods.inside import LayerMethod
    from .options.checks import Range
    from .presets import Preset
    from .reducing import (
        list_families,
        prepare,
        reduce,
        reduce_module,
        reductions,
        restore,
    )
    from .values.budget import Budget
    from .values.errors import (
        ArgumentError,
        LftrError,
        MissingEvidenceError,
        UnsupportedModelError,
    )
    from .values.frames import Frames
    from .values.selection import Flow, Selection
    from .values.tokens import VisualTokens
    from .verifying import Verification, verify

__version__ = "0.1.0"
_MODULES = {
    "decoding.only": ("ONLY",),
    "evidence.guidance": ("Guidance",),
    "evidence.text": ("TextTower",),
    "hosts.module.evidence": ("ModuleEvidence",),
    "lab.exits.calibrate": ("calibrate_exit",),
    "lab.exits.fit": ("fit_exit",),
    "lab.fitting.fit": ("fit",),
    "methods": ("get_method", "list_methods"),
    "methods.base": ("Method",),
    "methods.encoder.ficoco": ("EncoderFiCoCo",),
    "methods.encoder.flowcut": ("EncoderFlowCut",),
    "methods.encoder.merges": ("EncoderFolder", "EncoderMerge", "EncoderToMe"),
    "methods.inside": ("LayerMethod",),
    "options.checks": ("Range",),
    "presets": ("Preset",),
    "reducing": (
        "list_families",
        "prepare",
        "reduce",
        "reduce_module",
        "reductions",
        "restore",
    ),
    "values.budget": ("Budget",),
    "values.errors": (
        "ArgumentError",
        "LftrError",
        "MissingEvidenceError",
        "UnsupportedModelError",
    ),
    "values.frames": ("Frames",),
    "values.selection": ("Flow", "Selection"),
    "values.tokens": ("VisualTokens",),
    "verifying": ("Verification", "verify"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = (
    "bundled",
    "evaluation",
    "media",
    "methods",
    "profiling",
    "schedules",
    "suites",
    "tuning",
)
__all__ = [
    "ONLY",
    "ArgumentError",
    "Budget",
    "EncoderFiCoCo",
    "EncoderFlowCut",
    "EncoderFolder",
    "EncoderMerge",
    "EncoderToMe",
    "Flow",
    "Frames",
    "Guidance",
    "LayerMethod",
    "LftrError",
    "Method",
    "MissingEvidenceError",
    "ModuleEvidence",
    "Preset",
    "Range",
    "Selection",
    "TextTower",
    "UnsupportedModelError",
    "Verification",
    "VisualTokens",
    "bundled",
    "calibrate_exit",
    "evaluation",
    "fit",
    "fit_exit",
    "get_method",
    "list_families",
    "list_methods",
    "media",
    "methods",
    "prepare",
    "profiling",
    "reduce",
    "reduce_module",
    "reductions",
    "restore",
    "schedules",
    "suites",
    "tuning",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, once."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
