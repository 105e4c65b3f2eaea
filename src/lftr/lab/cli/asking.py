"""What several commands of the lab prepare before they ask: settings, and the model to ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...cli.loading import load_model
from ...cli.options import refuse
from ...cli.parsing import parse_budgets, parse_methods
from ...methods.base import Method
from ...methods.encoder.spelling import parse_merge
from ...methods.inside import LayerMethod
from ...values.errors import ArgumentError
from ..asking.items import Item
from ..asking.settings import CONTROLS, Setting, settings_grid, with_merges, with_weights
from ..asking.subject import Subject


def parse_settings(
    method: Sequence[str],
    option: Sequence[str] | None,
    keep: Sequence[str] | None,
    tokens: Sequence[int] | None,
    encoder: Sequence[str] | None,
    positions: str | None,
    weights: str | None,
    controls: Sequence[str] = CONTROLS,
) -> tuple[Sequence[Method | LayerMethod], Sequence[Setting]]:
    """Return the methods, and their settings at each budget, with the controls.

    Raises
    ------
    ArgumentError
        If a value is wrong on any model.
    """
    methods = parse_methods(method, option or [])
    rows = settings_grid(methods, parse_budgets(keep, tokens), controls, positions)
    rows = with_merges(rows, map(parse_merge, encoder or []), methods)
    return methods, with_weights(rows, weights)


def load_subject(
    items: Sequence[Item],
    model: str | None,
    device: str | None,
    dtype: str,
    methods: Iterable[Method | LayerMethod],
    text_tower: str | None,
    max_new_tokens: int,
) -> Subject:
    """Load the model that answers questions; without a name, the bundled one for their media.

    Raises
    ------
    ArgumentError
        If no model is named and some questions are about clips, others about pictures, or as
        `load_model` raises it.
    """
    kinds = {item.moves for item in items}
    if model is None and len(kinds) > 1:
        allowed = "a model of your own for pictures and clips together; the bundled ones know one"
        raise ArgumentError.of("--model", None, allowed)
    loaded = load_model(model, device, dtype, methods, text_tower, clips=True in kinds)
    return Subject(loaded.name, loaded.model, loaded.processor, loaded.text_tower, max_new_tokens)


def check_picking(items: Sequence[Item], frames: int | None, fps: float | None) -> None:
    """Refuse ``--frames`` and ``--fps`` where no question is about a clip in a file.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    if not any(item.moves and item.image is not None for item in items):
        refuse({"--frames": frames, "--fps": fps}, "without questions about clips in files")
