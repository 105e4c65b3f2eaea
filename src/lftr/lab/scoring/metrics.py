"""Scores of single answers, from 0 to 1; `METRICS` names them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from ...values.errors import ArgumentError
from ..suites.example import normalise
from .vqa import vqa_soft

Metric = Callable[[str, Sequence[str], Sequence[str]], float]

_NEAR = 0.5  # ANLS: less similar answers count as wrong, and not as misread


def exact(answer: str, answers: Sequence[str]) -> float:
    """Return 1 if the answer is one of ``answers``; case, outer spaces, full stop are ignored."""
    return float(normalise(answer) in {normalise(one) for one in answers})


def anls(answer: str, answers: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity to the nearest answer; 0 if below a half.

    Biten et al., "Scene Text Visual Question Answering", ICCV 2019, equation 1, with its threshold
    of 0.5; averaged over questions it is ANLS. Case and repeated spaces are ignored.
    """
    spaced = _join_words(answer)
    best = max((_similarity(spaced, _join_words(one)) for one in answers), default=0.0)
    return best if best >= _NEAR else 0.0


def _join_words(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - levenshtein(one, other) / longest if longest else 1.0


def levenshtein(one: str, other: str) -> int:
    """Return the fewest insertions, deletions and replacements from one text to the other."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, against in enumerate(other, 1):
            cheapest = min(diagonal + (letter != against), row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], cheapest
    return row[-1]


def verdict(answer: str) -> str:
    """Return ``"yes"`` or ``"no"`` as an answer says, or ``""`` if it says neither.

    The rule is that of POPE (Li et al., "Evaluating Object Hallucination in Large Vision-Language
    Models", EMNLP 2023): "no" or "not" in the first sentence means no. Its program counts every
    other answer as yes; here the sentence has to contain "yes".
    """
    words = re.findall(r"\w+", answer.partition(".")[0].lower())
    if "no" in words or "not" in words:
        return "no"
    return "yes" if "yes" in words else ""


def yes_no(answer: str, answers: Sequence[str]) -> float:
    """Return 1 if the answer's `verdict` is that of one of ``answers``, else 0."""
    answer_verdict = verdict(answer)
    return float(bool(answer_verdict) and answer_verdict in {verdict(one) for one in answers})


def pick_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Return which of ``choices`` an answer picks, by letter or words; None if that is unclear.

    Tried in this order: a letter alone (``B``, ``(b)``, ``B.``, ``B: a cat``), the words of one
    choice alone, a capital letter after "answer is", words of exactly one choice inside the answer.
    Of "cat" and "black cat", both inside, the longer counts.
    """
    letters = string.ascii_uppercase[: len(choices)]
    normalised, options = normalise(answer), [normalise(choice) for choice in choices]
    if normalised in options:
        return options.index(normalised)
    alone = re.match(r"\s*[(\[]?([A-Za-z])(?:[)\].:,]|\s*$)", answer)
    named = alone or re.search(r"answer(?:\s+is|:)\s*[(\[]?([A-Z])\b", answer, re.IGNORECASE)
    if named and named[1].upper() in letters:
        return letters.index(named[1].upper())
    inside = [i for i, option in enumerate(options) if _stands_in(option, normalised)]
    whole = [
        i for i in inside if not any(_is_part(options[i], options[j]) for j in inside if j != i)
    ]
    return whole[0] if len(whole) == 1 else None


def _is_part(words: str, text: str) -> bool:
    """Whether ``text`` contains ``words`` as whole words and more."""
    return words != text and _stands_in(words, text)


def _stands_in(words: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def multiple_choice(answer: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """Return 1 if the answer picks a right choice, else 0.

    ``answers`` name the right choices by letter or by words, read as by `pick_choice`. Without
    ``choices``, letters and words are compared as text.
    """
    if not choices:
        return exact(answer.strip("()[]. "), [one.strip("()[]. ") for one in answers])
    pick = pick_choice(answer, choices)
    return float(pick is not None and pick in {pick_choice(one, choices) for one in answers})


METRICS: dict[str, Metric] = {
    "exact": lambda answer, answers, choices: exact(answer, answers),
    "vqa": lambda answer, answers, choices: vqa_soft(answer, answers),
    "choice": multiple_choice,
    "yesno": lambda answer, answers, choices: yes_no(answer, answers),
    "anls": lambda answer, answers, choices: anls(answer, answers),
}


def get_metric(name: str) -> Metric:
    """Return a metric by name: ``metric(answer, answers, choices)``, from 0 to 1.

    Raises
    ------
    ArgumentError
        If the name is unknown.
    """
    if name not in METRICS:
        raise ArgumentError.unknown("metric", name, METRICS)
    return METRICS[name]


def check_scored(name: str, answers: Sequence[str], choices: Sequence[str]) -> None:
    """Refuse right answers with which every answer would score 0.

    Raises
    ------
    ArgumentError
        If the metric is "choice" and there are no choices or none that an answer names, or it is
        "yesno" and no answer says yes or no.
    """
    if name == "yesno" and not any(map(verdict, answers)):
        raise ArgumentError.of("answers", list(answers), "yes or no, for the metric 'yesno'")
    if name != "choice":
        return
    if not choices:
        raise ArgumentError.of("choices", [], "one or more, for the metric 'choice'")
    if all(pick_choice(one, choices) is None for one in answers):
        allowed = f"one of {list(choices)} or its letter, for the metric 'choice'"
        raise ArgumentError.of("answers", list(answers), allowed)


def agreement(answers: Sequence[str], full: Sequence[str]) -> list[float]:
    """Return, for each question, 1 if two settings gave the same answer, else 0.

    Raises
    ------
    ValueError
        If the numbers of answers differ.
    """
    return [float(one == other) for one, other in zip(answers, full, strict=True)]
