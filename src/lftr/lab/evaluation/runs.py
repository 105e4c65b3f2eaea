"""A run on disk: its configuration, its answers line by line, and what was made of them."""

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
        """Start a run, or go on with one that was interrupted; alone, until ``close``.

        Parameters
        ----------
        path : str or Path
            A folder that is empty, is not there yet, or holds a run of this very configuration.
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
        """Read a run, finished or not, without touching it.

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
        """Methods that the model turned out not to be able to do, with the reason."""
        return self._journal.left_out

    @property
    def config(self) -> dict[str, Any]:
        """What was asked, of what, with which versions; with what was left out, and without it.

        ``config.json`` holds every setting that was asked for.
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
        """What ``metrics.json`` holds: made of `config` and `predictions` alone."""
        return summarise(self.config, self.predictions)

    def done(self) -> set[tuple[str, str]]:
        """Return the ``(id, setting)`` of every answer so far."""
        return set(self._done)

    def add(self, lines: Sequence[Prediction]) -> None:
        """Append answers; they are on the disk when this returns.

        Raises
        ------
        ArgumentError
            If one of them is there already, or a line cannot be written.
        """
        keys = [(line["id"], line["setting"]) for line in lines]
        twice = next((k for i, k in enumerate(keys) if k in self._done or k in keys[:i]), None)
        if twice:
            raise ArgumentError.of("id", twice[0], f"one answer under {twice[1]!r}")
        self._journal.add(lines)
        self._done.update(keys)

    def leave_out(self, method: str, reason: str) -> None:
        """Leave every setting of a method out of the run, and write down why."""
        self._journal.leave_out(method, reason)

    def image(self, id: str) -> Path:
        """Return where the thumbnail of an example is, or would be: an id can hold any letters."""
        return self.path / IMAGES / f"{hashlib.sha256(id.encode()).hexdigest()[:16]}.png"

    def write_metrics(self) -> dict[str, Any]:
        """Write ``metrics.json`` and return what it holds."""
        metrics = self.metrics
        write_whole(self.path / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        return metrics

    def close(self) -> None:
        """Let others write to the directory."""
        self._journal.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
