"""Accuracy of many settings on one suite, with paired bootstrap intervals over the questions."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from _measure import machine, results, save, table
from rich.console import Console
from rich.progress import Progress

import lftr
from lftr.lab.evaluation import Bootstrap, Outcome, Setting, agreement, compare
from lftr.lab.scoring.intervals import ITSELF, Interval
from lftr.lab.suites import load
from lftr.methods import Method, get_method

RATIOS = (4, 8, 16)
Subject = tuple[Any, Any, Any]  # model, processor, text tower


def score(
    settings: Sequence[Setting],
    split: str,
    n: int,
    *,
    seed: int = 0,
    batch: int | None = None,
    seconds: float = float("inf"),
    suite: str = "scenes",
    subject: Subject | None = None,
) -> tuple[list[Outcome], list[str]]:
    """Answer up to ``n`` questions of ``split``, by every setting.

    Parameters
    ----------
    subject : tuple, optional
        Who answers: a model, its processor, and a text tower or None. The suite's bundled ones by
        default.

    Returns
    -------
    outcomes : list of Outcome
        One for each setting, all for the same questions: those that ``seconds`` sufficed for.
    categories : list of str
        The category of each question.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = batch or (128 if device == "cuda" else 16)
    suite_examples = load(suite, split=split, n=n, seed=seed)
    examples = [suite_examples[i] for i in range(n)]
    outcomes = answers(settings, examples, subject or bundled(suite, device), batch, seconds)
    return outcomes, [one.category for one in examples[: len(outcomes[0].answers)]]


def answers(
    settings: Sequence[Setting],
    examples: Sequence[Any],
    subject: Subject,
    batch: int = 16,
    seconds: float = float("inf"),
) -> list[Outcome]:
    """Return each setting's outcome, for those of the examples that ``seconds`` sufficed for."""
    model, processor, tower = subject
    outcomes = [Outcome(setting) for setting in settings]
    start = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("questions", total=len(examples))
        for first in range(0, len(examples), batch):
            if time.perf_counter() - start > seconds:
                break
            part = examples[first : first + batch]
            answered = compare(model, processor, part, settings, text_tower=tower, batch=batch)
            for whole, new in zip(outcomes, answered, strict=True):
                whole.answers += new.answers
                whole.correct += new.correct
                whole.kept += new.kept
            progress.advance(task, len(part))
    return outcomes


def bundled(suite: str, device: str) -> Subject:
    """Return a suite's bundled model, its processor and its text tower."""
    model, processor = lftr.bundled.load(device=device, name=suite)
    return model, processor, lftr.bundled.load_text_tower(model)


def run(
    variants: Mapping[str, Method],
    name: str,
    command: str,
    about: str | None,
    final: Mapping[str, Method] | None = None,
    suite: str = "scenes",
) -> None:
    """Score variants on the validation split at every ratio; print and write the figures down.

    With ``--test``, score what is ``final`` on the test split instead.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--n", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", help="renew the rows of these and of the first alone")
    parser.set_defaults(test=False)
    if final is not None:
        parser.add_argument("--test", action="store_true", help="once, when all is fixed")
    options = parser.parse_args()
    split = "validation"
    if final is not None and options.test:
        split, variants, name, command = "test", final, f"{name}_test", f"{command} --test"
    if options.only:
        first = next(iter(variants))  # the others' lead is over this one
        variants = {label: variants[label] for label in dict.fromkeys([first, *options.only])}
    settings = [Setting("full", get_method("uniform"), 1.0)]
    for label, method in variants.items():
        weights = "size" if label == "lftr" else "none"  # others as published
        settings += [Setting(label, method, 1 / r, weights=weights) for r in RATIOS]
    finish(settings, options, split, name, f"{command} --n {options.n}", suite)


def finish(
    settings: Sequence[Setting],
    options: argparse.Namespace,
    split: str,
    name: str,
    command: str,
    suite: str = "scenes",
    subject: Subject | None = None,
) -> None:
    """Score settings, print the table (or JSON) and write the figures down."""
    outcomes, categories = score(
        settings,
        split,
        options.n,
        seed=options.seed,
        seconds=options.seconds,
        suite=suite,
        subject=subject,
    )
    figures = summary(outcomes, categories)
    content = {"split": split, "questions": len(categories), "seed": options.seed, "rows": figures}
    if options.seed != 0:
        name, command = f"{name}_seed{options.seed}", f"{command} --seed {options.seed}"
    if getattr(options, "only", None):
        command = f"{command} --only {shlex.join(options.only)}"
        if results(name).exists():
            command, content = renewed(name, command, content)
    save(name, command, content)
    print(json.dumps({"machine": machine()} | content) if options.json else report(content))


def renewed(name: str, command: str, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a results file's command and figures with the rows of ``content`` in their places.

    For a method that changed after a run: every row stands beside the same full model's answers to
    the same questions, so rows of two runs can share a table.
    """
    path = results(name)
    old = json.loads(path.read_text())
    figures = old["figures"]
    if any(figures[key] != content[key] for key in ("split", "questions")):
        raise SystemExit(f"{path} was made with other questions: run all of it")
    first = {row["keep"]: row["label"] for row in reversed(figures["rows"][1:])}
    new = {(row["label"], row["keep"]): row for row in content["rows"][1:]}
    again = {keep for keep, label in first.items() if (label, keep) in new}
    for row in (*figures["rows"][1:], *new.values()):
        asked = (row["label"], row["keep"]) in new
        if asked != (row["keep"] in again):
            row["behind"] = None  # the first method, as it is, was not asked beside it
    rows = [new.pop((row["label"], row["keep"]), row) for row in figures["rows"]]
    figures["rows"] = [*rows, *new.values()]
    return f"{old['command']}; {command}", figures


