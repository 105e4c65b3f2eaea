"""A host that is wrong must fail: faults are put into it, and the check that sees one is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lftr
from lftr.hosts.transformers import hooks
from lftr.hosts.transformers import reduction as session
from lftr.hosts.transformers.api import CallArguments
from lftr.hosts.transformers.kinds import prefill
from lftr.hosts.transformers.layers import live_columns

from .support import entry_of, fresh, verified

Patch = pytest.MonkeyPatch
POSITIONS, MASK, IDS = map(CallArguments.name, ("positions", "mask", "ids"))


def changes(patch: Patch, change: Callable[[Any, Any], dict[str, Any]]) -> None:
    """Where the host shortens a first prompt, change its arguments by a function of both."""
    original = prefill.PrefillHost.reduce

    def reduce(self: Any, *given: Any) -> Any:
        found = original(self, *given)
        if found.call.positions is None or given[0].past:
            return found
        return dataclasses.replace(found, call=found.call | change(self, found.call))

    patch.setattr(prefill.PrefillHost, "reduce", reduce)


def shifted_by_one(patch: Patch) -> None:
    def change(host: Any, call: Any) -> dict[str, Any]:
        visual = host.family.visual(host.model, call[IDS])
        return {POSITIONS: call[POSITIONS] + (visual.cumsum(dim=-1) > 0)}

    changes(patch, change)


def compact(patch: Patch) -> None:
    def change(host: Any, call: Any) -> dict[str, Any]:
        count = (call[MASK].cumsum(dim=-1) - 1).clamp(min=0)
        return {POSITIONS: count.expand_as(call[POSITIONS])}

    changes(patch, change)


def without_a_mask(patch: Patch) -> None:
    changes(patch, lambda host, call: {MASK: torch.ones_like(call[MASK])})


def features_scaled(patch: Patch) -> None:
    """By a few units in the last place."""
    original = prefill.PrefillHost.reduce

    def reduce(self: Any, *given: Any) -> Any:
        found = original(self, *given)
        for output in (found.call.encoded or {}).values():
            output.pooler_output = [one * (1 + 2**-20) for one in output.pooler_output]
        return found

    patch.setattr(prefill.PrefillHost, "reduce", reduce)


def another_token(patch: Patch) -> None:
    original = prefill.choose

    def choose(plan: Any, items: Any, tokens: Any) -> None:
        original(plan, items, tokens)
        for item in items:
            if item.selection is not None:
                other = (item.selection.index + 1) % item.encoded
                item.selection = lftr.Selection(other.sort().values)

    patch.setattr(prefill, "choose", choose)


def the_full_prompt(patch: Patch) -> None:
    patch.setattr(prefill.PrefillHost, "concerns", lambda self, call: False)


def forgets_the_first_turn(patch: Patch) -> None:
    patch.setattr(hooks, "remember", lambda cache, prompt: None)


def forgets_the_first_turn_and_refuses_the_second(patch: Patch) -> None:
    """What the host should remember and does not is no reason to skip a check."""
    forgets_the_first_turn(patch)
    original = prefill.PrefillHost.concerns

    def concerns(self: Any, call: CallArguments) -> bool:
        if call.past and call.columns[1] > 1:
            raise lftr.values.errors.UnsupportedModelError(
                "this cache was not filled under a reduction"
            )
        return original(self, call)

    patch.setattr(prefill.PrefillHost, "concerns", concerns)


def drops_others_inside(patch: Patch) -> None:
    original = live_columns.LiveColumns.drop

    def drop(self: Any, lost: Any) -> None:
        wrong = {
            row: self.visual[row].nonzero().squeeze(1)[: len(columns)]
            for row, columns in lost.items()
        }
        original(self, wrong)

    patch.setattr(live_columns.LiveColumns, "drop", drop)


def leaves_a_hook(patch: Patch) -> None:
    original = session.Reduction.remove

    def remove(self: Any) -> None:
        self.host.model.register_forward_pre_hook(lambda *given: None)
        original(self)

    patch.setattr(session.Reduction, "remove", remove)


TURNS = ["second turn, all ids", "second turn, new ids"]
ALL = ["reduced", "forward", *TURNS, "batch with padding", "two images", "video"]
FAULTS: dict[Callable[[Patch], None], list[str]] = {
    shifted_by_one: ALL,
    compact: ALL,
    another_token: ALL,
    the_full_prompt: ALL,
    without_a_mask: ["batch with padding"],
    features_scaled: ["everything kept"],
    forgets_the_first_turn: TURNS,
    forgets_the_first_turn_and_refuses_the_second: TURNS,
    drops_others_inside: ["inside"],
    leaves_a_hook: ["left as it was"],
}


def skipped_in(result: lftr.Verification) -> list[str]:
    return [check.name for check in result.checks if check.verdict == "skipped"]


# The checks that do not apply to a family; with a fault or without, no other may be skipped.
SKIPPED: dict[str, list[str]] = {"llava": ["video"], "qwen2_5_vl": []}


@pytest.mark.parametrize("name", SKIPPED)
def test_without_a_fault_all_that_applies_passes(name: str) -> None:
    result = verified(entry_of(name))
    assert not result.failed
    assert skipped_in(result) == SKIPPED[name]


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_seen(name: str, fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    entry, skipped = entry_of(name), SKIPPED[name]
    model = fresh(entry)
    fault(monkeypatch)
    result = verified(entry, model)
    failed = [check.name for check in result.failed]
    assert failed == [one for one in FAULTS[fault] if one not in skipped]
    assert failed
    assert skipped_in(result) == skipped  # a fault is no reason to skip a check
    assert not result.ok
    assert all(one in result.conclusion for one in failed)
    for check in result.failed:  # by its figures, or by one of lftr's own checks on the way
        assert check.reason.startswith("LftrError") or check.deviation > check.allowed
