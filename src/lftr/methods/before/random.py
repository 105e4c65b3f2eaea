"""Control: random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method


@dataclass(frozen=True)
class Random(Method, name="random"):
    """Keep tokens drawn uniformly at random, the same ones for every item of equal size.

    The control that any method must beat. The draw depends only on the seed and the size of the
    item, so it is the same on every device and in every batch.

    Parameters
    ----------
    seed : int
        Seed of the draw, below ``2**63``.
    """

    source = Source("this project", note="a control")
    sees_features: ClassVar[bool] = False

    seed: Annotated[int, Range(0, 2**63 - 1)] = 0

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        generator = torch.Generator().manual_seed(self.seed)
        index = torch.randperm(tokens.count, generator=generator)[:keep].sort().values
        return Selection(index.to(tokens.features.device).expand(len(tokens.features), keep))
