"""What a server is started with, and no request can change: positions, weights, a text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...presets import Preset
from ...values.errors import ArgumentError
from ...values.positions import POSITIONS
from ...values.weights import parse_weights
from .architectures import Architecture, architecture_of

FAILURES = "LFTR_FAILURES"
"""The environment variable with the name of the file in which a server's workers count failures."""


@dataclass(frozen=True)
class StartOptions:
    """Options of a server, in the words of `lftr.reduce`.

    Parameters
    ----------
    positions : {"original", "compact"}
        Whether kept tokens stay where they were, or are renumbered.
    weights : float
        What the logarithm of a slot's number of tokens is multiplied by, in attention; 0 for none.
    text_tower : str, optional
        The CLIP (an id or a folder) whose text side methods compare with; "bundled" for the bundled
        model's. Without one, they compare with the language model's embeddings of the prompt.
    """

    positions: str = POSITIONS[0]
    weights: float = 1.0
    text_tower: str | None = None

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
        stated = {name: values[name] for name in NAMES if name in values}
        if "preset" in values:
            stated = asdict(cls.of_preset(Preset.load(values["preset"]), architecture)) | stated
        return cls.read(stated, architecture)

    @classmethod
    def read(cls, values: Mapping[str, Any], architecture: Architecture) -> StartOptions:
        """Check options by name; weights are spelled as in `lftr.reduce`."""
        weights = parse_weights(values.get("weights"))
        options = cls(**{**values, "weights": cls.weights if weights is None else weights})
        allowed = allowed_positions(architecture)
        if options.positions not in allowed:
            words = " or ".join(map(repr, allowed))
            raise ArgumentError.of(
                "positions", options.positions, f"{words} for {architecture.stock}"
            )
        if not isinstance(options.text_tower, str | None):
            raise ArgumentError.of("text_tower", options.text_tower, "the id or folder of a CLIP")
        return options

    def to_plain(self) -> dict[str, Any]:
        """Return the options as the values that `of` takes, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of_preset(cls, preset: Preset, architecture: Architecture) -> StartOptions:
        """Return those of a preset as far as the model has them; the rest have their defaults."""
        options = {"weights": preset.weights}
        if preset.positions in allowed_positions(architecture):
            options["positions"] = preset.positions
        return cls.read(options, architecture)


NAMES = tuple(field.name for field in fields(StartOptions))


def allowed_positions(architecture: Architecture) -> tuple[str, ...]:
    """Return the values of ``positions``; M-RoPE has no renumbered ones."""
    return POSITIONS if architecture.counted_positions else POSITIONS[:1]


def relied_on(config: Any) -> frozenset[str]:
    """Return what a server of a model uses of vLLM besides what every server does.

    The names are those of `lftr.hosts.vllm.api.PARAMETERS`.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's configuration.
    """
    architecture, options = architecture_of(config), StartOptions.of(config)
    original = options.positions == "original"
    uses = {
        architecture.module: True,
        "positions": original,
        "positions of one dimension": original and architecture.counted_positions,
        "weights": options.weights > 0,
    }
    return frozenset(name for name, used in uses.items() if used)
