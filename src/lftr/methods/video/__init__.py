"""Methods made for videos, one file each; new files are imported automatically.

They take images too: an image is a clip of one frame, and so is each tile.
"""

from __future__ import annotations

import importlib
import pkgutil

__all__: list[str] = []

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
