"""Two methods that share one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.composing import union
from .base import Wrapper, decide


@dataclass(frozen=True)
class Mix(Wrapper):
    """Keep ``round(keep * share)`` tokens of ``a``'s choice and the others of ``b``'s.

    The second method chooses among the tokens that the first did not keep. It receives them without
    a grid, since they may not fill one. A token that it keeps is no part of a slot that the first
    merged, and one that both merge counts half in the slots of each.

    Parameters
    ----------
    a, b : Method or str
        The first and the second method, as objects or names.
    share : float
        Share of the budget for the first method, in [0, 1].
    """

    a: Method | str
    b: Method | str
    share: Annotated[float, Range(0.0, 1.0)] = 0.5

    inside: ClassVar[tuple[str, ...]] = ("a", "b")

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        a, b = self.methods
        count = int(keep * self.share + 0.5)
        if count in (0, keep):
            return decide(a if count else b, tokens, keep)
        first = decide(a, tokens, count)
        rest = _others(first.index, tokens.count)
        return union(first, decide(b, tokens.take(rest), keep - count).through(rest))


def _others(index: Tensor, total: int) -> Tensor:
    """Return the tokens ``(B, N - K)`` that are not in ``index`` ``(B, K)``, ascending."""
    free = torch.ones(len(index), total, dtype=torch.bool, device=index.device)
    return free.scatter_(1, index, False).nonzero()[:, 1].reshape(len(index), -1)
