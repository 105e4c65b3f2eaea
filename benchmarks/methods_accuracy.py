"""Accuracy of every method at equal tokens on the bundled suite.

    python benchmarks/methods_accuracy.py [--split test] [--n 2000] [--json]

Every registered method with its defaults, and the compositions below, at 4x, 8x and 16x, beside the
full model; relative accuracy and agreement with paired bootstrap intervals over the questions.
``benchmarks/methods_doc.py`` writes docs/methods.md from it.
"""

from __future__ import annotations

import argparse
import json

import torch
from _accuracy import percent, score, summary
from _measure import machine, save, table

from lftr.evaluation import Setting
from lftr.methods import Merge, Then, get_method, list_methods
from lftr.suites import load

RATIOS = (4, 8, 16)


def settings(ratios: tuple[int, ...] = RATIOS) -> list[Setting]:
    """Return the full model, then every method and composition at every ratio."""
    methods = {name: get_method(name) for name in list_methods()}
    methods["Merge(divprune)"] = Merge("divprune")
    methods["Merge(fastervlm)"] = Merge("fastervlm")
    methods["Then(divprune, tome)"] = Then("divprune", "tome")
    rows = [Setting("full", get_method("uniform"), 1.0)]
    return rows + [Setting(name, m, 1 / r) for name, m in methods.items() for r in ratios]


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    outcomes = score(settings(), options.split, options.n)
    examples = load("scenes", split=options.split, n=options.n)
    figures = summary(outcomes, [example.category for example in examples])
    command = f"python benchmarks/methods_accuracy.py --split {options.split} --n {options.n}"
    save(f"methods_accuracy_{options.split}", command, figures)
    if options.json:
        print(json.dumps({"machine": machine(), "figures": figures}))
        return
    lines = [
        [f["label"], f"{f['tokens']:.0f}", percent(f["relative"]), percent(f["agreement"])]
        for f in figures
    ]
    print(table(["method", "tokens", "relative accuracy %", "agreement %"], lines))


if __name__ == "__main__":
    main()
