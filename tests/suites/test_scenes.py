"""What the suite of scenes has to itself; see `test_suites` for the rest."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from lftr import suites
from lftr.lab.suites.layout import SIDE
from lftr.lab.suites.render import render

from .support import SCENES


@pytest.mark.slow
def test_answers_are_balanced():
    answers = defaultdict(Counter)
    for _, question in SCENES.drawn(n=4000):
        answers[question.category][question.answer] += 1
    for category, found in answers.items():
        if category != "comparison":
            most, least = max(found.values()), min(found.values())
            assert most < 1.8 * least, (category, found)
    yes = answers["existence"]["yes"] / answers["existence"].total()
    assert 0.47 < yes < 0.53


def test_an_example_is_one_image():
    (example,) = suites.load("scenes", n=1)
    assert example.images == (example.image,)


def test_an_empty_scene_can_be_drawn():
    assert render((), np.random.default_rng(0)).shape == (SIDE, SIDE, 3)
