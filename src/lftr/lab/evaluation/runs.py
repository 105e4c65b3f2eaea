"""A run on disk: its configuration, its answers line by line, and its metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ...values.errors import ArgumentError
from ..asking.journal import CONFIG, Journal, write_whole
from .summary import summarise

FORMAT = 1
PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"
IMAGES = "images"


class Prediction(TypedDict):
    """One answer to one question under one setting: a line of ``predictions.jsonl``.

    ``(id, setting)`` is unique in a run. ``tokens`` and ``kept`` count the visual tokens of the
    whole prompt; what methods inside the language model keep is a mean over its layers. ``index``
    holds the raster indices of the anchors that stayed and ``grid`` their ``[T, H, W]``; both are
    None where nothing was dropped, where a prompt has several images, and where an image is not one
    grid. ``ms`` are milliseconds of ``encode``, ``method``, ``host`` and ``total``, a batch's
    shared equally among its questions.
    """

    id: str
    setting: str
    task: str
    category: str
    question: str
    answers: list[str]
    image: str | None
    answer: str
    score: float
    tokens: int
    kept: float
    index: list[int] | None
    grid: list[int] | None
    ms: dict[str, float]


class Run:
    """A run directory.

    Attributes
    ----------
    path : Path
        The directory.
    """

    def __init__(self, journal: Journal) -> None:
        self.path = journal.path
        self._journal = journal
        self._done = {(line["id"], line["setting"]) for line in journal.lines}

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any]) -> Run:
        """Start a run or continue an interrupted one, and lock it until ``close``.

        Parameters
        ----------
        path : str or Path
            A folder that is empty or does not exist, or holds a run of the same configuration.
        config : mapping
            Plain values.

        Raises
        ------
        ArgumentError
            If the folder cannot be written, holds something else or a run of another
            configuration, or is being written by another process.
        """
        return cls(Journal.open(path, PREDICTIONS, config))

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Read a run, finished or not, without changing it.

        Raises
        ------
        ArgumentError
            If there is none.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            raise ArgumentError.of("run", str(folder), "a folder that `lftr eval --out` wrote")
        journal = Journal.read(folder, PREDICTIONS)
        if journal.config.get("format") != FORMAT:
            raise ArgumentError.of("run", str(folder), "a run of answers, of this lftr's `eval`")
        return cls(journal)

    @property
    def left_out(self) -> dict[str, str]:
        """Methods that the model does not support, with the reason."""
        return self._journal.left_out

    @property
    def config(self) -> dict[str, Any]:
        """The configuration: questions, model, versions, and the settings that were not left out.

        ``config.json`` also holds the settings that were left out.
        """
        settings = [
            one for one in self._journal.config["settings"] if one["method"] not in self.left_out
        ]
        return self._journal.config | {"settings": settings, "left_out": self.left_out}

    @property
    def predictions(self) -> list[Prediction]:
        """Every answer so far under the settings that are not left out, in order of answering."""
        labels = {setting["label"] for setting in self.config["settings"]}
        return [line for line in self._journal.lines if line["setting"] in labels]

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``, computed from `config` and `predictions` alone."""
        return summarise(self.config, self.predictions)

    def done(self) -> set[tuple[str, str]]:
        """Return the ``(id, setting)`` of every answer so far."""
        return set(self._done)

    def add(self, lines: Sequence[Prediction]) -> None:
        """Append answers, and write them to disk before returning.

        Raises
        ------
        ArgumentError
            If the run already has one of them, or a line cannot be written.
        """
        keys = [(line["id"], line["setting"]) for line in lines]
        twice = next((k for i, k in enumerate(keys) if k in self._done or k in keys[:i]), None)
        if twice:
            raise ArgumentError.of("id", twice[0], f"one answer under {twice[1]!r}")
        self._journal.add(lines)
        self._done.update(keys)

    def leave_out(self, method: str, reason: str) -> None:
        """Leave out all settings of a method, and record the reason."""
        self._journal.leave_out(method, reason)

    def image(self, id: str) -> Path:
        """Return the path of an example's thumbnail, for an id with any characters."""
        return self.path / IMAGES / f"{hashlib.sha256(id.encode()).hexdigest()[:16]}.png"

    def write_metrics(self) -> dict[str, Any]:
        """Write ``metrics.json`` and return its content."""
        metrics = self.metrics
        write_whole(self.path / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        return metrics

    def close(self) -> None:
        """Release the lock of the directory."""
        self._journal.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
