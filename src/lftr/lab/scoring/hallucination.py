"""POPE's measures of object hallucination, over questions that are answered by yes or no.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .metrics import verdict


@dataclass(frozen=True)
class Hallucination:
    """POPE's measures; "yes" is the positive class.

    Attributes
    ----------
    accuracy, precision, recall, f1 : float
        From 0 to 1; precision and F1 are 0 if no answer is yes.
    yes_rate : float
        Share of questions that were answered by yes.
    questions : int
        Number of questions.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_rate: float
    questions: int

    @classmethod
    def of(cls, answers: Sequence[str], truths: Sequence[str]) -> Hallucination:
        """Compare answers with ``truths``, ``"yes"`` or ``"no"``; other answers count as wrong."""
        pairs = [(verdict(answer), truth) for answer, truth in zip(answers, truths, strict=True)]
        yes_answers = sum(answer == "yes" for answer, _ in pairs)
        yes_truths = sum(truth == "yes" for _, truth in pairs)
        both = pairs.count(("yes", "yes"))
        right = sum(answer == truth for answer, truth in pairs)
        precision, recall = both / max(yes_answers, 1), both / max(yes_truths, 1)
        f1 = 2 * both / max(yes_answers + yes_truths, 1)
        count = max(len(pairs), 1)
        return cls(right / count, precision, recall, f1, yes_answers / count, len(pairs))
