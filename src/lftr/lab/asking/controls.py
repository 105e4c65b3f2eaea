"""Controls that a model does not support are left out, and the comparison continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ...values.errors import UnsupportedModelError
from .settings import Setting, is_control

SettingResult = TypeVar("SettingResult")


def but_controls(
    settings: Sequence[Setting],
    ask: Callable[[Sequence[Setting]], Iterator[SettingResult]],
    leave_out: Callable[[str, str], None],
) -> Iterator[tuple[Setting, SettingResult]]:
    """Yield the results of ``ask`` for each setting; leave out a control that is not supported.

    Support can depend on the image: downsample fails on images that the model cuts into tiles, and
    the first image may not be one of them.

    Parameters
    ----------
    ask : callable
        Takes settings and yields a result for each, in order.
    leave_out : callable
        Takes the name of a control's setting and the reason.

    Raises
    ------
    UnsupportedModelError
        If a setting fails whose method is not a control.
    """
    waiting = list(settings)
    while waiting:
        count, answers = 0, ask(waiting)
        try:
            for answer in answers:
                yield waiting[count], answer
                count += 1
            return
        except UnsupportedModelError as error:
            failed = waiting[count]
            if not is_control(failed.name):
                raise
            leave_out(failed.name, str(error))
            waiting = [one for one in waiting[count + 1 :] if one.name != failed.name]
