"""The model under evaluation."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from ... import __version__
from ...evidence.text import TextTower
from .fingerprint import config_of, processor_of, weights_of


@dataclass(frozen=True)
class Subject:
    """The model under evaluation, with its processor and the length of answers.

    Attributes
    ----------
    name : str
        Name in the run's configuration.
    """

    name: str
    model: Any
    processor: Any
    text_tower: Any = None
    max_new_tokens: int = 8

    def plain(self) -> dict[str, Any]:
        """Return what answers depend on, as plain values: model, device, versions.

        Digests distinguish models of one name, such as a fine-tuned or a quantised one.
        """
        return {
            "lftr": __version__,
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            "model": self.name,
            "weights": weights_of(self.model),
            "model_config": config_of(self.model),
            "processor": processor_of(self.processor),
            "text_tower": self.text_tower and _tower(self.text_tower),
            "device": self.model.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_new_tokens": self.max_new_tokens,
        }


def _tower(tower: TextTower) -> dict[str, str]:
    """Return the id or path of a text tower, or the name of its class, with digests of its weights.

    A function that embeds text has a name only.
    """
    model = tower.text_model
    parts = {"text": model, "projection": tower.visual_projection, "norm": tower.post_layernorm}
    name = getattr(model, "name_or_path", "") or type(model).__name__
    return {"name": name} | {
        part: weights_of(module) for part, module in parts.items() if isinstance(module, nn.Module)
    }
