"""Where a verb writes that is given no folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...values.errors import ArgumentError


def folder_of(verb: str, config: Mapping[str, Any]) -> Path:
    """Name a configuration's folder, so that the same command finds it again."""
    text = json.dumps(config, sort_keys=True)
    return _home(verb) / hashlib.sha256(text.encode()).hexdigest()[:10]


def check_folder(option: str, given: Path | None, verb: str) -> None:
    """Refuse a folder that could not be written, or the one for a verb's own, before the work.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    folder = given or _home(verb)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ArgumentError.of(option, str(folder), f"a folder to write to ({there} is none)")


def _home(verb: str) -> Path:
    return Path(f"lftr-{verb}")
