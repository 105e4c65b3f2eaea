"""Questions about pictures and clips: what their media allow on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from ...cli.options import refuse
from ...values.errors import ArgumentError
from ..asking.items import Item


def ask_of_clips(items: Sequence[Item], model: str | None) -> bool:
    """Whether questions are about clips; of a bundled model they are all or none.

    Raises
    ------
    ArgumentError
        If no model is named and some are about clips, some about pictures.
    """
    kinds = {item.moves for item in items}
    if model is None and len(kinds) > 1:
        allowed = "a model of your own for pictures and clips together; the bundled ones know one"
        raise ArgumentError.of("--model", None, allowed)
    return True in kinds


def check_picking(items: Sequence[Item], frames: int | None, fps: float | None) -> None:
    """Refuse to pick frames where no question is about a clip in a file.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    if not any(item.moves and item.image is not None for item in items):
        refuse({"--frames": frames, "--fps": fps}, "without questions about clips in files")
