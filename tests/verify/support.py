"""A processor of the zoo's own inputs, so that its models can be verified as a user's are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from PIL import Image
from zoo import FAMILIES, MIXED, ZooEntry
from zoo import Image as Seen
from zoo.base import Kind

import lftr

KINDS: dict[tuple[int, int], Kind] = {
    (320, 240): "wide",
    (240, 320): "tall",
    (256, 256): "square",
    (384, 192): "small",
}
"""The kind of zoo image that stands for a picture of a size."""


class Processor:
    """Takes pictures, clips and a question as a processor without a chat template does."""

    image_token = "<image>"
    video_token = "<video>"

    def __init__(self, entry: ZooEntry, model: Any) -> None:
        self.entry = entry
        self.model = model
        if entry in MIXED.values():
            self.video_processor = object()

    def decode(self, ids: Any, **options: Any) -> str:
        """Return words for ids, as text-guided methods with a text tower ask for them."""
        return " ".join(map(str, ids.tolist()))

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Sequence[Image.Image]] = (),
        videos: Sequence[Sequence[Sequence[Image.Image]]] = (),
        **options: Any,
    ) -> dict[str, Any]:
        rows = []
        for number, question in enumerate(text):
            shown = [Seen(KINDS[one.size], 2) for one in (images or {number: ()})[number]]
            shown += [Seen(KINDS[clip[0].size], 3) for clip in (videos or {number: ()})[number]]
            rows.append([*shown, len(question.split())])
        return self.entry.inputs(self.model, self.entry.rows(rows))


def verified(entry: ZooEntry, model: Any = None, **options: Any) -> lftr.Verification:
    """Verify a family's model, or another of its kind."""
    model = entry.model() if model is None else model
    return lftr.verify(model, Processor(entry, model), **options)


def entry_of(name: str) -> ZooEntry:
    """Return a family, with its clips where it takes some beside images."""
    return MIXED.get(f"{name}-mixed", MIXED.get(name, FAMILIES[name]))


def fresh(entry: ZooEntry) -> Any:
    """Return a copy of a family's model that a test may change."""
    return copy.deepcopy(entry.model())


def verdicts(result: lftr.Verification) -> dict[str, str]:
    """Return each check's verdict by its name."""
    return {check.name: check.verdict for check in result.checks}
