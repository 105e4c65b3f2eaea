"""The metrics of a run, computed from its configuration and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scoring.hallucination import Hallucination
from ..scoring.intervals import ITSELF, Bootstrap, interval_fields
from ..scoring.metrics import agreement, verdict

if TYPE_CHECKING:
    from .runs import Prediction

_CLOCKS = ("encode", "method", "host", "total")


def summarise(config: Mapping[str, Any], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Only questions that every setting has answered count, so that all settings are compared on the
    same questions. ``can_show`` is the lower end of the interval if every answer is right: the most
    that this number of images can show.

    Parameters
    ----------
    config : mapping
        Of the run; its first setting is the full model.
    predictions : sequence of Prediction
        The answers, in any order.
    """
    lines: dict[str, dict[str, Prediction]] = {one["label"]: {} for one in config["settings"]}
    for line in predictions:
        lines[line["setting"]][line["id"]] = line
    shared = set.intersection(*(set(answered) for answered in lines.values()))
    ids = sorted(shared)  # not in the order of answering, which an interruption changes
    wanted = sum(data["questions"] for data in config["data"])
    if not ids:
        return {"questions": 0, "complete": False, "can_show": 0.0, "settings": []}
    rows = {label: [answered[id] for id in ids] for label, answered in lines.items()}
    full = rows[config["settings"][0]["label"]]
    bootstrap = Bootstrap(
        [line["task"] for line in full], [line["image"] or line["id"] for line in full]
    )
    return {
        "questions": len(ids),
        "complete": len(ids) == wanted,
        "can_show": bootstrap.mean([1.0] * len(ids)).low,
        "settings": [
            _row(setting, rows[setting["label"]], full, bootstrap) for setting in config["settings"]
        ],
    }


def _row(
    setting: Mapping[str, Any],
    lines: Sequence[Prediction],
    full: Sequence[Prediction],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    scores, whole = _scores(lines), _scores(full)
    relative = bootstrap.ratio(scores, whole)
    same = agreement([line["answer"] for line in lines], [line["answer"] for line in full])
    return {
        "label": setting["label"],
        "method": setting["method"],
        "keep": setting["keep"],
        "tokens": float(np.mean([line["kept"] for line in lines])),
        "questions": len(lines),
        **interval_fields("score", bootstrap.mean(scores)),
        **interval_fields("relative", relative and ITSELF if lines is full else relative),
        **interval_fields("agreement", ITSELF if lines is full else bootstrap.mean(same)),
        "tasks": _scores_by(lambda line: line["task"], lines, full),
        "categories": _scores_by(lambda line: line["category"], lines, full),
        "ms": {name: _quartiles([line["ms"][name] for line in lines]) for name in _CLOCKS},
        "hallucination": _hallucination(lines),
    }


def _scores(lines: Sequence[Prediction]) -> list[float]:
    return [line["score"] for line in lines]


def _scores_by(
    key: Callable[[Prediction], str], lines: Sequence[Prediction], full: Sequence[Prediction]
) -> dict[str, dict[str, float | None]]:
    scores: dict[str, dict[str, float | None]] = {}
    for name in sorted({key(line) for line in full} - {""}):
        score = float(np.mean([line["score"] for line in lines if key(line) == name]))
        whole = [line["score"] for line in full if key(line) == name]
        relative = score / float(np.mean(whole)) if any(whole) else None
        scores[name] = {"score": score, "relative": relative, "questions": len(whole)}
    return scores


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def _hallucination(lines: Sequence[Prediction]) -> dict[str, float] | None:
    """POPE's figures over the questions whose every right answer is yes, or is no."""
    pairs = []
    for line in lines:
        truths = {answer.strip(" .").lower() for answer in line["answers"]}
        if truths in ({"yes"}, {"no"}):
            pairs.append((line["answer"], verdict(truths.pop())))
    if not pairs:
        return None
    return asdict(Hallucination.of(*zip(*pairs, strict=True)))
