"""The rule by which a claim holds, holds partly or does not hold: intervals in, a word out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

MARGIN = 0.03  # of the full model's accuracy: what "maintained" and "no more" leave open
QUESTIONS = math.ceil(3 / MARGIN)  # so many right answers and no wrong one: the margin, at 95 %
ROUNDS = 10  # fewer times have no interval worth the name
HOLDS, PARTLY, FAILS, TOO_FEW = "holds", "holds partly", "does not hold", "too few questions"
BLIND = "cannot be told: the full model does no better than a guess"
RULE = (
    f"Intervals are of 95 %, from draws of the questions. Accuracy is *maintained* where the "
    f"interval of the relative accuracy begins at {1 - MARGIN:.2f} or above. The claim of few "
    "tokens holds if the largest ratio maintains accuracy, and partly if a smaller one does. Two "
    "reductions are *complementary in accuracy* where the relative accuracy of both together, less "
    "the product of those of each alone, has an interval that begins at "
    f"{-MARGIN:.2f} or above; *in time* where the time to the first token of both together over "
    "that of each alone has an interval that ends below 1. A pair's claim holds if both are so, "
    "partly if one is; the claim of several pairs holds if each pair's does, and does not hold if "
    "none does in any part. What is not shown counts as not so. Nothing is judged by fewer than "
    f"{QUESTIONS} questions or {ROUNDS} times, nor by a model whose accuracy is not shown to be "
    "above that of the most frequent answer to each kind of question, since such a model has no "
    "accuracy that a reduction could maintain."
)


def enough(questions: int, rounds: int) -> bool:
    """Whether there is enough to judge by."""
    return questions >= QUESTIONS and rounds >= ROUNDS


def sees(accuracy: Sequence[float], guess: float) -> bool:
    """Whether an interval of the full model's accuracy shows that it is better than a guess."""
    return accuracy[1] > guess


def maintained(relative: Sequence[float] | None) -> bool:
    """Whether an interval ``(value, low, high)`` of relative accuracy shows that it is kept."""
    return relative is not None and relative[1] >= 1 - MARGIN


def of_ratios(relative: Mapping[int, Sequence[float] | None]) -> str:
    """Judge accuracy at some ratios of tokens: up to the largest, up to a smaller one, or none."""
    kept = [ratio for ratio, interval in relative.items() if maintained(interval)]
    if not kept:
        return FAILS
    return HOLDS if max(kept) == max(relative) else PARTLY


def adds_no_loss(surplus: Sequence[float] | None) -> bool:
    """Whether an interval of accuracy together, less the product of each alone, shows no loss."""
    return surplus is not None and surplus[1] >= -MARGIN


def is_faster(times: Iterable[Sequence[float]]) -> bool:
    """Whether every interval of a ratio of times shows that it is below 1."""
    return all(high < 1 for _, _, high in times)


def of_pair(surplus: Sequence[float] | None, times: Iterable[Sequence[float]]) -> str:
    """Judge two reductions together, by accuracy and by time."""
    return [FAILS, PARTLY, HOLDS][adds_no_loss(surplus) + is_faster(times)]


def of_all(verdicts: Sequence[str]) -> str:
    """Judge a claim about several pairs."""
    return verdicts[0] if len(set(verdicts)) == 1 else PARTLY
