"""Tiny random-weight models of the real architectures, and inputs as their processors make them.

    entry = zoo.FAMILIES["llava_next"]
    model = entry.model()                                     # shared; `entry.build()` is new
    rows = [[3, Image("wide"), 4, Image("small"), 5], [6], [2, Image("square"), 3]]
    model.generate(**entry.inputs(model, rows), max_new_tokens=4)

A family is a class with a `name` in one of the modules below. NOTES.md says what each family does
that a host must know.
"""

from __future__ import annotations

from . import (
    codes,
    encoders,
    gemma,
    gemma_kin,
    glm,
    indexed,
    inkling,
    llava,
    minicpm,
    molmo,
    mrope,
    patches,
    pixtral,
    queries,
    qwen,
    square,
    tiles,
    views,
)
from .base import (
    ABILITIES,
    KINDS,
    RELEASE,
    TEXT,
    Corner,
    Fault,
    Image,
    Row,
    Segment,
    Side,
    Traits,
    VideoEntry,
    ZooEntry,
)
from .video import Videos

MODULES = (
    *(llava, square, tiles, views, queries, encoders, pixtral, gemma, gemma_kin, codes, inkling),
    *(qwen, glm, mrope, indexed, patches, minicpm, molmo),
)

SPARSE = patches.MiniMaxM3VLSparse()
"""Wrong in plain transformers where a row is padded on its left, so no family of the matrix."""
DIFFUSION = gemma_kin.DiffusionGemma()
"""Denoises blocks of text; tests of its own."""

FAMILIES: dict[str, ZooEntry] = {
    value.name: value()
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type)
    and issubclass(value, ZooEntry)
    and value.__module__ == module.__name__
    and "name" in vars(value)
    and value not in (type(SPARSE), type(DIFFUSION))
    and value.since <= RELEASE
}
"""The families that the release of transformers at hand has."""

UNUSABLE: dict[str, Fault] = {
    "llama4": Fault(
        "Llama4ForConditionalGeneration.forward reads image_outputs of an output that has none, so "
        "every call raises",
        since=(5, 24),
        fixed=(5, 25),
    ),
    "minicpmv4_6": Fault("the tower takes all images for one size", fixed=(5, 19)),
    "minimax_m3_vl": Fault("the tower lets images see one another", fixed=(5, 23)),
}
"""What plain transformers of some releases gives no right answer to: several images, or any."""
BROKEN: dict[str, ZooEntry] = {
    name: FAMILIES.pop(name) for name, fault in UNUSABLE.items() if fault.on() and name in FAMILIES
}
"""Those families under the release at hand; `test_zoo` notices when they work again."""

FILMED = [
    entry
    for entry in FAMILIES.values()
    if isinstance(entry, VideoEntry) and entry.clips_since <= RELEASE
]
VIDEOS = {str(entry): Videos(entry) for entry in FILMED}
"""The families that take clips, shown clips alone."""
MIXED = {str(entry): Videos(entry, mixed=True) for entry in FILMED if entry.mixes}
"""The same, shown images and clips."""

__all__ = [
    "ABILITIES",
    "BROKEN",
    "DIFFUSION",
    "FAMILIES",
    "KINDS",
    "MIXED",
    "RELEASE",
    "SPARSE",
    "TEXT",
    "UNUSABLE",
    "VIDEOS",
    "Corner",
    "Fault",
    "Image",
    "Row",
    "Segment",
    "Side",
    "Traits",
    "VideoEntry",
    "Videos",
    "ZooEntry",
]
