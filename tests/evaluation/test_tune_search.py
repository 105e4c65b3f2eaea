"""The race and the proof, on settings whose agreement is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import lftr
from lftr.lab.asking.settings import Setting
from lftr.lab.tuning.search import Goal, Proof, Race, grid, prove

GOAL = Goal(0.8, 0.9)
BUDGETS = (1 / 2, 1 / 4, 1 / 8, 1 / 16)


@dataclass
class Answered:
    """As much of an answer as is counted."""

    tokens: int = 100
    kept: int = 10
    failed: str = ""


class Scripted:
    """Images that agree as often as a table says, by method and budget."""

    def __init__(self, table, seed: int, size: int = 8) -> None:
        self.table, self.size = table, size
        self.rng = np.random.default_rng(seed)
        self.asked: list[str] = []

    def agreements(self, setting: Setting):
        self.asked.append(setting.label)
        share = self.table[setting.method.name][setting.keep]
        shares = (self.rng.random(self.size) < share).astype(float).tolist()
        return shares, [Answered()] * self.size


def table(**lines: tuple[float, ...]):
    return {name: dict(zip(BUDGETS, line, strict=True)) for name, line in lines.items()}


def race(lines, seed: int = 0, images: int = 24) -> tuple[Race, Scripted]:
    batch = Scripted(lines, seed)
    found = Race(grid([lftr.get_method(name) for name in lines], BUDGETS), GOAL, images)
    for _ in range(images // batch.size):
        found.run(batch)
    return found, batch


def proofs(lines, name: str) -> list[Proof]:
    method = lftr.get_method(name)
    return [Proof(Setting(f"{name} {keep}", method, keep), GOAL) for keep in BUDGETS]


def batches(lines, seed: int, count: int) -> Iterator[tuple[int, Scripted | None]]:
    batch = Scripted(lines, seed)
    for _ in range(count):
        yield batch.size, batch


def test_the_race_finds_method_and_budget():
    found, _ = race(table(uniform=(1, 0, 0, 0), lftr=(1, 1, 1, 0), pool=(1, 1, 0, 0)))
    chain = found.chain()
    assert [setting.method.name for setting in chain] == ["lftr"] * 4
    assert [setting.keep for setting in chain] == list(BUDGETS)


def test_the_chain_ends_a_little_beyond_what_looked_good():
    found, _ = race(table(lftr=(1, 0, 0, 0)))
    assert [setting.keep for setting in found.chain()] == list(BUDGETS[:3])
    found, _ = race(table(lftr=(0, 0, 0, 0)))
    assert [setting.keep for setting in found.chain()] == list(BUDGETS[:2])


def test_methods_that_lost_are_not_asked_again():
    _, batch = race(table(uniform=(0, 0, 0, 0), lftr=(1, 1, 1, 1)), images=80)
    assert batch.asked.count("uniform 1/8") <= 3  # 16 may disagree, and every batch has 8
    assert batch.asked.count("lftr 1/8") == 10


def test_what_holds_is_proven_and_stops_early():
    lines = table(lftr=(1, 1, 0, 0))
    found = proofs(lines, "lftr")
    assert prove(found, batches(lines, 0, 100), 800) == 2
    assert [proof.verdict for proof in found] == ["holds", "holds", "fails", "open"]
    assert max(len(proof.trial.shares) for proof in found) <= 24


def test_what_cannot_be_shown_any_more_is_given_up():
    lines = table(lftr=(1, 0.75, 1, 1))
    found = proofs(lines, "lftr")
    assert prove(found, batches(lines, 0, 5), 40) == 1
    assert found[1].verdict == "open"
    assert len(found[3].trial.shares) <= len(found[1].trial.shares)


def test_what_stands_beyond_a_failure_does_not_count():
    lines = table(lftr=(1, 0, 1, 1))
    assert prove(proofs(lines, "lftr"), batches(lines, 0, 50), 400) == 1


def test_images_that_cannot_be_read_are_passed_over():
    lines = table(lftr=(1, 1, 1, 1))
    found = proofs(lines, "lftr")
    assert prove(found, iter([(8, None)] * 50), 400) == 0
    assert not found[0].trial.shares


@pytest.mark.parametrize(
    "line",
    [(0.95, 0.9, 0.8, 0.7), (0.8, 0.8, 0.8, 0.8), (0.9, 0.8, 0.95, 0.8)],
    ids=["falling", "all at the bound", "not even falling"],
)
def test_all_choosing_and_looking_together_err_seldom(line):
    """Race on some images, prove on others; every true agreement of 0.8 or less must not hold."""
    runs, wrong = 400, 0
    lines = table(lftr=line, pool=tuple(x - 0.02 for x in line))
    for seed in range(runs):
        found, _ = race(lines, seed)
        chain = [Proof(setting, GOAL) for setting in found.chain()]
        held = prove(chain, batches(lines, 10_000 + seed, 40), 320)
        chosen = chain[held - 1].trial.setting if held else None
        wrong += chosen is not None and lines[chosen.method.name][chosen.keep] <= GOAL.agreement
    assert wrong / runs <= GOAL.alpha + 3 * math.sqrt(GOAL.alpha * GOAL.confidence / runs)


def test_choosing_and_proving_on_the_same_images_would_err():
    """The control: the best of many at the bound, taken by how it looks, is often wrong."""
    rng = np.random.default_rng(0)
    seen = rng.binomial(60, GOAL.agreement, (400, 12)) / 60
    assert float((seen.max(axis=1) > 0.87).mean()) > GOAL.alpha
