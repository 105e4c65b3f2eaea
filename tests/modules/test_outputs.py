"""What a module may return: all of its visual tokens are reduced, or the report says which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import lftr

TOKENS = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(1, 16)


class Named(NamedTuple):
    tokens: Tensor
    mask: Tensor


@dataclass
class Record:
    last_hidden_state: Any
    pooled: Any = None
    hidden_states: Any = None


def reduced(output: Any) -> tuple[Any, lftr.Report]:
    """What a module that returns this returns under a reduction to a quarter, and the report."""
    module = nn.Identity()
    with lftr.reduce_module(module, "divprune", 1 / 4, placeholders=()) as reduction:
        return module(output), reduction.report


def alone(tokens: Tensor) -> Tensor:
    """The same for one tensor of tokens."""
    batch = tokens if tokens.ndim == 3 else tokens[None]
    return reduced(batch)[0].reshape(*tokens.shape[:-2], -1, tokens.shape[-1])


@pytest.mark.parametrize("sizes", [1, [1, 2], [3]])
def test_every_tensor_of_a_tuple_is_reduced(sizes: Any) -> None:
    """torch.split, chunk and unbind return tuples."""
    parts = torch.split(TOKENS, sizes)
    got, report = reduced(parts)
    assert type(got) is tuple
    assert torch.equal(torch.cat(got), alone(TOKENS))
    assert (report.tokens, report.kept) == (48, 12)
    assert any("each was reduced alone" in note for note in report.notes) == (len(parts) > 1)


def test_every_tensor_of_a_list_is_reduced_whatever_its_dimensions() -> None:
    parts = [TOKENS[:2], TOKENS[2], TOKENS[:1, :8]]
    got, report = reduced(parts)
    for one, part in zip(got, parts, strict=True):
        assert torch.equal(one, alone(part))
    assert (report.tokens, report.kept) == (56, 14)


@pytest.mark.parametrize(
    ("rest", "beside"),
    [
        ((MASK,), "[1]"),
        ((torch.ones(1, 16, dtype=torch.long), None), "[1]"),
        ((torch.zeros(1, 4),), ""),  # a pooled state
        ((torch.zeros(1, 4), (TOKENS[:1],) * 2), "[2]"),
        ((TOKENS[:1], MASK), "[1], [2]"),
        ((TOKENS[:1, :5, :2],), "[1]"),
        (("rest", 3), ""),
    ],
)
@pytest.mark.parametrize("kind", [tuple, list])
def test_what_is_not_reduced_is_named(kind: type, rest: tuple[Any, ...], beside: str) -> None:
    if kind is list and isinstance(rest[0], Tensor) and rest[0].shape == (1, 4):
        rest = (rest[0], "rest")  # a list of tensors of one width holds tokens alone
        beside = ""
    got, report = reduced(kind([TOKENS[:1], *rest]))
    assert type(got) is kind
    assert torch.equal(got[0], alone(TOKENS[:1]))
    assert all(one is other for one, other in zip(got[1:], rest, strict=True))
    said = [note for note in report.notes if "left as they are" in note]
    assert len(said) == bool(beside)
    assert not said or f"returned {beside} too" in said[0]


def test_fields_beside_the_tokens_are_named() -> None:
    got, report = reduced(Named(TOKENS[:1], MASK))
    assert type(got) is Named
    assert got.mask is MASK
    assert "returned mask too" in report.notes[0]
    states = (TOKENS[:1], TOKENS[:1])
    got, report = reduced(Record(TOKENS[:1], torch.zeros(1, 4), states))
    assert torch.equal(got.last_hidden_state, alone(TOKENS[:1]))
    assert "returned hidden_states too" in report.notes[0]
    got, report = reduced((Record(TOKENS[:1], hidden_states={"last": TOKENS[:1]}), MASK))
    assert "returned [1], hidden_states too" in report.notes[0]


def test_nothing_is_said_where_all_tokens_stay() -> None:
    module = nn.Identity()
    with lftr.reduce_module(module, "divprune", 1.0) as reduction:
        module((TOKENS[:1], MASK))
    assert reduction.report.notes == []


@pytest.mark.parametrize(
    "output",
    [
        (TOKENS[:1], TOKENS[0]),
        (TOKENS[:1], TOKENS[0], TOKENS[0]),
        [Record(TOKENS[:1]), Record(TOKENS[:1])],
        (Record(TOKENS[:1]), Record(TOKENS[:1])),
    ],
)
def test_outputs_of_unclear_meaning_are_refused(output: Any) -> None:
    with pytest.raises(lftr.ArgumentError, match="not clear which of these are visual tokens"):
        reduced(output)


@pytest.mark.parametrize("output", [(TOKENS[0], TOKENS[1]), {"tokens": TOKENS}, [], TOKENS[0]])
def test_outputs_without_visual_tokens_are_refused(output: Any) -> None:
    with pytest.raises(lftr.ArgumentError, match="allowed: visual tokens"):
        reduced(output)
