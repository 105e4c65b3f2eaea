"""FocusLLaVA's samplers: what the gate and the text-guided sampler begin with and learn."""

from __future__ import annotations

import pytest
import torch
from every import item

import lftr
from lftr.methods.operations.learned_regions import RegionSamplers

GRIDS = [(1, 8, 8), (1, 5, 7), (1, 13, 3), (3, 4, 6), (1, 1, 30)]  # some regions are cut


def part_for(tokens, random=False):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        part = RegionSamplers.fresh(tokens, width=8)
        for weight in part.parameters() if random else []:
            weight.data = torch.randn(weight.shape)
    return part


def relaxed(part, tokens, keep, temperature):
    return part.relax(tokens, keep, temperature, torch.Generator().manual_seed(1))


def held(chosen):
    """Return the tokens of each slot of a stack of one, as sets."""
    flow, slots = chosen.item(0).flow, [set() for _ in range(chosen.count)]
    there = flow.weight > 0
    for source, slot in zip(flow.source[there].tolist(), flow.slot[there].tolist(), strict=True):
        slots[slot].add(source)
    return {frozenset(slot) for slot in slots}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_gate_begins_with_variance(grid):
    """The slots are some of those of the method without a fitted part, at twice the count."""
    tokens = item(4, grid).as_batch()
    part, twin = part_for(tokens), lftr.get_method("region-router")
    for keep in range(max(1, grid[0]), tokens.count // 2):
        cells = held(twin.select(tokens, 2 * keep))
        chosen = part.decide(tokens, keep)
        assert chosen.count == keep
        assert held(chosen) < cells


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_soft_slots_are_means_within_the_budget(grid, temperature):
    """Slots hold tokens of their own region, each with a share; the gates count to the budget."""
    tokens = item(5, grid).as_batch()
    part = part_for(tokens, random=True)
    for keep in (6, tokens.count // 3, (tokens.count - 1) // 2):
        chosen = relaxed(part, tokens, keep, temperature)
        assert chosen.count == min(tokens.count, 4 * keep)
        ones = torch.ones(1, tokens.count, 1)
        torch.testing.assert_close(chosen.apply(ones), torch.ones(1, chosen.count, 1))
        assert bool((chosen.flow.weight >= -1e-6).all())
        frame_row_column = tokens.coordinates // torch.tensor([1, 4, 4])
        source, slot = chosen.flow.source[0], chosen.flow.slot[0]
        assert torch.equal(frame_row_column[source], frame_row_column[chosen.index[0][slot]])


def test_half_of_what_the_gate_leaves_stays():
    """All gates are even at a high temperature: slots that stand for 64 tokens count half."""
    tokens = item(5, (1, 8, 8)).as_batch()
    chosen = relaxed(part_for(tokens), tokens, 8, 100.0)
    torch.testing.assert_close(chosen.slot_weight.sum(), torch.tensor(32.0), rtol=0.2, atol=0)


def test_gradients_reach_both_samplers():
    """The gate's weights change what slots are; all change what slots count for."""
    tokens = item(6, (1, 8, 8)).as_batch()
    part = part_for(tokens, random=True)
    names = {name for name, _ in part.named_parameters()}
    chosen = relaxed(part, tokens, 10, 0.5)
    for value, reached in (
        (chosen.apply(tokens.features), {name for name in names if name.startswith("gate_")}),
        (chosen.slot_weight, names),
    ):
        part.zero_grad()
        value.square().sum().backward(retain_graph=True)
        grads = {name: weight.grad for name, weight in part.named_parameters()}
        assert {name for name, g in grads.items() if g is not None and bool(g.any())} == reached


SIDE = 3  # regions in a row and in a column of a puzzle


def puzzle(seed):
    """Return a stack of one, and the tokens of the two regions with faint detail.

    All other regions vary far more. The encoder's features tell the two apart, and the prompt names
    one of them, the first that is returned.
    """
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(SIDE, SIDE, 4, 4, 6, generator=draw)  # the tokens of each region
    seen = torch.randn(SIDE, SIDE, 4, 4, 7, generator=draw) * 0.3
    places = torch.randperm(SIDE * SIDE, generator=draw)[:2].tolist()
    for colour, place in enumerate(places):
        x[place // SIDE, place % SIDE] = 1 + 0.3 * torch.randn(4, 4, 6, generator=draw)
        seen[place // SIDE, place % SIDE][..., colour] += 3.0
    asked = int(torch.randint(2, (), generator=draw))
    tokens = lftr.VisualTokens(
        x.transpose(1, 2).reshape(1, -1, 6),
        grid=(1, 4 * SIDE, 4 * SIDE),
        encoder_features=seen.transpose(1, 2).reshape(1, -1, 7),
        cls_attention=torch.ones(1, 1, 16 * SIDE * SIDE),
        text_token_embeds=torch.eye(6)[None, asked : asked + 1],
    )
    region = (tokens.coordinates[:, 1:] // 4) @ torch.tensor([SIDE, 1])
    return tokens, region == places[asked], region == places[1 - asked]


def lost(chosen, tokens, wanted):
    """Return how badly the slots tell the wanted tokens, as attention would read them."""
    apart = torch.cdist(tokens.features[0][wanted], chosen.apply(tokens.features)[0]).square()
    there = chosen.weight.clamp_max(1.0).log()
    return -(there - apart / 0.05).logsumexp(dim=1).mean()


@pytest.fixture(scope="module")
def learnt():
    """A part that is fitted to tell the region that the prompt names."""
    part, steps = part_for(puzzle(0)[0]), 80
    optimizer = torch.optim.Adam(part.parameters(), lr=3e-2)
    noise = torch.Generator().manual_seed(0)
    for step in range(steps):
        tokens, asked, _ = puzzle(step % 40)
        chosen = part.relax(tokens, 20, 0.1 ** (step / steps), noise)
        optimizer.zero_grad()
        lost(chosen, tokens, asked).backward()
        optimizer.step()
    return part


@torch.no_grad()
def losses(choose):
    """Return what is lost of the region that is asked for and of the other, in new puzzles."""
    pairs = []
    for tokens, *regions in map(puzzle, range(100, 110)):
        chosen = choose(tokens, 20)
        pairs.append([lost(chosen, tokens, region) for region in regions])
    return torch.tensor(pairs).mean(dim=0)


def test_a_fitted_gate_beats_variance_that_misleads(learnt):
    assert losses(learnt.decide)[0] < 0.3 * losses(lftr.get_method("region-router").choose)[0]


def test_the_fitted_sampler_keeps_what_is_asked(learnt):
    asked, other = losses(learnt.decide)
    assert asked < 0.3 * other


@pytest.mark.parametrize(
    ("grid", "keep"), [((9, 2, 2), 4), ((1, 4, 4), 8), ((1, 4, 4), 13), ((7, 1, 1), 5)], ids=str
)
def test_without_regions_the_sampler_chooses_among_tokens(grid, keep):
    """Too few slots for the frames, or enough for all tokens."""
    tokens = item(7, grid).as_batch()
    part = part_for(tokens, random=True)
    chosen = part.decide(tokens, keep)
    assert chosen.flow is None
    assert torch.equal(chosen.index, lftr.Selection.top(part.scores(tokens), keep).index)
    assert relaxed(part, tokens, keep, 0.1).flow is None
    assert part.decide(item(7, (2, 4, 4)).as_batch(), 5).flow is not None
