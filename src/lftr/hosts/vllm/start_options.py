"""What a server is started with, and no request can change: how kept tokens are positioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...presets import Preset
from ...values.errors import ArgumentError
from .architectures import Architecture, architecture_of

POSITIONS = ("original", "compact")


@dataclass(frozen=True)
class StartOptions:
    """Options of a server, in the words of `lftr.reduce`.

    Parameters
    ----------
    positions : {"original", "compact"}
        Whether kept tokens stay where they were, or are renumbered.
    """

    positions: str = POSITIONS[0]

    @classmethod
    def of(cls, config: Any) -> StartOptions:
        """Read the ``lftr`` of a model's configuration; what it omits has its default.

        Raises
        ------
        ArgumentError
            If a value is not allowed, or not for this model.
        """
        values, architecture = getattr(config, "lftr", None), architecture_of(config)
        if not isinstance(values, Mapping):
            return cls()
        if "preset" in values and "positions" not in values:
            return cls.of_preset(Preset.load(values["preset"]), architecture)
        return cls.read({name: values[name] for name in NAMES if name in values}, architecture)

    @classmethod
    def read(cls, values: Mapping[str, Any], architecture: Architecture) -> StartOptions:
        """Check options by name."""
        options = cls(**values)
        allowed = allowed_positions(architecture)
        if options.positions not in allowed:
            words = " or ".join(map(repr, allowed))
            raise ArgumentError.of(
                "positions", options.positions, f"{words} for {architecture.stock}"
            )
        return options

    @classmethod
    def of_preset(cls, preset: Preset, architecture: Architecture) -> StartOptions:
        """Return those of a preset as far as the model has them; the rest have their defaults."""
        if preset.positions in allowed_positions(architecture):
            return cls(preset.positions)
        return cls()


NAMES = tuple(field.name for field in fields(StartOptions))


def allowed_positions(architecture: Architecture) -> tuple[str, ...]:
    """Return the values of ``positions``; M-RoPE has no renumbered ones."""
    return POSITIONS if architecture.counted_positions else POSITIONS[:1]
