"""Methods that decide inside the language model, one file each; new files are imported."""

from __future__ import annotations

import importlib
import pkgutil

from . import schedules as schedules
from .base import LayerMethod

__all__ = ["LayerMethod"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
