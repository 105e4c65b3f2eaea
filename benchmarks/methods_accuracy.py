"""Accuracy of every method at equal tokens on the bundled suite.

    python benchmarks/methods_accuracy.py [--split test] [--n 2000] [--json]

Every registered method with its defaults, as published (merged tokens count as one); LFTR, the
scorer and the compositions below, whose merged tokens count as many; and "tuned", other methods
with the options that ``benchmarks/options_search.py`` found best on the validation split, whose
merged tokens count as many too. At 4x, 8x and 16x, beside the full model; relative accuracy and
agreement with paired bootstrap intervals over the questions. ``benchmarks/methods_doc.py`` writes
docs/results.md from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _accuracy import RATIOS, finish

from lftr.lab.evaluation import Setting
from lftr.methods import Lftr, Merge, Method, Then, get_method, list_methods
from lftr.options.plain import from_plain

OWN = ("lftr", "scorer")  # merge by default, and no paper says that a slot counts as one
SEARCH = Path(__file__).parent / "results" / "options_search.json"


def tuned() -> dict[str, Method]:
    """Return the methods whose best options on the validation split are not their defaults."""
    accuracy: dict[str, dict[str, float]] = {}  # of each method's variants, the default first
    for row in json.loads(SEARCH.read_text())["figures"]["rows"][1:]:
        variants = accuracy.setdefault(json.loads(row["label"])["method"], {})
        variants[row["label"]] = variants.get(row["label"], 0.0) + row["accuracy"][0]
    best = {name: max(rows, key=rows.__getitem__) for name, rows in accuracy.items()}
    return {
        name: from_plain(json.loads(label))
        for name, label in best.items()
        if label != next(iter(accuracy[name]))
    }


def settings(ratios: tuple[int, ...] = RATIOS) -> list[Setting]:
    """Return the full model, then every method and composition at every ratio."""
    compact: list[Setting] = []
    methods = {name: get_method(name) for name in list_methods("before")}
    methods["Merge(divprune)"] = Merge("divprune")
    methods["Merge(fastervlm)"] = Merge("fastervlm")
    methods["Then(divprune, tome)"] = Then("divprune", "tome")
    for ratio in ratios:  # the same tokens, renumbered without gaps
        compact.append(Setting("lftr, positions compact", Lftr(), 1 / ratio, "compact"))
    rows = [Setting("full", get_method("uniform"), 1.0)]
    for name, method in methods.items():
        weights = "size" if name in OWN or name.startswith("Merge") else "none"
        rows += [Setting(name, method, 1 / r, weights=weights) for r in ratios]
    for name, method in tuned().items():
        rows += [Setting(f"{name}, tuned", method, 1 / r, weights="size") for r in ratios]
    return rows + compact


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", help="measure these again, keep the other rows")
    options = parser.parse_args()
    name = f"methods_accuracy_{options.split}"
    command = f"python benchmarks/methods_accuracy.py --split {options.split} --n {options.n}"
    chosen = settings()
    if options.only:
        chosen = [one for one in chosen if one.label in ("full", *options.only)]
    finish(chosen, options, options.split, name, command)


if __name__ == "__main__":
    main()
