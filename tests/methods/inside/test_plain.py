"""Layer methods against slow programs written from their descriptions, without lftr's functions."""

from __future__ import annotations

import cmath
import dataclasses
import itertools
import math

import pytest
import torch

import lftr
from lftr.methods import CLSE, Feather, IVCPrune, PriorTR, TransPrune, V2Drop
from lftr.methods.inside.schedules import Stages
from lftr.values.places import Places

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


@pytest.mark.parametrize("seed", range(5))
def test_v2drop(seed):
    method = V2Drop(schedule=Stages(layers=(2, 4), keep=(0.5, 0.2)))
    assert method.watches(8) == {1, 3}
    memory, left = {}, list(range(20))
    states = {layer: view(seed + layer, visual=20).states for layer in (1, 2, 3, 4)}
    for layer in (1, 2, 3, 4):
        columns = [0, 1, 2, *(3 + token for token in left), 23, 24, 25, 26, 27]
        seen = view(visual=len(left), layer=layer, memory=memory, tokens=20)
        seen = dataclasses.replace(
            seen, states=states[layer][columns], columns=torch.tensor(columns)
        )
        method.observe(seen)
        if layer in (2, 4):
            keep = {2: 10, 4: 4}[layer]
            change = [
                math.dist(*(states[i][3 + t].tolist() for i in (layer - 1, layer))) for t in left
            ]
            chosen = best(change, keep)
            assert method.select(seen, keep).index.tolist() == chosen
            left = [left[i] for i in chosen]


def test_v2drop_has_to_look_one_layer_earlier():
    with pytest.raises(lftr.LftrError, match="'states of layer 3' was not stored"):
        V2Drop().select(view(layer=4), 3)


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def softmax(values):
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    return [weight / sum(weights) for weight in weights]


def located(seen, blocks, coordinates):
    """Return the view with its tokens at these places."""
    places = Places(tuple(blocks), torch.tensor(coordinates))
    return dataclasses.replace(seen, locate=lambda: places)


# an image of two tiles, with newlines behind the rows of the second
BLOCKS = [(4, 5), (3, 2)]
TILES = [
    *((0, row, column) for row in range(4) for column in range(5)),
    *((1, row, column) if column < 2 else (-1, -1, -1) for row in range(3) for column in range(3)),
]


