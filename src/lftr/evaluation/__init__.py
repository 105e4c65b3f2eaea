"""Comparing methods with one another, with the full model and with the controls."""

from __future__ import annotations

from .compare import Outcome, Setting, answer_all, compare, settings_of
from .timing import Times, time_settings

__all__ = [
    "Outcome",
    "Setting",
    "Times",
    "answer_all",
    "compare",
    "settings_of",
    "time_settings",
]
