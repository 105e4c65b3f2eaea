"""Accuracy of methods inside the language model beside those before it, at equal average tokens.

    python benchmarks/inside_accuracy.py [--n 160] [--json]

The bundled suite's test split. A method before the language model has its tokens in every layer;
one inside it has all of them in the first layers and fewer later, so many in the layers' mean.
Where a schedule cannot meet a budget, because its first layers alone exceed it, the cell is empty.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from _accuracy import percent, renewed, score, summary
from _measure import machine, save, table

import lftr
from lftr.lab.evaluation import CONTROLS, Setting
from lftr.methods import get_method, list_methods

COMMAND = "python benchmarks/inside_accuracy.py"
SHARES = {"3/4": 3 / 4, "1/2": 1 / 2, "1/3": 1 / 3}
BEFORE = ("lftr", "coverage", "divprune", *CONTROLS)
UNTRAINED = "dyvte"  # has no schedule of its own: its gates decide, see docs/methods.md
RESTING = ("freeze", "bypass")  # all tokens stay, at rest in some layers


def settings(depth: int) -> list[Setting]:
    """Return the full model, and every method at every budget that it can meet."""
    rows = [Setting("full", get_method("uniform"), 1.0)]
    for name in [*BEFORE, *list_methods("inside")]:
        if name in (UNTRAINED, *RESTING):
            continue
        for share in SHARES.values():
            method = get_method(name)
            if name not in BEFORE and not _fits(method, share, depth):
                continue
            rows.append(Setting(name, method, share))
    return rows


def _fits(method: lftr.LayerMethod, share: float, depth: int) -> bool:
    try:
        method.averaging(share).schedule.pruned(depth)
    except lftr.LftrError:
        return False
    return True


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=160)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", help="measure these again, keep the other rows")
    options = parser.parse_args()
    model, _ = lftr.bundled.load()
    chosen = settings(model.config.text_config.num_hidden_layers)
    if options.only:
        chosen = [one for one in chosen if one.label in ("full", *options.only)]
    outcomes, categories = score(chosen, "test", options.n)
    content = {
        "split": "test",
        "questions": len(categories),
        "rows": summary(outcomes, categories),
        "depth": model.config.text_config.num_hidden_layers,
    }
    command = f"{COMMAND} --n {options.n}"
    if options.only:
        again = f"{command} --only {' '.join(options.only)}"
        command, content = renewed("inside_accuracy", again, content)
    save("inside_accuracy", command, content)
    print(json.dumps({"machine": machine()} | content) if options.json else report(content))


def report(content: dict[str, Any]) -> str:
    """Return figures as Markdown, methods inside the language model first."""
    inside = set(list_methods("inside"))
    rows: dict[str, dict[float, Sequence[float]]] = {}
    for one in content["rows"][1:]:
        rows.setdefault(one["label"], {})[one["keep"]] = one["relative"]
    order = sorted(rows, key=lambda name: (name not in inside, name))
    lines = [
        [
            f"`{name}`",
            "inside" if name in inside else "before",
            *(percent(rows[name][s]) if s in rows[name] else "" for s in SHARES.values()),
        ]
        for name in order
    ]
    return table(["method", "decides", *SHARES], lines)


if __name__ == "__main__":
    main()
