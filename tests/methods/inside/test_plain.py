"""Layer methods against slow programs written from their descriptions, without lftr's functions."""

from __future__ import annotations

import math

import pytest

from lftr.methods import PriorTR

from .views import view


def causal_attention(seen, row):
    """Return the attention of one row to every row up to it, for each head, as lists."""
    heads, result = seen.heads, []
    group = len(heads.queries) // len(heads.keys)
    for number, queries in enumerate(heads.queries.tolist()):
        keys = heads.keys[number // group].tolist()
        products = [
            heads.scale * sum(a * b for a, b in zip(queries[row], keys[column], strict=True))
            for column in range(row + 1)
        ]
        largest = max(products)
        weights = [math.exp(product - largest) for product in products]
        result.append([weight / sum(weights) for weight in weights])
    return result


def mean_attention(seen, rows):
    """Return the attention of some rows to each visual token, averaged over rows and heads."""
    total = [0.0] * len(seen.visual)
    for row in rows:
        maps = causal_attention(seen, row)
        for place, column in enumerate(seen.visual.tolist()):
            total[place] += sum(one[column] for one in maps) / len(maps) / len(rows)
    return total


def best(scores, keep):
    """Return the indices of the highest scores, ascending; the earlier of equal ones."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:keep])


@pytest.mark.parametrize("question", ["mean", "last"])
@pytest.mark.parametrize("seed", range(5))
def test_priortr(seed, question):
    seen = view(seed, visual=18, text=4)
    first, last = int(seen.visual[-1]) + 1, len(seen.states) - 1
    asking = range(first, last + 1) if question == "mean" else [last]
    prior, asked = mean_attention(seen, [first]), mean_attention(seen, asking)
    prior = [share / sum(prior) for share in prior]
    asked = [share / sum(asked) for share in asked]
    scores = [p * math.log(p / q) for p, q in zip(asked, prior, strict=True)]
    for keep in (1, 5, 17):
        assert PriorTR(question=question).select(seen, keep).index.tolist() == best(scores, keep)


def test_priortr_with_one_token_after_the_image_follows_its_attention():
    seen = view(6, visual=18, text=1)
    scores = mean_attention(seen, [len(seen.states) - 1])
    assert PriorTR().select(seen, 5).index.tolist() == best(scores, 5)
