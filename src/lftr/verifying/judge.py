"""The verdict of a check: which deviation is allowed, and when a check is inconclusive.

Two ways of computing the same logits differ by rounding: a batch or a single row, with a cache or
without. The difference depends on the model, its dtype and the kernels, so each check measures it:
it compares the *plain* model with its own reference, by the same steps, and a reduction may deviate
by `FACTOR` times that. Since rounding errors can cancel by chance, a check always allows `STEPS`
steps of the dtype, at the size of the largest logit, and `SUMS` steps of float32, in which kernels
sum thousands of products whatever the dtype.

Each check also measures the deviation of results that are known to be wrong: the full prompt, and
compact positions if tokens keep their original ones. A check is inconclusive if that deviation is
less than twice the allowed one, as in float16 or bfloat16 on a model whose answers hardly depend on
the image. Such a check is skipped with that reason, and does not pass.
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
    """The measurements of a check, see `Check`.

    Attributes
    ----------
    size : float
        The largest logit of the reference; 0 if the results must be bit-identical.
    fault : str
        The reason to give if the check fails.
    note : str
        The remark to give if it passes.
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


def judge(name: str, figures: Figures, dtype: torch.dtype) -> Check:
    """Return the check with its verdict, by the rule of this file."""
    allowed = figures.allowed(dtype)
    values = (figures.deviation, figures.plain, allowed, figures.wrong)
    if not math.isnan(allowed) and not figures.deviation <= allowed:
        return Check(name, "failed", *values, figures.fault)
    if figures.wrong is not None and not 2 * allowed < figures.wrong:
        reason = (
            f"inconclusive: the plain model's own deviation allows {allowed:.2g}, and a result "
            f"that is known to be wrong deviates by only {figures.wrong:.2g}"
        )
        return Check(name, "skipped", *values, reason)
    return Check(name, "passed", *values, figures.note)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; equal infinities and two NaN count as equal."""
    if actual.shape != expected.shape:
        return float("inf")
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, (actual.double() - expected.double()).abs())
    return float(apart.max()) if apart.numel() else 0.0
