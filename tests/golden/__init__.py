"""Reading the golden cases, see README.md beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open


class Case(NamedTuple):
    """One run of an original program: options, grid, inputs, what came out, what was measured."""

    params: dict
    grid: tuple[int, int, int]
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]
    notes: dict


def cases(method):
    """Return a pytest parameter for every case of the method."""
    files = sorted((Path(__file__).parent / method).glob("*.safetensors"))
    assert files, f"no golden cases of {method}"
    return [pytest.param(file, id=f"{method}-{file.stem}") for file in files]


def load(file):
    """Return the case that a file holds."""
    with safe_open(file, "pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        header = f.metadata()
    params, grid, notes = (json.loads(header[key]) for key in ("params", "grid_thw", "notes"))
    inputs = {name: x for name, x in tensors.items() if not name.startswith("expected_")}
    expected = {name[9:]: x for name, x in tensors.items() if name.startswith("expected_")}
    return Case(params, tuple(grid), inputs, expected, notes)


def close(got, wanted):
    """Compare as the cases' own suggested tolerances say."""
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
