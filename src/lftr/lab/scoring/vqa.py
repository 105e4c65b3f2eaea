"""Soft accuracy of visual question answering, as the VQA evaluation server counts it.

Antol et al., "VQA: Visual Question Answering", ICCV 2015, section 5, and the normalisation of the
VQA v2 server (https://visualqa.org/evaluation.html): lower case, numbers as digits, no articles,
missing apostrophes inserted, punctuation removed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"}
_NUMBERS |= {"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # 1.5 keeps its point

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _misspelt() -> dict[str, str]:
    """Map every contraction with one of its apostrophes missing to the contraction."""
    corrected = {"somebody'd": "somebodyd"}  # so on the server
    for word in _CONTRACTIONS.split():
        places = [i for i, letter in enumerate(word) if letter == "'"]
        corrected |= {word[:i] + word[i + 1 :]: word for i in places}
    return corrected


CONTRACTIONS = _misspelt()


def vqa_normalise(answer: str) -> str:
    """Return an answer in the form that the VQA evaluation compares."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in _strip_punctuation(text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _strip_punctuation(text: str) -> str:
    """Remove punctuation as the server does.

    A mark beside a space is deleted, and so are all marks if a comma stands between two digits
    (``1,000`` is one number). Every other mark becomes a space (``red/blue`` is two words).
    """
    number = _BETWEEN_DIGITS.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        edge = mark + " " in text or " " + mark in text
        bare = bare.replace(mark, "" if edge or number else " ")
    return _FULL_STOP.sub("", bare)


def vqa_soft(answer: str, answers: Sequence[str]) -> float:
    """Return the soft accuracy of an answer against those of several people, from 0 to 1.

    It is the mean of ``min(1, matches / 3)`` over the subsets that leave out one person, usually of
    ten people. With fewer than four people, one match scores 1.
    """
    normalised = vqa_normalise(answer)
    people = Counter(vqa_normalise(one) for one in answers)
    matches, count = people[normalised], people.total()
    if count < 4:
        return float(matches > 0)
    without_one, without_other = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * without_one + (count - matches) * without_other) / count
