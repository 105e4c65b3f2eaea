"""Controls that a model turns out not to be able to do: left out, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ...values.errors import UnsupportedModelError
from .settings import CONTROLS, Setting

Found = TypeVar("Found")


def but_controls(
    settings: Sequence[Setting],
    ask: Callable[[Sequence[Setting]], Iterator[Found]],
    leave_out: Callable[[str, str], None],
) -> Iterator[tuple[Setting, Found]]:
    """Yield what ``ask`` finds under each setting; a control that cannot do it is left out.

    As downsample of tiled images: whether a model cuts an image into tiles depends on the image,
    and the first may not show it.

    Parameters
    ----------
    ask : callable
        Takes settings, yields what it finds under each, in order.
    leave_out : callable
        Takes the name of a control and the reason.

    Raises
    ------
    UnsupportedModelError
        If a setting fails whose method is no control.
    """
    waiting = list(settings)
    while waiting:
        count, asked = 0, ask(waiting)
        try:
            for found in asked:
                yield waiting[count], found
                count += 1
            return
        except UnsupportedModelError as error:
            failed = waiting[count]
            if failed.name not in CONTROLS:
                raise
            leave_out(failed.name, str(error))
            waiting = [one for one in waiting[count + 1 :] if one.name != failed.name]
