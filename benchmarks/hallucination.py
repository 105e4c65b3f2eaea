"""Whether the answers that pruning makes the bundled model imagine go away with `lftr.ONLY`.

    python benchmarks/hallucination.py [--n 200] [--seconds 600] [--json]
    python benchmarks/hallucination.py --doc

Questions after the existence of an object, as POPE asks them (half of the objects are absent), of
the split test. The full model and reductions at 4x, 16x and 64x, each with and without ONLY at the
paper's values. An answer "yes" to an absent object is a hallucination. Differences are paired, with
95 % intervals by draws of the questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

from _accuracy import answers, bundled, percent
from _measure import machine, results, save, table, where

import lftr
from lftr.lab.evaluation import Bootstrap, Outcome, Setting
from lftr.lab.scoring.hallucination import Hallucination
from lftr.lab.scoring.metrics import verdict
from lftr.lab.suites import CATEGORIES, load
from lftr.methods import get_method

RATIOS = (4, 16, 64)
DOC = Path(__file__).parent.parent / "docs" / "decoding.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ROWS = (
    ("lftr", "lftr", "size"),
    ("lftr, no weights", "lftr", "none"),
    ("divprune", "divprune", "none"),
    ("random", "random", "none"),
)


def settings() -> list[Setting]:
    """Return the full model and every reduction, each followed by itself with ONLY."""
    plain = [Setting("full", get_method("uniform"), 1.0)]
    for ratio in RATIOS:
        plain += [
            Setting(f"{label} {ratio}x", get_method(name), 1 / ratio, weights=weights)
            for label, name, weights in ROWS
        ]
    only = lftr.ONLY()
    pairs = [(one, replace(one, label=f"{one.label} + ONLY", decoding=only)) for one in plain]
    return [one for pair in pairs for one in pair]


def figures(outcomes: Sequence[Outcome], truths: Sequence[str]) -> list[dict[str, Any]]:
    """Return every setting's measures, and its differences from the full model.

    Rows with ONLY also have their differences from the row before, the same without. ``imagined``
    is the share of absent objects that were answered with yes.
    """
    absent = [truth == "no" for truth in truths]
    everywhere, among_absent = Bootstrap(["all"] * len(truths)), Bootstrap(["all"] * sum(absent))

    def wrong_yes(outcome: Outcome) -> list[float]:
        pairs = zip(outcome.answers, absent, strict=True)
        return [float(verdict(answer) == "yes") for answer, gone in pairs if gone]

    def judged(outcome: Outcome) -> list[float]:
        pairs = zip(outcome.answers, truths, strict=True)
        return [float(verdict(answer) == truth) for answer, truth in pairs]

    def less(outcome: Outcome, other: Outcome) -> dict[str, Any]:
        right = [a - b for a, b in zip(judged(outcome), judged(other), strict=True)]
        yes = [a - b for a, b in zip(wrong_yes(outcome), wrong_yes(other), strict=True)]
        return {
            "accuracy": everywhere.mean(right, (-1.0, 1.0)),
            "imagined": among_absent.mean(yes, (-1.0, 1.0)),
            "other_answers": sum(
                a != b for a, b in zip(outcome.answers, other.answers, strict=True)
            ),
        }

    found = []
    for number, outcome in enumerate(outcomes):
        setting = outcome.setting
        row: dict[str, Any] = {
            "label": setting.label,
            "keep": setting.keep,
            "tokens": outcome.tokens,
            **asdict(Hallucination.of(outcome.answers, truths)),
            "imagined": among_absent.mean(wrong_yes(outcome)),
        }
        if number:
            row["less_full"] = less(outcome, outcomes[0])
        if setting.decoding is not None:
            row["less_without"] = less(outcome, outcomes[number - 1])
        found.append(row)
    return found


def report(content: dict[str, Any]) -> str:
    """Return figures as Markdown: each cell without and with ONLY."""
    names = ("accuracy", "precision", "recall", "f1", "yes_rate")
    plain, corrected = content["rows"][::2], content["rows"][1::2]
    lines = []
    for one, other in zip(plain, corrected, strict=True):
        cells = [f"{100 * one[name]:.1f}, {100 * other[name]:.1f}" for name in names]
        cells.append(f"{100 * one['imagined'][0]:.1f}, {percent(other['imagined'])}")
        less = other["less_without"]
        lines.append([one["label"], *cells, percent(less["accuracy"]), str(less["other_answers"])])
    head = ["", "accuracy", "precision", "recall", "F1", "yes", "imagined", "accuracy gained"]
    return table([*head, "other answers"], lines)


def write(content: dict[str, Any]) -> None:
    """Put the figures into the page."""
    before, _, rest = DOC.read_text().partition(BEGIN)
    text = f"`{content['command']}`, {where(content)}:\n\n{report(content['figures'])}"
    DOC.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Ask, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=inf, help="ask no more after these")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--doc", action="store_true", help="write the last results into the page")
    options = parser.parse_args()
    if options.doc:
        write(json.loads(results("hallucination").read_text()))
        return
    suite = load("scenes", split="test", n=len(CATEGORIES) * options.n)
    asked = range(CATEGORIES.index("existence"), len(suite), len(CATEGORIES))  # they take turns
    examples = [suite[i] for i in asked]
    outcomes = answers(settings(), examples, bundled("scenes", "cpu"), seconds=options.seconds)
    truths = [example.answer for example in examples[: len(outcomes[0].answers)]]
    found = figures(outcomes, truths)
    content = {"split": "test", "questions": len(truths), "only": str(lftr.ONLY()), "rows": found}
    save("hallucination", f"python benchmarks/hallucination.py --n {len(truths)}", content)
    print(json.dumps({"machine": machine()} | content) if options.json else report(content))


if __name__ == "__main__":
    main()
