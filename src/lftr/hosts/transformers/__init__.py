"""The host for Hugging Face transformers."""

from __future__ import annotations

import transformers

from ...errors import LftrError

_FLOOR = (5, 18)

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < _FLOOR:
    raise LftrError(
        f"transformers {transformers.__version__} is too old; lftr needs at least "
        f"{'.'.join(map(str, _FLOOR))}: pip install --upgrade transformers"
    )
