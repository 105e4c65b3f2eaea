"""What it brings that a merged slot counts as many tokens in attention, on the bundled suites.

    python benchmarks/weights.py [--suite clips] [--n 400] [--json]
    python benchmarks/weights.py --test [--suite clips] [--n 800] [--seed 1] [--only lftr]

On the validation split: LFTR's options around their defaults, and exponents of the weights. The
defaults were chosen from it, by the mean relative accuracy (``--n 200`` and, of clips, ``--n 140``;
the results files have their commands). With ``--test``, once all was fixed:
LFTR as it is and without each of its parts; pruning methods as published, and with their dropped
tokens merged (`lftr.methods.Merge`); merging methods with and without weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from _accuracy import finish

from lftr.lab.evaluation import Setting
from lftr.methods import Lftr, Merge, Method, PerFrame, get_method

RATIOS = (8, 16, 32, 64)
DEFAULT = Lftr()
DROPPING = Lftr(space="encoder", candidates=1.0, leftovers="drop")
PRUNING = (
    "divprune",
    "cdpruner",
    "fastervlm",
    "trim",
    "vispruner",
    "coverage",
    "uniform",
    "random",
)
MERGING = ("tome", "visionzip", "prumerge", "prumerge-plus", "pool", "folder", "visual-grouping")

Row = tuple[str, Method, float | str]


def search(suite: str) -> list[Row]:
    """Return LFTR's options around their defaults, and exponents."""
    rows: list[Row] = [("default", DEFAULT, "size")]
    rows += [(f"exponent {e}", DEFAULT, e) for e in (0.0, 0.5, 0.75, 1.25)]
    changes: list[dict[str, object]] = [
        {"space": "model"},
        {"space": "encoder"},
        *({"candidates": c} for c in (1.0, 2.0, 4.0)),
        {"diversity": 0.9},
        {"among": "relevant", "candidates": 4.0},
    ]
    if suite == "scenes":
        changes += [{"rounds": 1}, {"rounds": 3}]
    else:
        changes += [
            {"time_share": share, "first": first}
            for share in (0.25, 0.5)
            for first in ("even", "whole")
        ]
    for one in changes:
        label = ", ".join(f"{name} {value}" for name, value in one.items())
        rows.append((label, replace(DEFAULT, **one), "size"))  # type: ignore[arg-type]
    return [*rows, ("dropping", DROPPING, "none")]


def final(suite: str) -> list[Row]:
    """Return what the pages show."""
    kept = replace(DEFAULT, leftovers="drop")
    rows: list[Row] = [
        ("lftr", DEFAULT, "size"),
        ("lftr, merged, no weights", DEFAULT, "none"),
        ("lftr, weights, not merged", Merge(kept, weighting="anchor"), "size"),
        ("lftr, neither", kept, "none"),
        ("lftr, dropping (its former default)", DROPPING, "none"),
    ]
    for name in PRUNING:
        rows += [(name, get_method(name), "none"), (f"Merge({name})", Merge(name), "size")]
    if suite == "clips":
        each = PerFrame("divprune")
        rows.append(
            ("Merge(PerFrame(divprune)), within frames", Merge(each, within="frame"), "size")
        )
    for name in MERGING:
        rows += [(name, get_method(name), "none"), (f"{name}, weights", get_method(name), "size")]
    return rows


def settings(rows: Sequence[Row], ratios: Sequence[int]) -> list[Setting]:
    """Return the full model, then every row at every ratio."""
    full = Setting("full", get_method("uniform"), 1.0)
    return [full] + [Setting(label, m, 1 / r, weights=w) for label, m, w in rows for r in ratios]


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="scenes", choices=["scenes", "clips"])
    parser.add_argument("--test", action="store_true", help="once, when all is fixed")
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", help="measure these again, keep the other rows")
    options = parser.parse_args()
    split = "test" if options.test else "validation"
    rows = (final if options.test else search)(options.suite)
    if options.only:
        rows = [row for row in rows if row[0] in options.only]
    command = f"python benchmarks/weights.py{' --test' * options.test} --suite {options.suite}"
    finish(
        settings(rows, (4,) * options.test + RATIOS),
        options,
        split,
        f"weights_{options.suite}_{split}",
        f"{command} --n {options.n}",
        options.suite,
    )


if __name__ == "__main__":
    main()
