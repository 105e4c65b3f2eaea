"""Accuracy of many settings on one suite, with paired bootstrap intervals over the questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import lftr
from lftr.evaluation import Outcome, Setting, compare
from lftr.suites import load

Interval = tuple[float, float, float]


def score(
    settings: Sequence[Setting], split: str, n: int, *, seed: int = 0, batch: int | None = None
) -> list[Outcome]:
    """Answer ``n`` questions of ``split`` with the bundled model under every setting."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = lftr.bundled.load(device=device)
    tower = lftr.bundled.load_text_tower(model)
    examples = load("scenes", split=split, n=n, seed=seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{split}", total=n * len(settings))
        return compare(
            model,
            processor,
            examples,
            settings,
            text_tower=tower,
            batch=batch or (128 if device == "cuda" else 8),
            step=lambda done: progress.advance(task, done),
        )


def interval(values: Sequence[float], draws: np.ndarray) -> Interval:
    """Return the mean of ``values`` and its 95 % bootstrap interval over ``draws`` of questions."""
    array = np.asarray(values, dtype=float)
    means = array[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def relative(outcome: Outcome, full: Outcome, draws: np.ndarray) -> Interval:
    """Return accuracy over the full model's, paired over the questions, with its interval."""
    own, whole = (np.asarray(o.correct, dtype=float) for o in (outcome, full))
    ratios = own[draws].mean(axis=1) / whole[draws].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(own.mean() / whole.mean()), float(low), float(high)


def draws_of(questions: int, times: int = 2000, seed: int = 0) -> np.ndarray:
    """Return the bootstrap's draws, the same for every setting, so that differences are paired."""
    return np.random.default_rng(seed).integers(0, questions, (times, questions))


def summary(outcomes: Sequence[Outcome], categories: Sequence[str]) -> list[dict[str, Any]]:
    """Return every setting's figures as plain values; the first setting is the full model."""
    full = outcomes[0]
    draws = draws_of(len(full.correct))
    found = []
    for outcome in outcomes:
        same = [a == b for a, b in zip(outcome.answers, full.answers, strict=True)]
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
                "accuracy": interval(outcome.correct, draws),
                "relative": relative(outcome, full, draws),
                "agreement": interval(same, draws),
                "categories": by_category,
            }
        )
    return found


def percent(value: Interval) -> str:
    """Return an interval as ``97.1 (96.2-98.0)``."""
    return f"{100 * value[0]:.1f} ({100 * value[1]:.1f}-{100 * value[2]:.1f})"
