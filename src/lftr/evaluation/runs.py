"""A run on disk: its configuration, its answers line by line, and what was made of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

from filelock import FileLock, Timeout

from ..errors import ArgumentError

FORMAT = 1
CONFIG, PREDICTIONS, METRICS = "config.json", "predictions.jsonl", "metrics.json"
LEFT_OUT, IMAGES = "left_out.json", "images"
_LOCK = ".lock"


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
    left_out : dict of str to str
        Methods that the model turned out not to be able to do, with the reason.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        predictions: list[Prediction],
        left_out: dict[str, str] | None = None,
    ) -> None:
        self.path = path
        self.left_out = left_out or {}
        self._config = config
        self._predictions = predictions
        self._done = {(line["id"], line["setting"]) for line in predictions}
        self._lock: FileLock | None = None

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
        folder = Path(path)
        wanted: dict[str, Any] = json.loads(json.dumps(config))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / _LOCK)
            lock.acquire(timeout=0)
            own = {_LOCK, CONFIG + ".part"}  # the latter of a start that was killed
            foreign = sorted(file.name for file in folder.iterdir() if file.name not in own)
            if foreign and CONFIG not in foreign:
                lock.release()
                (folder / _LOCK).unlink(missing_ok=True)
                raise ArgumentError.of(
                    "out", str(folder), f"an empty folder or a run's; this one holds {foreign[0]}"
                )
        except Timeout:
            raise ArgumentError.of(
                "out", str(folder), "a folder that no other process is writing to"
            ) from None
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            if foreign:
                _same(folder, _read_json(folder / CONFIG), wanted)
            else:
                _write(folder / CONFIG, json.dumps(wanted, indent=1) + "\n")
            _drop_torn_line(folder / PREDICTIONS)
            lines = _read_lines(folder / PREDICTIONS)
            run = cls(folder, wanted, lines, _read_left_out(folder))
        except BaseException:
            lock.release()
            raise
        run._lock = lock
        return run

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
        config, lines = _read_json(folder / CONFIG), _read_lines(folder / PREDICTIONS)
        return cls(folder, config, lines, _read_left_out(folder))

    @property
    def config(self) -> dict[str, Any]:
        """What was asked, of what, with which versions; with what was left out, and without it.

        ``config.json`` holds every setting that was asked for.
        """
        settings = [one for one in self._config["settings"] if one["method"] not in self.left_out]
        return self._config | {"settings": settings, "left_out": self.left_out}

    @property
    def predictions(self) -> list[Prediction]:
        """Every answer so far under the settings that are not left out, in order of answering."""
        labels = {setting["label"] for setting in self.config["settings"]}
        return [line for line in self._predictions if line["setting"] in labels]

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: made of `config` and `predictions` alone."""
        from .summary import summarise

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
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            with (self.path / PREDICTIONS).open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._predictions += lines
        self._done.update(keys)

    def leave_out(self, method: str, reason: str) -> None:
        """Leave every setting of a method out of the run, and write down why."""
        self.left_out = self.left_out | {method: " ".join(reason.split())}
        _write(self.path / LEFT_OUT, json.dumps(self.left_out, indent=1) + "\n")

    def image(self, id: str) -> Path:
        """Return where the thumbnail of an example is, or would be: an id can hold any letters."""
        return self.path / IMAGES / f"{hashlib.sha256(id.encode()).hexdigest()[:16]}.png"

    def write_metrics(self) -> dict[str, Any]:
        """Write ``metrics.json`` and return what it holds."""
        metrics = self.metrics
        _write(self.path / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        return metrics

    def close(self) -> None:
        """Let others write to the directory."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted(k for k in {*there, *wanted} if there.get(k) != wanted.get(k))
    if different:
        key = different[0]
        raise ArgumentError.of(
            "out",
            str(folder),
            "a new folder, or the run's own configuration; its "
            f"{', '.join(different)} differ: {_short(there.get(key))} there, "
            f"{_short(wanted.get(key))} now",
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError.of("run", str(path), f"JSON that can be read ({error})") from None
    return value


def _read_left_out(folder: Path) -> dict[str, str]:
    path = folder / LEFT_OUT
    return _read_json(path) if path.exists() else {}


def _read_lines(path: Path) -> list[Prediction]:
    """Read what is whole; a last line without its end was being written when a run died."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    found: list[Prediction] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            found.append(json.loads(line))
        except ValueError as error:
            allowed = f"JSON on every line; line {number}: {error}"
            raise ArgumentError.of("run", str(path), allowed) from None
    return found


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _write(path: Path, text: str) -> None:
    """Write a whole file or none."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(folder: Path, error: OSError) -> ArgumentError:
    """Return what is said where a run's folder cannot be written."""
    return ArgumentError.of("out", str(folder), f"a folder to write to ({error})")
