"""From figures to a verdict: what deviation is allowed, and where a check can tell nothing.

The rule. Two ways of computing the same logits differ by rounding: a batch and a row alone, a cache
and the whole prompt anew. By how much depends on the model, its depth, its dtype and the kernels,
so it is measured: every check first compares the *plain* model with its own truth, by the same
steps, and a reduction may deviate by `FACTOR` times that. Rounding can also cancel by luck, so that
in any case `STEPS` of the dtype are allowed, at the size of the largest logit, and `SUMS` steps of
float32, in which kernels sum thousands of products whatever the dtype.

Every check also measures what is known to be wrong: the full prompt, and, where tokens stay at
their original positions, compact ones. If that is not at least twice as far from the truth as what
is allowed (in float16 and bfloat16, on a model whose answers hardly depend on its image), the check
could not see a fault, and is skipped with that reason. It never passes blindly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .result import Check

FACTOR = 4.0
STEPS = 4.0
SUMS = 64.0


@dataclass(frozen=True)
class Figures:
    """What a check measured, see `Check`.

    Attributes
    ----------
    size : float
        The largest logit of the truth; 0 where what is compared must not differ by a bit.
    fault : str
        What is so if it deviates.
    note : str
        What to know where it does not.
    """

    deviation: float
    plain: float
    wrong: float | None = None
    size: float = 0.0
    fault: str = "the logits are not those of the plain model on the kept tokens"
    note: str = ""

    def allowed(self, dtype: torch.dtype) -> float:
        """Return the deviation up to which the check passes."""
        step, fine = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
        return max(FACTOR * self.plain, max(STEPS * step, SUMS * fine) * self.size)


def judged(name: str, figures: Figures, dtype: torch.dtype) -> Check:
    """Return the check with its verdict, by the rule of this file."""
    allowed = figures.allowed(dtype)
    shown = (figures.deviation, figures.plain, allowed, figures.wrong)
    if not math.isnan(allowed) and not figures.deviation <= allowed:
        return Check(name, "failed", *shown, figures.fault)
    if figures.wrong is not None and not 2 * allowed < figures.wrong:
        reason = (
            f"it could tell nothing: {allowed:.2g} is allowed by the plain model's own deviation, "
            f"and what is known to be wrong is only {figures.wrong:.2g} from the truth"
        )
        return Check(name, "skipped", *shown, reason)
    return Check(name, "passed", *shown, figures.note)


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference; entries that are equal, infinite ones too, have none."""
    if found.shape != expected.shape:
        return float("inf")
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, (found.double() - expected.double()).abs())
    return float(apart.max()) if apart.numel() else 0.0
