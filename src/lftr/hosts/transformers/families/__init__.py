"""Model families, one group a file; a new file in this folder is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ....errors import UnsupportedModelError
from .base import Family
from .layout import Layout
from .medium import Clips, Medium

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Clips", "Family", "Layout", "Medium", "family_of", "list_families"]


def list_families(*, video: bool = False) -> list[str]:
    """Return the model types that `lftr.reduce` takes, or whose videos it takes, sorted."""
    return sorted(
        name for name, family in Family.registry.items() if not video or family.video is not None
    )


def family_of(model: Any) -> Family:
    """Return the family of a transformers model.

    Raises
    ------
    UnsupportedModelError
        If it has no visual tokens, or is of a family that is not hosted.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    family = Family.registry.get(str(model_type))
    if family is not None:
        return family
    way_out = (
        f"supported: {', '.join(list_families())}; for any other code, reduce what a module "
        "returns: lftr.reduce_module(module, method, keep, grid=...)"
    )
    modalities = getattr(model, "input_modalities", ())
    if config is not None and not {"image", "video"} & set(modalities):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no visual tokens to reduce; {way_out}"
        )
    raise UnsupportedModelError(
        f"model = {type(model).__name__} (model_type {model_type!r}) is not supported; {way_out}"
    )
