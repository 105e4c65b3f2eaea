"""Presets: methods and budget of a reduction, and how they were found, in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .methods.base import Method
from .methods.encoder.merges import EncoderMerge
from .methods.inside import LayerMethod
from .methods.lookup import get_method, method_from_plain
from .options.plain import from_plain, to_plain
from .values.budget import Budget, Keep, as_arguments, budget_from_plain, budget_of, spell
from .values.errors import ArgumentError
from .values.positions import check_positions
from .values.textfile import read_text
from .values.weights import parse_weights

FORMAT = 1
_KEYS = {"format", "method", "options", "keep", "tokens", "positions", "encoder", "weights"}
_KEYS |= {"model", "found"}


@dataclass(frozen=True)
class Preset:
    """The arguments of `lftr.reduce`, with their origin.

    ``lftr.reduce(model, **preset.arguments())`` reduces as it says.

    Attributes
    ----------
    method : Method, LayerMethod or a sequence of them
        As `lftr.reduce` takes it; names become objects.
    keep : float, Budget, "auto" or None
        As `lftr.reduce` takes it. A string in the command line's spelling is read.
    positions : {"original", "compact"}, optional
        By default the model's own.
    model : str, optional
        Which model it was found on: a Hugging Face id, a path, or ``"bundled"``.
    found : mapping
        Measurements of the search that found it; plain values, written by `lftr tune`.
    encoder : EncoderMerge, optional
        What merges tokens inside the vision encoder.
    weights : str or float, optional
        How slots that stand for several tokens count in attention.
    tokens : int, optional
        A count for each item, in place of ``keep``.
    """

    method: str | Method | LayerMethod | Sequence[str | Method | LayerMethod]
    keep: float | Budget | str | None = None
    positions: str | None = None
    model: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    encoder: EncoderMerge | None = None
    weights: str | float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Read strings, and put a count into ``tokens``."""
        object.__setattr__(self, "method", _objects_of(self.method))
        budget = budget_of(self.keep, self.tokens, stacklevel=3)
        for name, value in ({"keep": None, "tokens": None} | as_arguments(budget)).items():
            object.__setattr__(self, name, value)

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Read a preset.

        Raises
        ------
        ArgumentError
            If the file is not there, not a preset of this format, or names a method, an option or
            a budget that is not allowed; the message names the file.
        """
        try:
            return cls.from_plain(json.loads(read_text(path)))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ArgumentError.of("preset", str(path), f"a file to read ({reason})") from None
        except (ValueError, RecursionError) as error:  # broken JSON, and every ArgumentError
            raise ArgumentError.of("preset", str(path), f"a preset of lftr: {error}") from None

    @classmethod
    def from_plain(cls, values: Any) -> Preset:
        """Make a preset from the result of `to_plain`.

        Raises
        ------
        ArgumentError
            If a value is missing, unknown or of a wrong type.
        """
        if not isinstance(values, dict):
            raise ArgumentError.of("preset", values, "an object")
        if values.get("format") != FORMAT:
            raise ArgumentError.of("format", values.get("format"), f"{FORMAT}, of this lftr")
        unknown = sorted(set(values) - _KEYS)
        if unknown or "method" not in values or not {"keep", "tokens"} & set(values):
            known = ", ".join(sorted(_KEYS))
            raise ArgumentError.of(
                "preset", sorted(values), f"method, keep or tokens, and no more than {known}"
            )
        positions, model = values.get("positions"), values.get("model")
        check_positions(positions)
        if not isinstance(model, str | None):
            raise ArgumentError.of("model", model, "a name")
        measured = values.get("found")
        if not isinstance(measured, dict | None):
            raise ArgumentError.of("found", measured, "an object")
        weights = values.get("weights")
        parse_weights(weights)
        method, merge, budget = _read_method(values), _read_merge(values), budget_from_plain(values)
        return cls(
            method,
            positions=positions,
            model=model,
            found=measured or {},
            encoder=merge,
            weights=weights,
            **as_arguments(budget),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the preset as plain values."""
        written = to_plain(self.method)
        method = {"method": written} if isinstance(written, list) else written
        return {
            "format": FORMAT,
            **method,
            **_write_budget(self.budget),
            "positions": self.positions,
            "encoder": to_plain(self.encoder),
            "weights": self.weights,
            "model": self.model,
            "found": dict(self.found),
        }

    def save(self, path: str | Path) -> None:
        """Write the preset; the file is complete or unchanged.

        Raises
        ------
        ArgumentError
            If it cannot be written.
        """
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            part.write_text(json.dumps(self.to_plain(), indent=1) + "\n", encoding="utf-8")
            part.replace(target)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ArgumentError.of("preset", str(path), f"a file to write ({reason})") from None

    @property
    def budget(self) -> Keep | Any:
        """``tokens`` or, where that is None, ``keep``: a budget as `lftr.values.budget` has it."""
        return self.keep if self.tokens is None else self.tokens

    @property
    def methods(self) -> Sequence[Method | LayerMethod]:
        """The methods, as a sequence even if there is only one."""
        held: Any = self.method  # no names any more
        methods: Sequence[Method | LayerMethod] = held if isinstance(held, tuple) else (held,)
        return methods

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `lftr.reduce`: ``lftr.reduce(model, **preset.arguments())``."""
        return {
            "method": self.method,
            **as_arguments(self.budget),
            "positions": self.positions,
            "encoder": self.encoder,
            "weights": self.weights,
        }

    def note(self, model: Any) -> str | None:
        """Return a warning if this was found on another model than ``model``, loaded or a name."""
        name = model if isinstance(model, str) else model_name(model)
        if self.model is None or _last(self.model) == _last(name):
            return None
        return f"the preset was found on {self.model}, and is used on {name}"


def check_writable(path: str | Path, name: str = "preset") -> None:
    """Refuse a path that cannot be written, before a long computation.

    Raises
    ------
    ArgumentError
        If its folder is not there or not to be written, or it is a folder itself.
    """
    folder = Path(path).parent
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise ArgumentError.of(name, str(path), "a file in a folder that can be written")


def model_name(model: Any) -> str:
    """Return the name of a loaded model in presets: its id, its path, ``"bundled"``..."""
    name = str(getattr(model, "name_or_path", "") or getattr(model.config, "name_or_path", ""))
    return known_as(name) or type(model).__name__


def known_as(name: str) -> str:
    """Return the name of a model's id or path in presets."""
    from . import bundled

    names = {str(bundled.path(one)): f"bundled-{one}" for one in bundled.NAMES}
    names[str(bundled.path())] = "bundled"
    return names.get(name, name)


