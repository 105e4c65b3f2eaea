"""The folder of a run, by default one that its configuration names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...values.errors import ArgumentError


def folder_of(verb: str, config: Mapping[str, Any]) -> Path:
    """Return the default folder of a configuration; the same command finds it again."""
    text = json.dumps(config, sort_keys=True)
    return _home(verb) / hashlib.sha256(text.encode()).hexdigest()[:10]


def check_folder(option: str, path: Path | None, verb: str) -> None:
    """Refuse a folder, by default the command's own, that cannot be written.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    folder = path or _home(verb)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ArgumentError.of(option, str(folder), f"a folder to write to ({existing} is none)")


def _home(verb: str) -> Path:
    return Path(f"lftr-{verb}")
