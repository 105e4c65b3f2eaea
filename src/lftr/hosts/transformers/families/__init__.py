"""Model families, one group per file; files in this folder are imported automatically."""

from __future__ import annotations

import importlib
import pkgutil

from ....values.errors import UnsupportedModelError
from ....values.renamed import former_names
from ...layout import Layout
from ..api import Model
from .base import Family
from .general import General, is_general
from .medium import Medium, VideoNames
from .refused import REFUSED

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Family", "Layout", "Medium", "VideoNames", "family_of", "list_families"]

__getattr__ = former_names(__name__, {"Clips": VideoNames})


def list_families(*, video: bool = False) -> list[str]:
    """Return the model types that `lftr.reduce` takes, or whose videos it takes, sorted."""
    return sorted(
        name for name, family in Family.registry.items() if not video or family.video is not None
    )


def family_of(model: Model) -> Family:
    """Return the family of a transformers model.

    Raises
    ------
    UnsupportedModelError
        If it has no visual tokens, or cannot be hosted.
    """
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", None))
    family = Family.registry.get(model_type)
    if family is not None:
        return family.fitted(model)
    if model_type not in REFUSED and config is not None and is_general(model):
        return General().fitted(model)
    raise UnsupportedModelError(
        f"model = {type(model).__name__} (model_type {model_type!r}) {_reason(model, model_type)}; "
        f"supported: {', '.join(list_families())}; for any other code, reduce what a module "
        "returns: lftr.reduce_module(module, method, keep, grid=...)"
    )


def _reason(model: Model, model_type: str) -> str:
    if model_type in REFUSED:
        return f"is not hosted: {REFUSED[model_type]}"
    if not {"image", "video"} & set(getattr(model, "input_modalities", ())):
        return "names no images or videos among its input_modalities"
    return (
        "is not hosted: its forward takes no encoder outputs (mm_encoder_outputs), or its prompt "
        "has no placeholders for visual tokens"
    )