def _last(model: str) -> str:
    """Return a model's name without owner or folder, in lower case."""
    return model.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()


def _read_method(values: Mapping[str, Any]) -> Any:
    if isinstance(values["method"], list):
        return list(map(method_from_plain, values["method"]))
    return method_from_plain({key: values[key] for key in ("method", "options") if key in values})


def _objects_of(value: object) -> Any:
    """Return a method or a tuple of several, with objects in place of names."""
    several = value if isinstance(value, list | tuple) else [value]
    methods = tuple(get_method(one) if isinstance(one, str) else one for one in several)
    if not methods or not all(isinstance(one, Method | LayerMethod) for one in methods):
        raise ArgumentError.of("method", value, "a method or its name, or a list of methods")
    return methods[0] if several is not value else methods


def _read_merge(values: Mapping[str, Any]) -> EncoderMerge | None:
    plain = values.get("encoder")
    merge = from_plain(plain)
    if not isinstance(merge, EncoderMerge | None):
        raise ArgumentError.of("encoder", plain, "a merge inside the encoder, with its options")
    return merge


def _write_budget(budget: Any) -> dict[str, Any]:
    """Write a budget; a ratio as a fraction, which reads back as the same number of tokens."""
    if isinstance(budget, Budget):
        return {"keep": {"total": budget.total}}
    return as_arguments(budget) if not isinstance(budget, float) else {"keep": spell(budget)}