def report(content: Mapping[str, Any]) -> str:
    """Return figures as Markdown, best mean over the ratios first."""
    full, rest = content["rows"][0], content["rows"][1:]
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in rest:
        rows.setdefault(one["label"], []).append(one)
    mean = {label: sum(f["relative"][0] for f in ones) / len(ones) for label, ones in rows.items()}
    lines = [
        [label, f"{100 * mean[label]:.1f}", *(percent(f["relative"]) for f in rows[label])]
        for label in sorted(rows, key=mean.__getitem__, reverse=True)
    ]
    head = ["method", "mean", *ratios(content)]
    about = f"{content['questions']} questions of {content['split']}; relative accuracy in %, 95 %"
    return f"{about} intervals; full accuracy {percent(full['accuracy'])} %\n\n{table(head, lines)}"


def leads(content: Mapping[str, Any]) -> str:
    """Return as Markdown by how many points the first method leads each other at equal tokens."""
    rows: dict[str, list[str]] = {}
    for one in content["rows"][1:]:
        lead = one["behind"]
        rows.setdefault(one["label"], []).append("" if lead is None else percent(lead))
    first, *others = rows
    head = [f"{first} leads by", *ratios(content)]
    return table(head, [[label, *rows[label]] for label in others if any(rows[label])])


def ratios(content: Mapping[str, Any]) -> list[str]:
    """Return by how many times each row of a method reduces, as headings."""
    first = content["rows"][1]["label"]
    return [f"{1 / row['keep']:.0f}x" for row in content["rows"] if row["label"] == first]


def summary(outcomes: Sequence[Outcome], categories: Sequence[str]) -> list[dict[str, Any]]:
    """Return every setting's figures as plain values; the first setting is the full model.

    ``behind`` is the accuracy of the first setting with the same ``keep`` over this one's.
    """
    full = outcomes[0]
    bootstrap = Bootstrap(["scenes"] * len(full.correct))
    found = []
    first: dict[Any, Outcome] = {}
    for outcome in outcomes:
        best = first.setdefault(outcome.setting.keep, outcome)
        lead = [float(a) - b for a, b in zip(best.correct, outcome.correct, strict=True)]
        behind = Interval(0, 0, 0) if outcome is best else bootstrap.mean(lead, (-1.0, 1.0))
        by_category = {
            name: float(
                np.mean([c for c, k in zip(outcome.correct, categories, strict=True) if k == name])
            )
            for name in sorted(set(categories))
        }
        found.append(
            {
                "label": outcome.setting.label,
                "method": repr(outcome.setting.method),
                "keep": outcome.setting.keep,
                "tokens": outcome.tokens,
                "accuracy": bootstrap.mean(outcome.correct),
                **beside(outcome, full, bootstrap),
                "behind": behind,
                "categories": by_category,
            }
        )
    return found


def beside(outcome: Outcome, full: Outcome, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return relative accuracy and agreement with the full model, which is itself for certain."""
    if outcome is full:
        return {"relative": ITSELF if any(full.correct) else None, "agreement": ITSELF}
    return {
        "relative": bootstrap.ratio(outcome.correct, full.correct),
        "agreement": bootstrap.mean(agreement(outcome.answers, full.answers)),
    }


def percent(value: Sequence[float]) -> str:
    """Return an interval as ``97.1 (96.2-98.0)``."""
    return f"{100 * value[0]:.1f} ({100 * value[1]:.1f}-{100 * value[2]:.1f})"
