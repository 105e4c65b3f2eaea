"""Values of the options of a command: methods, presets, dtypes, devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ..methods import get_method
from ..methods.base import Method
from ..methods.encoder.spelling import parse_merge
from ..options.spelling import parse_options
from ..presets import Preset
from ..reducing import check_budget
from ..values.budget import Keep, as_arguments, budget_of, parse_keep
from ..values.errors import ArgumentError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_method(name: str, options: Sequence[str]) -> Method:
    """Return the method ``name`` with options given as ``name=value``."""
    plain: Method = get_method(name)
    # a name that is not known goes on to get_method, which says so with the nearest ones
    method: Method = get_method(name, **parse_options(type(plain), options)) if options else plain
    return method


def parse_methods(names: Sequence[str], options: Sequence[str]) -> list[Method]:
    """Return several methods; ``divprune.name=value`` is an option of divprune alone."""
    return [parse_method(name, _options_of(name, names, options)) for name in names]


def _options_of(name: str, methods: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the options of the method ``name``, without its name in front."""
    chosen = []
    for option in options:
        key, dot, _ = option.partition("=")[0].partition(".")
        if dot and key in methods:
            chosen += [option[len(key) + 1 :]] * (key == name)
        elif len(methods) == 1:
            chosen.append(option)
        else:
            raise ArgumentError.of("--option", option, "method.name=value, of several methods")
    return chosen


def parse_setting(
    method: Sequence[str] | None,
    keep: str | None,
    tokens: int | None,
    option: Sequence[str] | None,
    positions: str | None = None,
    encoder: str | None = None,
    weights: str | None = None,
) -> Preset:
    """Return methods and budget as a preset, by default LFTR with a sixteenth of the tokens.

    Raises
    ------
    ArgumentError
        If `lftr.reduce` would refuse a value on any model.
    """
    chosen = parse_methods(method or ["lftr"], option or [])
    budget = parse_budget(keep, tokens)
    if budget is None and any(isinstance(one, Method) for one in chosen):
        budget = 1 / 16  # inside the model, schedules say how many
    check_budget(chosen, budget)
    merge = None if encoder is None else parse_merge(encoder)
    return Preset(
        chosen[0] if len(chosen) == 1 else chosen,
        positions=positions,
        encoder=merge,
        weights=weights,
        **as_arguments(budget),
    )


def parse_budget(keep: str | None, tokens: int | None) -> Keep | Literal["auto"] | None:
    """Return the budget of ``--keep`` or ``--tokens``; a count as ``--keep`` brings a note."""
    if tokens is not None or keep is None or not keep.strip().isdecimal():
        return budget_of(keep, tokens)
    from .terminal import remark

    count = parse_keep(keep)
    remark(
        f"note: --keep {keep} is a count of tokens; write --tokens {count} (--keep 1.0 keeps all). "
        "The next release will take --keep as a ratio alone."
    )
    return count


def parse_budgets(
    keeps: Sequence[str] | None,
    counts: Sequence[int] | None,
    default: Sequence[Keep] = (1 / 4, 1 / 16),
) -> list[Keep]:
    """Return the budgets of several ``--keep`` and ``--tokens``, or by default some ratios.

    Raises
    ------
    ArgumentError
        If one is out of its range, or "auto": the settings of a comparison need numbers.
    """
    budgets = [(keep, None) for keep in keeps or ()] + [(None, count) for count in counts or ()]
    return [parse_keep(parse_budget(*one)) for one in budgets] or list(default)


def parse_dtype(name: str) -> torch.dtype | None:
    """Return a dtype by name; None for ``auto``, the checkpoint's own."""
    if name == "auto":
        return None
    if name not in _DTYPES:
        raise ArgumentError.of("--dtype", name, f"auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def parse_device(name: str | None) -> torch.device:
    """Return a device by name; by default a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ", ".join(["cpu", *_accelerators()])
        raise ArgumentError.of("--device", name, f"a device of this machine: {here}") from None


def _accelerators() -> list[str]:
    """Name the machine's accelerators, as torch does."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    return [] if kind is None else [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
