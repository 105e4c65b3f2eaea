"""Control: every n-th token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method


@dataclass(frozen=True)
class Uniform(Method, name="uniform"):
    """Keep tokens at equal steps in raster order, each from the middle of its step."""

    source = Source("this project", note="a control")
    sees_features: ClassVar[bool] = False

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        steps = torch.arange(keep, device=tokens.features.device)
        index = (2 * steps + 1) * tokens.count // (2 * keep)
        return Selection(index.expand(len(tokens.features), keep))
