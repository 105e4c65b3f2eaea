"""The state of a fit on disk: weights, the optimizer's moments and the step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...methods.operations.fitted import Fitted, read_tensors, write_tensors
from ...values.errors import ArgumentError

_FORMAT = "lftr.fit.checkpoint"


def save_checkpoint(
    path: Path, part: Fitted, optimizer: torch.optim.Optimizer, config: Mapping[str, Any], step: int
) -> None:
    """Write the state after ``step`` steps.

    Raises
    ------
    LftrError
        If the file cannot be written.
    """
    tensors = {f"weight.{name}": x for name, x in part.state_dict().items()}
    names = [name for name, _ in part.named_parameters()]
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{key}.{names[number]}": x for key, x in moments.items()}
    known = {"format": _FORMAT, "step": str(step), "config": json.dumps(config, sort_keys=True)}
    write_tensors(path, tensors, known | {"shape": part.known["shape"]})


def load_checkpoint(
    path: Path, part: Fitted, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]
) -> int:
    """Restore a state, and return after how many steps it was written.

    Raises
    ------
    LftrError
        If the file is none, or belongs to a fit with other options, data or weights of the model.
    """
    tensors, known = read_tensors("checkpoint", path)
    if known.get("format") != _FORMAT:
        raise ArgumentError.of("checkpoint", str(path), "a checkpoint of lftr.fit")
    there = json.loads(known["config"])
    now = json.loads(json.dumps(config))
    different = sorted(key for key in {*there, *now} if there.get(key) != now.get(key))
    if different or known["shape"] != part.known["shape"]:
        names = ", ".join(different) or "evidence"
        raise ArgumentError.of(
            "checkpoint", str(path), f"a new file, or one of the same fit; its {names} differ"
        )
    state: dict[int, dict[str, Any]] = {}
    try:
        part.load_state_dict({n: tensors[f"weight.{n}"] for n in part.state_dict()})
        for number, (name, _) in enumerate(part.named_parameters()):
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors]
            state[number] = {key: tensors[f"{key}.{name}"] for key in keys}
        step = int(known["step"])
    except (KeyError, ValueError, RuntimeError):
        raise ArgumentError.of("checkpoint", str(path), "a checkpoint of lftr.fit") from None
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state if step else {}, "param_groups": groups})
    return step


def steps_of(path: Path) -> int:
    """Return after how many steps a checkpoint was written; 0 if there is none.

    Raises
    ------
    LftrError
        If the file cannot be read.
    """
    return int(read_tensors("checkpoint", path)[1].get("step", 0)) if path.exists() else 0