def image_attention(seen):
    """Return the last row's attention, normalised over the visual tokens, averaged over heads."""
    heads, total = seen.heads, [0.0] * len(seen.visual)
    group = len(heads.queries) // len(heads.keys)
    for number, queries in enumerate(heads.queries.tolist()):
        keys = heads.keys[number // group].tolist()
        products = [heads.scale * dot(queries[-1], keys[c]) for c in seen.visual.tolist()]
        for place, share in enumerate(softmax(products)):
            total[place] += share / len(heads.queries)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_feather(seed):
    seen = located(view(seed, visual=len(TILES), layer=2, depth=8), BLOCKS, TILES)
    grid = [i for i, (b, row, column) in enumerate(TILES) if b >= 0 and not (row % 3 or column % 3)]
    assert grid == [0, 3, 15, 18, 20]
    scores = image_attention(seen)
    for keep in (1, 4, 5, 6, 12, len(TILES) - 1):
        others = best([-1.0 if i in grid else x for i, x in enumerate(scores)], len(TILES) - 5)
        ranked = sorted(grid, key=lambda i: -scores[i])
        ranked += sorted(others, key=lambda i: -scores[i])
        assert Feather().select(seen, keep).index.tolist() == sorted(ranked[:keep])
        later = dataclasses.replace(seen, layer=4)
        assert Feather().select(later, keep).index.tolist() == best(scores, keep)
    every = Feather(stride=1).select(seen, 26)
    assert every.index.tolist() == [i for i, place in enumerate(TILES) if place[0] >= 0]


def plain_transition(passage):
    """Return ratio of lengths times softmax of one minus cosine, over all rows, as lists."""
    pairs = list(zip(passage.entered.tolist(), passage.left.tolist(), strict=True))
    lengths = [(math.hypot(*entered), math.hypot(*left)) for entered, left in pairs]
    turns = softmax([1 - dot(*p) / (a * b) for p, (a, b) in zip(pairs, lengths, strict=True)])
    return [b / a * turn for (a, b), turn in zip(lengths, turns, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_transprune(seed):
    """Layers between the cuts count; tokens that go take their sums with them."""
    method = TransPrune(schedule=Stages(layers=(2, 4), keep=(0.6, 0.3)))
    assert method.watches(8) == {2, 3, 4}
    memory, left, sums = {}, list(range(20)), [0.0] * 20
    for layer in (2, 3, 4):
        columns = [0, 1, 2, *(3 + token for token in left), 23, 24, 25, 26, 27]
        seen = view(10 * seed + layer, visual=len(left), layer=layer, memory=memory, tokens=20)
        seen = dataclasses.replace(seen, columns=torch.tensor(columns))
        method.observe(seen)
        moved = [plain_transition(part) for part in seen.passages]
        for place, token in enumerate(left):
            sums[token] += moved[0][3 + place] + moved[1][3 + place]
        if layer in (2, 4):
            keep = {2: 12, 4: 6}[layer]
            attended = mean_attention(seen, seen.text.tolist())
            whole = sum(sums[token] for token in left)
            scores = [
                sums[token] / whole + share / sum(attended)
                for token, share in zip(left, attended, strict=True)
            ]
            chosen = best(scores, keep)
            assert method.select(seen, keep).index.tolist() == chosen
            left = [left[i] for i in chosen]


def test_transprune_survives_a_token_that_enters_as_nothing():
    seen = view(1)
    for passage in seen.passages:
        passage.entered[5] = 0.0
    method = TransPrune()
    method.observe(seen)
    assert method.select(seen, 7).count == 7


def value_similarity(seen, rows):
    """Return the similarity of values to each visual token, averaged over heads and rows."""
    total = [0.0] * len(seen.visual)
    values = seen.heads.values.tolist()
    for row, head in itertools.product(rows, values):
        shares = softmax([dot(head[row], other) / math.sqrt(len(other)) for other in head])
        for place, column in enumerate(seen.visual.tolist()):
            total[place] += shares[column] / len(values) / len(rows)
    return total


@pytest.mark.parametrize(("share", "skip"), [(0.1, 2), (0.05, 0), (0.0, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_ivc_prune(seed, share, skip):
    seen = view(seed, visual=60, text=6)
    method = IVCPrune(coordinates=share, skip=skip, seeds=0.05)
    question = seen.text.tolist()[skip:] or seen.text.tolist()
    for keep in (1, 9, 30, 59):
        some, chosen = min(round(60 * share), keep // 4), set()
        for table in seen.rotary:
            means = [sum(row) / len(row) for row in table[seen.visual].tolist()]
            chosen |= set(best(means, some))
        similar = value_similarity(seen, question)
        seeds = best(similar, min(3, keep - len(chosen)))
        chosen |= set(seeds)
        rows = [*question, *seen.visual[seeds].tolist()]
        similar = value_similarity(seen, rows)
        others = sorted((i for i in range(60) if i not in chosen), key=lambda i: -similar[i])
        wanted = sorted([*chosen, *others[: keep - len(chosen)]])
        assert method.select(seen, keep).index.tolist() == wanted


def test_ivc_prune_needs_positions():
    with pytest.raises(lftr.LftrError, match="coordinates are rotary positions"):
        IVCPrune().select(dataclasses.replace(view(0), rotary=None), 5)


def fine_detail(rows, high, wide, cutoff):
    """Return the high frequencies of a grid's rows, mean of absolute values: by slow sums."""
    width = min(high // 2, wide // 2) * cutoff
    result = [0.0] * len(rows)
    turn = lambda y, v, x, u: cmath.exp(2j * math.pi * (y * v / high + x * u / wide))  # noqa: E731
    cells = list(itertools.product(range(high), range(wide)))
    for channel in range(len(rows[0])):
        spectrum = {}
        for v, u in cells:
            sums = sum(rows[y * wide + x][channel] * turn(y, v, x, u).conjugate() for y, x in cells)
            near = min(v, high - v) ** 2 + min(u, wide - u) ** 2
            spectrum[v, u] = sums * (1 - math.exp(-near / max(2 * width**2, 1e-6)))
        for y, x in cells:
            back = sum(value * turn(y, v, x, u) for (v, u), value in spectrum.items())
            result[y * wide + x] += abs(back) / (high * wide) / len(rows[0])
    return result


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "gaps"])
@pytest.mark.parametrize("seed", range(2))
def test_clse(seed, whole):
    """Two tiles, one of them perhaps with a gap, and newlines."""
    places = TILES if whole else TILES[:7] + TILES[8:]
    count = len(places)
    first = located(view(seed, visual=count, layer=0, depth=8), BLOCKS, places)
    second = view(seed + 50, visual=count, layer=1, depth=8, memory=first.memory)
    states = first.states + 0.3 * second.states
    second = located(dataclasses.replace(second, states=states), BLOCKS, places)
    method = CLSE(cutoff=0.3, temperature=0.2)
    method.observe(first)
    method.observe(second)
    tokens, old, new = [], [], []
    for number, (high, wide) in enumerate(BLOCKS):
        members = [i for i, place in enumerate(places) if place[0] == number]
        if len(members) == high * wide:
            tokens += members
            for seen, details in ((first, old), (second, new)):
                rows = seen.states[seen.visual][members].tolist()
                details += fine_detail(rows, high, wide, 0.3)
    mean = sum(old) / len(old)
    rates = [min(abs(b - a) / (mean + a), 1.0) for a, b in zip(old, new, strict=True)]
    middle = sum(rates) / len(rates)
    spread = math.sqrt(sum((rate - middle) ** 2 for rate in rates) / (len(rates) - 1))
    factors = dict.fromkeys(range(count), 0.5)
    for token, rate in zip(tokens, rates, strict=True):
        factors[token] = 1 / (1 + math.exp(-(rate - middle) / spread / 0.2))
    attended = mean_attention(second, [len(second.states) - 1])
    scores = [attended[i] * factors[i] for i in range(count)]
    for keep in (1, 8, count - 1):
        assert method.select(second, keep).index.tolist() == best(scores, keep)
        later = dataclasses.replace(second, layer=5)
        assert method.select(later, keep).index.tolist() == best(attended, keep)


def test_clse_follows_attention_where_no_block_is_whole():
    places = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1)]
    seen = located(view(3, visual=5, layer=1), [(2, 3)], places)
    method = CLSE()
    method.observe(dataclasses.replace(seen, layer=0))
    scores = mean_attention(seen, [len(seen.states) - 1])
    assert method.select(seen, 3).index.tolist() == best(scores, 3)
