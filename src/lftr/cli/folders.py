"""Where a verb writes that is given no folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def folder_of(verb: str, config: Mapping[str, Any]) -> Path:
    """Name a configuration's folder, so that the same command finds it again."""
    text = json.dumps(config, sort_keys=True)
    return Path(f"lftr-{verb}") / hashlib.sha256(text.encode()).hexdigest()[:10]
