"""What tells one run from another, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...options.plain import to_plain
from ...values.budget import spell
from ...values.errors import ArgumentError
from ..asking.data import Data
from ..asking.settings import Setting
from ..asking.subject import Subject
from .runs import FORMAT


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
        If an id is that of two questions, two settings have one label, or an option cannot be
        written.
    """
    _check_ids(data)
    return {
        "format": FORMAT,
        **subject.plain(),
        "data": [one.describe() for one in data],
        "metric": metric,
        "settings": plain_settings(settings),
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


def plain_settings(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return settings with every option, as plain values.

    Raises
    ------
    ArgumentError
        If two have one label, or an option is nothing that can be written.
    """
    seen: set[str] = set()
    for setting in settings:
        if setting.label in seen:
            raise ArgumentError.of("setting", setting.label, "one of each; there are two")
        seen.add(setting.label)
    return [_plain(setting) for setting in settings]


def _plain(setting: Setting) -> dict[str, Any]:
    return {
        "label": setting.label,
        "method": setting.name,
        "options": {} if setting.full else to_plain(setting.method)["options"],
        "keep": spell(setting.keep),
        "positions": setting.positions,
        "encoder": to_plain(setting.encoder),
        "weights": setting.weights,
    }
