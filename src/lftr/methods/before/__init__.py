"""Methods that decide before the language model, one file each; new files are imported."""

from __future__ import annotations

import importlib
import pkgutil

__all__: list[str] = []  # the files have the names of methods, and one is called lftr

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
