"""The state of a fit on disk: weights, the optimizer's moments and the step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...methods.operations.fitted import Fitted, read_tensors, write_tensors
from ...values.errors import ArgumentError

_FORMAT = "lftr.fit.checkpoint"
_MOMENTS = ("exp_avg", "exp_avg_sq")


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
    step = _step(path, known)
    try:
        there, shape = dict(json.loads(known["config"])), known["shape"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _foreign(path) from None
    now = json.loads(json.dumps(config))
    different = sorted(key for key in {*there, *now} if there.get(key) != now.get(key))
    if different or shape != part.known["shape"]:
        names = ", ".join(different) or "evidence"
        raise ArgumentError.of(
            "checkpoint", str(path), f"a new file, or one of the same fit; its {names} differ"
        )
    state: dict[int, dict[str, Tensor]] = {}
    if step > config["recipe"]["steps"]:
        raise _foreign(path)
    try:
        part.load_state_dict({n: tensors[f"weight.{n}"] for n in part.state_dict()})
        for number, (name, weight) in enumerate(part.named_parameters()):
            if f"step.{name}" not in tensors:  # it had no gradient so far
                continue
            state[number] = {key: tensors[f"{key}.{name}"] for key in ("step", *_MOMENTS)}
            if any(state[number][key].shape != weight.shape for key in _MOMENTS):
                raise ValueError(name)
    except (KeyError, ValueError, RuntimeError):
        raise _foreign(path) from None
    if not all(bool(x.isfinite().all()) for x in tensors.values()):
        raise _foreign(path)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return step


def steps_of(path: Path) -> int:
    """Return after how many steps a checkpoint was written; 0 if there is none.

    Raises
    ------
    LftrError
        If the file cannot be read, or is no checkpoint.
    """
    return _step(path, read_tensors("checkpoint", path)[1]) if path.exists() else 0


def _step(path: Path, known: Mapping[str, str]) -> int:
    step = known.get("step", "")
    if known.get("format") != _FORMAT or not (step.isascii() and step.isdigit() and len(step) < 10):
        raise _foreign(path)
    return int(step)


def _foreign(path: Path) -> ArgumentError:
    return ArgumentError.of("checkpoint", str(path), "a checkpoint of lftr.fit")
