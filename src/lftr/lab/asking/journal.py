"""A folder with a configuration and a file of lines, to which one process appends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...values.errors import ArgumentError
from ...values.textfile import read_text

CONFIG, LEFT_OUT = "config.json", "left_out.json"
_LOCK = ".lock"
_START_FILES = {_LOCK, CONFIG, CONFIG + ".part"}  # the last of a start that was killed


class Journal:
    """A folder with ``config.json`` and a file of lines, one JSON object each.

    Parameters
    ----------
    path : Path
        The folder.
    name : str
        The name of the file of lines.
    config : dict
        Plain values on which the lines depend; a folder holds one configuration.
    lines : list of dict
        The lines of the file.
    lock : FileLock, optional
        Held while this process may write.

    Attributes
    ----------
    left_out : dict of str to str
        Methods that the model does not support, with the reason.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        config: dict[str, Any],
        lines: list[Any],
        lock: FileLock | None = None,
    ) -> None:
        self.path, self.config, self.lines = path, config, lines
        self.left_out = read_json(path / LEFT_OUT) if (path / LEFT_OUT).exists() else {}
        self._file, self._lock = path / name, lock
        self._whole = self._file.stat().st_size if self._file.exists() else 0  # bytes of lines

    @classmethod
    def open(cls, path: str | Path, name: str, config: Mapping[str, Any]) -> Journal:
        """Start a folder or continue an interrupted one, and lock it until ``close``.

        Parameters
        ----------
        path : str or Path
            A folder that is empty or does not exist, or was started with the same configuration.

        Raises
        ------
        ArgumentError
            If the folder cannot be written, holds something else or another configuration, or is
            being written by another process.
        """
        folder = Path(path)
        wanted: dict[str, Any] = json.loads(json.dumps(config))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_is_run(folder)
            lock = FileLock(folder / _LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            allowed = "a folder that is not being written to, by this or another process"
            raise ArgumentError.of("folder", str(folder), allowed) from None
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            if (folder / CONFIG).exists():
                _same(folder, read_json(folder / CONFIG), wanted)
            else:
                write_whole(folder / CONFIG, json.dumps(wanted, indent=1) + "\n")
            _drop_torn_line(folder / name)
            return cls(folder, name, wanted, _read_lines(folder / name), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def read(cls, path: Path, name: str) -> Journal:
        """Read a folder without a lock and without changing it."""
        return cls(path, name, read_json(path / CONFIG), _read_lines(path / name))

    def add(self, lines: Sequence[Any]) -> None:
        """Append lines, and write them to disk before returning.

        Raises
        ------
        ArgumentError
            If they cannot be written.
        """
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            with self._file.open("ab") as file:
                file.truncate(self._whole)  # a write that failed may have left a part
                file.write(text.encode(errors="surrogatepass"))  # names of files can hold any bytes
                file.flush()
                os.fsync(file.fileno())
                self._whole = file.tell()
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.lines += lines

    def leave_out(self, method: str, reason: str) -> None:
        """Leave out all settings of a method from now on, and record the reason.

        Raises
        ------
        ArgumentError
            If it cannot be written.
        """
        self.left_out = self.left_out | {method: " ".join(reason.split())}
        write_whole(self.path / LEFT_OUT, json.dumps(self.left_out, indent=1) + "\n")

    def close(self) -> None:
        """Release the lock of the folder."""
        if self._lock is not None:
            self._lock.release()


def _check_is_run(folder: Path) -> None:
    """Refuse a folder with other content before anything in it is changed."""
    foreign = sorted(file.name for file in folder.iterdir() if file.name not in _START_FILES)
    if foreign and not (folder / CONFIG).exists():
        allowed = f"an empty folder or a run's; this one holds {foreign[0]}"
        raise ArgumentError.of("folder", str(folder), allowed)


def _same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted(k for k in {*there, *wanted} if there.get(k) != wanted.get(k))
    if different:
        key = different[0]
        raise ArgumentError.of(
            "folder",
            str(folder),
            "a new folder, or the run's own configuration; its "
            f"{', '.join(different)} differ: {_short(there.get(key))} there, "
            f"{_short(wanted.get(key))} now",
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises
    ------
    ArgumentError
        If it cannot be read.
    """
    try:
        value: dict[str, Any] = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ArgumentError.of("run", str(path), f"JSON that can be read ({error})") from None
    return value


def _read_lines(path: Path) -> list[Any]:
    """Read the complete lines; a last line without its end was cut off when a run was killed."""
    if not path.exists():
        return []
    lines: list[Any] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            allowed = f"JSON on every line; line {number}: {error}"
            raise ArgumentError.of("run", str(path), allowed) from None
    return lines


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all.

    Raises
    ------
    ArgumentError
        If its folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(folder: Path, error: OSError) -> ArgumentError:
    """Return the error for a run's folder that cannot be written."""
    return ArgumentError.of("folder", str(folder), f"a folder to write to ({error})")
