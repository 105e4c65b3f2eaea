"""Does a model say yes to what is not there: POPE's figures over questions of yes or no.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .metrics import verdict


@dataclass(frozen=True)
class Hallucination:
    """POPE's figures; "yes" is the positive class.

    Attributes
    ----------
    accuracy, precision, recall, f1 : float
        From 0 to 1; precision is 0 where nothing was affirmed, and so is F1.
    yes_rate : float
        Share of questions that were affirmed.
    questions : int
        How many there were.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_rate: float
    questions: int

    @classmethod
    def of(cls, answers: Sequence[str], truths: Sequence[str]) -> Hallucination:
        """Count answers against what is true, ``"yes"`` or ``"no"``; neither counts as wrong."""
        pairs = [(verdict(answer), truth) for answer, truth in zip(answers, truths, strict=True)]
        yes_answers = sum(answer == "yes" for answer, _ in pairs)
        yes_truths = sum(truth == "yes" for _, truth in pairs)
        both = pairs.count(("yes", "yes"))
        right = sum(answer == truth for answer, truth in pairs)
        precision, recall = both / max(yes_answers, 1), both / max(yes_truths, 1)
        f1 = 2 * both / max(yes_answers + yes_truths, 1)
        count = max(len(pairs), 1)
        return cls(right / count, precision, recall, f1, yes_answers / count, len(pairs))
