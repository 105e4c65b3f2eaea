"""Which tokens count as relevant to the text: those near it or those far from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from every import item

import lftr

OPTIONS = {"hiprune": {"text_share": 0.5}}
NAMES = ["cdpruner", "fsr", "hiprune", "resprune", "trim", "two-expert"]


def kept(name, tokens, sign):
    method = lftr.get_method(name, text_sign=sign, **OPTIONS.get(name, {}))
    return method.select(tokens, 7).index.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_negated_text_is_the_other_sign(name):
    tokens = item(5, (1, 6, 6))
    opposite = replace(tokens, text_embeds=-tokens.text_embeds)
    near, far = kept(name, tokens, "positive"), kept(name, tokens, "negative")
    assert near != far
    assert kept(name, opposite, "negative") == near
    assert kept(name, tokens, "published") == far  # in CLIP


@pytest.mark.parametrize("name", NAMES)
def test_published_is_positive_without_clip(name):
    tokens = replace(item(5, (1, 6, 6)), text_embeds=None, visual_projected=None)
    near, far = kept(name, tokens, "positive"), kept(name, tokens, "negative")
    assert near != far
    assert kept(name, tokens, "published") == near
