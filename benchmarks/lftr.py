"""How the defaults of LFTR were chosen, on the validation split of the bundled suite.

    python benchmarks/lftr.py [--n 800] [--json]

One option at a time around the default, at 4x, 8x and 16x, beside the literal reading of the paper
and the controls; then positions. The choice is by the mean relative accuracy over the three ratios.
The test split is not looked at.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import torch
from _accuracy import percent, score, summary
from _measure import machine, save, table

from lftr.evaluation import Setting
from lftr.methods import Lftr, get_method
from lftr.suites import load

COMMAND = "python benchmarks/lftr.py"
RATIOS = (4, 8, 16)
DEFAULT = Lftr()
VARIANTS: dict[str, Any] = {
    "default": DEFAULT,
    "literal (near, drop, rank)": Lftr(direction="near", diversity=0.0, leftovers="drop"),
    "far, drop, rank": Lftr(direction="far", diversity=0.0, leftovers="drop"),
    "far, merge, rank": Lftr(direction="far", diversity=0.0, leftovers="merge"),
    "near": replace(DEFAULT, direction="near"),
    "descriptor cls": replace(DEFAULT, descriptor="cls"),
    "descriptor cls-attention": replace(DEFAULT, descriptor="cls-attention", direction="near"),
    "text +": replace(DEFAULT, relevance="text"),
    "text -": replace(DEFAULT, relevance="text", text_sign="negative"),
    "both +": replace(DEFAULT, relevance="both"),
    "both -": replace(DEFAULT, relevance="both", text_sign="negative"),
    "drop": replace(DEFAULT, leftovers="drop"),
    **{f"diversity {d}": replace(DEFAULT, diversity=d) for d in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)},
    **{f"candidates {c}": replace(DEFAULT, candidates=c) for c in (2.0, 3.0, 4.0, 8.0, 1000.0)},
    **{
        f"drop, diversity {d}, all candidates": replace(
            DEFAULT, leftovers="drop", diversity=d, candidates=1000.0
        )
        for d in (0.5, 0.75, 1.0)
    },
    "random": get_method("random"),
    "uniform": get_method("uniform"),
    "pool": get_method("pool"),
    "downsample": get_method("downsample"),
}


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=800)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    settings = [Setting("full", get_method("uniform"), 1.0)]
    settings += [Setting(name, m, 1 / r) for name, m in VARIANTS.items() for r in RATIOS]
    # the same method with its tokens renumbered without gaps
    settings += [Setting("positions compact", DEFAULT, 1 / r, "compact") for r in RATIOS]
    outcomes = score(settings, "validation", options.n)
    categories = [example.category for example in load("scenes", split="validation", n=options.n)]
    figures = summary(outcomes, categories)
    save("lftr", COMMAND, figures)
    print(
        json.dumps({"machine": machine(), "figures": figures}) if options.json else report(figures)
    )


def report(figures: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown, best first."""
    full, rest = figures[0], figures[1:]
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in rest:
        rows.setdefault(one["label"], []).append(one)
    mean = {name: sum(f["relative"][0] for f in ones) / len(ones) for name, ones in rows.items()}
    lines = [
        [name, f"{100 * mean[name]:.1f}", *(percent(f["relative"]) for f in rows[name])]
        for name in sorted(rows, key=mean.__getitem__, reverse=True)
    ]
    head = ["variant", "mean", *(f"{r}x" for r in RATIOS)]
    return f"full accuracy {percent(full['accuracy'])}\n\n" + table(head, lines)


if __name__ == "__main__":
    main()
