"""Peaks of allocations that are known beforehand."""

from __future__ import annotations

import torch

from lftr.lab.profiling import peak_memory

CPU = torch.device("cpu")
MIB = 2**20


def block() -> torch.Tensor:
    return torch.empty(MIB // 4)


def test_what_lives_at_once_is_added_up():
    with peak_memory(CPU) as peak:
        kept = [block() for _ in range(3)]
    assert peak.bytes == 3 * MIB
    assert len(kept) == 3


def test_what_is_freed_makes_room():
    with peak_memory(CPU) as peak:
        for _ in range(5):
            first = block()
            del first
    assert peak.bytes == MIB


def test_views_and_changes_in_place_are_no_new_memory():
    given = block()
    with peak_memory(CPU) as peak:
        given.view(2, -1).add_(1).T[0].mul_(2)
    assert peak.bytes == 0


def test_what_was_there_before_is_not_counted():
    before = block()
    with peak_memory(CPU) as peak:
        after = before + 1
    assert peak.bytes == MIB
    assert after.shape == before.shape


def test_blocks_may_be_nested():
    with peak_memory(CPU) as outer:
        first = block()
        with peak_memory(CPU) as inner:
            second = block()
    assert (outer.bytes, inner.bytes) == (2 * MIB, MIB)
    assert first.shape == second.shape
