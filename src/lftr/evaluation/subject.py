"""The model that is asked, as evaluation hands it around."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from .. import __version__
from ..evidence.text import TextTower


@dataclass(frozen=True)
class Subject:
    """The model that is asked.

    Attributes
    ----------
    name : str
        What the run's configuration calls it.
    """

    name: str
    model: Any
    processor: Any
    text_tower: Any = None
    max_new_tokens: int = 8

    def plain(self) -> dict[str, Any]:
        """Return what its answers depend on, as plain values: model, device, versions."""
        return {
            "lftr": __version__,
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            "model": self.name,
            "text_tower": self.text_tower and _tower(self.text_tower),
            "device": self.model.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_new_tokens": self.max_new_tokens,
        }


def _tower(tower: TextTower) -> str:
    """Return the id or path of a text tower; the name of its class where it has neither."""
    model = tower.text_model
    return getattr(model, "name_or_path", "") or type(model).__name__
