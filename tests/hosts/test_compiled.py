"""torch.compile, laid on before and after: right, or refused in a sentence; never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import lftr
from lftr.methods import Merge
from lftr.values.errors import LftrError

from .inside.support import Own, Planned, Skip, Step
from .support import WIDE, Prompt, ZooEntry, distance, fresh

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "before": ("uniform", {"keep": 0.4}),
    "merged": (Merge("random"), {"keep": 0.4}),
    "everything": ("uniform", {"keep": 1.0}),
    "previous": ("fastv", {"keep": 0.8}),
    "own": (Own(Step(2, 0.4)), {}),
    "frozen": (Planned(Skip("frozen", layers=(2,))), {}),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(model: Any, way: str) -> Any:
    if way == "wrapped":
        return torch.compile(model, backend="eager")
    parts = {"in place": [model], "layers": list(model.base_model.language_model.layers)}
    for part in parts[way]:
        part.compile(backend="eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wrapped", "in place", "layers"])
@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_ran_before(llava: ZooEntry, name: str, way: str) -> None:
    """Its graphs were made without the reduction's hooks."""
    method, options = METHODS[name]
    plain, prompt = Prompt(llava, [WIDE]), Prompt(llava, [WIDE], model=fresh(llava))
    full = plain.forward().logits
    with lftr.reduce(plain.model, method, **options):
        short = plain.forward().logits
    prompt.model = compiled(prompt.model, way)
    assert distance(prompt.forward().logits, full) < 1e-4
    reduction = lftr.reduce(prompt.model, method, **options)
    for _ in range(2):  # the second block meets graphs of the first
        with reduction:
            try:
                found = prompt.forward().logits
            except LftrError as error:
                refused = str(error)
                assert "torch.compile" in refused
            else:
                assert distance(found, short) < 1e-4
        assert distance(prompt.forward().logits, full) < 1e-4
