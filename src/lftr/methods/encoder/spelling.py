"""Merges inside the vision encoder by name and options: ``tome:r=8``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ...options.spelling import parse_options
from ...values.errors import ArgumentError
from .ficoco import EncoderFiCoCo
from .flowcut import EncoderFlowCut
from .merges import EncoderFolder, EncoderMerge, EncoderToMe

MERGES: Mapping[str, type[EncoderToMe | EncoderFolder | EncoderFlowCut | EncoderFiCoCo]] = {
    "tome": EncoderToMe,
    "folder": EncoderFolder,
    "flowcut": EncoderFlowCut,
    "ficoco": EncoderFiCoCo,
}


def spell_merge(merge: EncoderMerge) -> str:
    """Return a merge in the command line's spelling, with the options not at their defaults.

    For a merge of the user's own, the name of its class is returned.
    """
    name = next((name for name, cls in MERGES.items() if type(merge) is cls), None)
    if name is None:
        return type(merge).__name__
    values = {one.name: (getattr(merge, one.name), one.default) for one in fields(MERGES[name])}
    changed = [f"{option}={value}" for option, (value, usual) in values.items() if value != usual]
    return f"{name}:{','.join(changed)}" if changed else name


def parse_merge(text: str) -> EncoderMerge:
    """Return a merge inside the vision encoder, given as ``name`` or ``name:option=value,...``.

    Raises
    ------
    ArgumentError
        If there is none of that name, or an option is not one of it or out of its range.
    """
    name, _, rest = text.partition(":")
    if name not in MERGES:
        raise ArgumentError.unknown("encoder", name, MERGES)
    known = [field.name for field in fields(MERGES[name])]
    values = parse_options(
        MERGES[name], [one for one in rest.split(",") if one.strip()], "--encoder"
    )
    for option in values:
        if option not in known:
            raise ArgumentError.unknown(f"option of encoder {name!r}", option, known)
    return MERGES[name](**values)
