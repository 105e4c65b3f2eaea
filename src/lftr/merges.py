"""Merges inside the vision encoder by name, as methods have one: ``tome:r=8``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from .methods.encoder import EncoderFolder, EncoderMerge, EncoderToMe

MERGES: Mapping[str, type[EncoderToMe] | type[EncoderFolder]] = {
    "tome": EncoderToMe,
    "folder": EncoderFolder,
}


def spell_merge(merge: EncoderMerge) -> str:
    """Write a merge as the command line takes it, with what is not at its default.

    One of the user's own is written by its class.
    """
    name = next((name for name, cls in MERGES.items() if type(merge) is cls), None)
    if name is None:
        return type(merge).__name__
    given = {one.name: (getattr(merge, one.name), one.default) for one in fields(MERGES[name])}
    changed = [f"{option}={value}" for option, (value, usual) in given.items() if value != usual]
    return f"{name}:{','.join(changed)}" if changed else name
