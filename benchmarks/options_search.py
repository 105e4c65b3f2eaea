"""Search the options of other methods on the validation split, as LFTR's were searched.

    python benchmarks/options_search.py [--n 120] [--json]

Every method for images with its published defaults, then with one option at a time changed: each
word that its type allows, true and false, half and double the default number within its range.
Slots of methods that merge have weights.
"""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from math import inf, isfinite
from typing import Annotated, Any, Literal

from _accuracy import finish

from lftr.lab.evaluation import Setting
from lftr.methods import Method, get_method, list_methods
from lftr.options.checks import Range
from lftr.options.plain import to_plain

RATIOS = (8, 32)
# of this project, random, or decided by the image file alone
LEFT_OUT = ("lftr", "coverage", "random", "uniform", "downsample", "pixel-prune")
NAME = "options_search"


def variants(method: Method) -> Iterator[Method]:
    """Yield the method with one option changed, each in turn."""
    hints = typing.get_type_hints(type(method), include_extras=True)
    for field in fields(method):  # type: ignore[arg-type]
        default = getattr(method, field.name)
        for value in others(hints[field.name], default):
            yield replace(method, **{field.name: value})  # type: ignore[type-var]


def others(hint: Any, default: Any) -> list[Any]:
    """Return the values to try in place of an option's default."""
    if isinstance(default, bool):
        return [not default]
    if typing.get_origin(hint) is Literal:
        return [word for word in typing.get_args(hint) if word != default]
    if typing.get_origin(hint) is not Annotated or not isinstance(default, int | float):
        return []
    kind, *rest = typing.get_args(hint)
    ranges = [one for one in rest if isinstance(one, Range)]
    if not ranges or not isfinite(default):
        return []
    low, high = ranges[0].low, ranges[0].high
    values = {kind(min(high, max(low, default * factor))) for factor in (0.5, 2.0)}
    if default == 0:
        values = {kind(min(high, 1)), kind(min(high, 1) / 2)}
    return sorted(values - {default})


def settings() -> list[Setting]:
    """Return the full model, then every method and variant at every ratio."""
    rows = [Setting("full", get_method("uniform"), 1.0)]
    for name in list_methods("before"):
        method = get_method(name)
        if name not in LEFT_OUT and ".video." not in type(method).__module__:
            for one in (method, *variants(method)):
                label = json.dumps(to_plain(one))
                rows += [Setting(label, one, 1 / r, weights="size") for r in RATIOS]
    return rows


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    command = f"python benchmarks/{NAME}.py --n {options.n}"
    finish(settings(), options, "validation", NAME, command)


if __name__ == "__main__":
    main()
