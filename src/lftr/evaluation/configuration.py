"""What tells one run from another, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import ArgumentError
from ..methods.base import Method
from ..methods.encoder import EncoderMerge
from ..methods.inside import LayerMethod
from .data import Data
from .runs import FORMAT
from .settings import Setting, spell
from .subject import Subject


def configuration(
    subject: Subject,
    data: Sequence[Data],
    settings: Sequence[Setting],
    *,
    metric: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what tells one run from another, as plain values.

    Raises
    ------
    ArgumentError
        If an id is that of two questions, or two settings have one label.
    """
    _check_ids(data)
    _check_labels(settings)
    return {
        "format": FORMAT,
        **subject.plain(),
        "data": [one.describe() for one in data],
        "metric": metric,
        "settings": [plain_setting(setting) for setting in settings],
        "seed": seed,
    }


def _check_ids(data: Sequence[Data]) -> None:
    seen: dict[str, str] = {}
    for one in data:
        for item in one.items:
            if item.id in seen:
                allowed = (
                    f"one of each; {seen[item.id]} and {one.source} both have it: write an 'id' "
                    "into the lines of one, or run them apart"
                )
                raise ArgumentError.of("id", item.id, allowed)
            seen[item.id] = one.source


def _check_labels(settings: Sequence[Setting]) -> None:
    seen: set[str] = set()
    for setting in settings:
        if setting.label in seen:
            raise ArgumentError.of("setting", setting.label, "one of each; there are two")
        seen.add(setting.label)


def plain_setting(setting: Setting) -> dict[str, Any]:
    """Return a setting with every option, as plain values."""
    return {
        "label": setting.label,
        "method": setting.name,
        "options": {} if setting.full else _options(setting.method),
        "keep": spell(setting.keep),
        "positions": setting.positions,
        "encoder": setting.encoder
        and {"method": type(setting.encoder).__name__, "options": _options(setting.encoder)},
    }


def _options(method: Method | LayerMethod | EncoderMerge) -> Any:
    if not is_dataclass(method):
        return {}
    values = {field.name: getattr(method, field.name) for field in fields(method) if field.init}
    return json.loads(json.dumps(values, default=repr))
