"""What every host shares: the plan of a reduction, the items of a call, and their selections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from ..decoding.only import ONLY
from ..evidence.guidance import Guidance
from ..methods.base import Method, check_choice
from ..methods.encoder.merges import EncoderMerge
from ..methods.inside import LayerMethod
from ..methods.operations.composing import after, stacked
from ..methods.undeclared import call_declared
from ..values.autocast import without_autocast
from ..values.budget import Keep, resolve_all, stated
from ..values.errors import LftrError
from ..values.frames import Frames
from ..values.places import Places, grid_coordinates
from ..values.report import ItemReport, Report
from ..values.selection import Selection
from ..values.tokens import VisualTokens
from .layout import Layout

_A = {"image": "an image", "video": "a video"}


@dataclass(frozen=True)
class ReductionPlan:
    """How to reduce; the same for all calls of a reduction.

    Attributes
    ----------
    method : Method
        Chooses the tokens.
    keep : float, int, Budget or "auto"
        How many stay, for each item or (a budget) for each prompt; "auto" is the method's number.
    positions : {"original", "compact"}
        Whether kept tokens stay where they were or are renumbered.
    stage : {"llm", "encoder"}
        Whether the language model's visual tokens are reduced, or those that a Q-Former reads.
    guidance : Guidance
        The text for text-guided methods.
    inside : tuple of LayerMethod
        The methods inside the language model.
    notes : tuple of str
        Warnings that belong into every report.
    encoder : EncoderMerge, optional
        The merges inside the vision encoder.
    frames : Frames, optional
        Which images are the frames of clips.
    weights : float, optional
        The exponent of the slots' weights in attention; None for the default, see
        `layers.slot_weights.with_weights`, which makes it a number.
    unweighted : str
        Where attention takes a slot for one token, and why; for reports of methods that merge.
    decoding : ONLY, optional
        Corrects the logits of each next token.
    """

    method: Method
    keep: Keep | Literal["auto"]
    positions: str = "original"
    stage: str = "llm"
    guidance: Guidance = field(default_factory=Guidance)
    inside: tuple[LayerMethod, ...] = ()
    notes: tuple[str, ...] = ()
    encoder: EncoderMerge | None = None
    frames: Frames | None = None
    weights: float | None = None
    unweighted: str = ""
    decoding: ONLY | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether the ratio is 1.0, which the count 1 equals as a number."""
        return isinstance(self.keep, float) and self.keep == 1.0

    @property
    def label(self) -> str:
        """The methods, with the options that are not at their defaults."""
        others = [] if self.encoder is None else [str(self.encoder)]
        before = [] if self.keeps_all and (self.inside or others) else [str(self.method)]
        return " + ".join([*others, *before, *map(str, self.inside)])

    def __str__(self) -> str:
        decoding = "" if self.decoding is None else f" with {self.decoding}"
        return f"{self.label} {stated(self.keep)}{decoding}"


@dataclass
class VisualItem:
    """One visual item of a call.

    Attributes
    ----------
    row, number : int
        Its row, and which item of the row it is.
    size : int
        Tokens that it has in the prompt.
    layout : Layout
        How they lie.
    views : int
        Number of views that the encoder received: tiles, frames.
    seen : bool
        Whether a cache holds it.
    merged : Selection, optional
        The merges inside the encoder, if there were any.
    selection : Selection, optional
        The decision about the tokens of the encoder's output.
    medium : {"image", "video"}
        The kind of input that the encoder received; see `kind`.
    column : int
        Where it begins in its row.
    entries : int
        Number of the encoder's images or videos that it consists of.
    framed : bool
        Whether the caller declared it part of a clip, even of one frame.
    """

    row: int
    number: int
    size: int
    layout: Layout
    views: int = 1
    seen: bool = False
    merged: Selection | None = None
    selection: Selection | None = None
    medium: str = "image"
    column: int = 0
    entries: int = 1
    framed: bool = False

    @property
    def kind(self) -> str:
        """The kind that the method sees: "video" also if its frames were passed as images."""
        grid = self.layout.grid
        moves = self.framed or (grid is not None and grid[0] > 1)
        return "video" if moves else self.medium

    @property
    def encoded(self) -> int:
        """Number of tokens in the encoder's output."""
        return self.size if self.merged is None else self.merged.count

    @property
    def anchors(self) -> Tensor:
        """Which of the ``size`` tokens hold a slot, once that is decided."""
        assert self.selection is not None
        index = self.selection.index
        if self.merged is None:
            return index
        return self.merged.index[index.to(self.merged.index.device)]

    @property
    def whole(self) -> Selection | None:
        """The decision about all ``size`` tokens, merges in the encoder included."""
        if self.selection is None or self.merged is None:
            return self.selection
        return after(stacked([self.merged]), stacked([self.selection])).item(0)


def in_order(items: Sequence[VisualItem]) -> list[VisualItem]:
    """Return items of several media as they stand in the prompts, numbered within each."""
    rows = groupby(sorted(items, key=lambda item: (item.row, item.column)), lambda item: item.row)
    return [replace(item, number=i) for _, row in rows for i, item in enumerate(row)]


def counts_of(keep: Keep, items: Sequence[VisualItem]) -> list[int]:
    """Return how many tokens each item keeps, from sizes alone; a budget is for a row's items."""
    counts = [
        count
        for _, prompt in groupby(items, key=lambda item: item.row)
        for count in resolve_all(keep, [item.size for item in prompt])
    ]
    return [min(count, item.encoded) for count, item in zip(counts, items, strict=True)]


def fresh_of(items: Sequence[VisualItem]) -> list[VisualItem]:
    """Return the items that no earlier turn has seen."""
    return [item for item in items if not item.seen]


def places_of(items: Sequence[VisualItem]) -> Places:
    """Return where the kept tokens of a row's items lie, one item after the other."""
    blocks: list[tuple[int, int]] = []
    parts = []
    for item in items:
        separator = item.layout.separator
        patches = item.size if separator is None else int((~separator).sum())
        grids = item.layout.tiles or ((1, 1, patches),)
        places = grid_coordinates(grids) + torch.tensor([len(blocks), 0, 0])
        if separator is not None:
            layout = torch.full((item.size, 3), -1)
            layout[~separator.cpu()] = places
            places = layout
        blocks += [(rows, columns) for frames, rows, columns in grids for _ in range(frames)]
        parts.append(places[item.anchors.cpu()])
    return Places(tuple(blocks), torch.cat(parts))


def drops(keep: Keep | Literal["auto"], items: Sequence[VisualItem]) -> bool:
    """Whether any item can lose a token of the encoder's output."""
    fresh = fresh_of(items)
    if keep == "auto":
        return bool(fresh)
    return counts_of(keep, fresh) != [item.encoded for item in fresh]


def choose(
    plan: ReductionPlan, items: Sequence[VisualItem], tokens: Sequence[VisualTokens]
) -> None:
    """Let the method choose for every fresh item; without ``tokens``, everything stays."""
    fresh = fresh_of(items)
    if not tokens:
        for item in fresh:
            item.selection = Selection.everything(item.encoded)
        return
    with without_autocast(tokens[0].features):
        counts = _allot_counts(plan, fresh, tokens)
        choices = plan.method.select_all(tokens, counts)
    for item, choice, count in zip(fresh, choices, counts, strict=True):
        _check(plan.method, choice, count, item.encoded)
        item.selection = choice


def _allot_counts(
    plan: ReductionPlan, items: Sequence[VisualItem], tokens: Sequence[VisualTokens]
) -> list[int]:
    """Return how many tokens each item keeps, after the method spread each prompt's total."""
    if plan.keep == "auto":
        wanted = [plan.method.count(one, "auto") for one in tokens]
    else:
        wanted = counts_of(plan.keep, items)
    counts: list[int] = []
    places = zip(items, wanted, tokens, strict=True)
    for _, prompt in groupby(places, key=lambda place: place[0].row):
        members = list(prompt)
        counts += call_declared(
            plan.method, plan.method.allot, [m[2] for m in members], [m[1] for m in members]
        )
    return counts


def _check(method: Method, choice: Selection, count: int, size: int) -> None:
    """Check the selection that a method returned."""
    check_choice(method, "select", choice)
    last = int(choice.index.max())
    if choice.batched or choice.count != count or last >= size:
        raise LftrError(
            f"{type(method).__name__}.select returned slots of shape {tuple(choice.index.shape)}, "
            f"the last at token {last}, where {count} of {size} tokens have to stay"
        )


def fill_report(
    plan: ReductionPlan, items: Sequence[VisualItem], rows: int, prompt: int, report: Report
) -> None:
    """Fill the report of a call of ``rows`` rows and ``prompt`` columns, anew but for its clock.

    What methods do inside the language model is added once they have done it.
    """
    report.method = plan.label
    report.weights = plan.weights or 0.0
    report.prompt = prompt
    report.notes = list(plan.notes)
    report.layers, report.survivors = [], {}
    report.cache_bytes = report.full_cache_bytes = 0
    report.items = [
        ItemReport.of(
            item.row,
            item.number,
            item.layout.tiles,
            item.size,
            whole,
            item.layout.separator,
            None if item.merged is None else item.encoded,
            item.kind,
        )
        for item in items
        if (whole := item.whole) is not None
    ]
    for item in report.items:
        if isinstance(plan.keep, int) and plan.keep > item.tokens:
            report.note(
                f"{stated(plan.keep)} is more than {_A[item.medium]} of {item.tokens} tokens has: "
                "all stay"
            )
        for note in item.notes:
            report.note(note)
    if plan.unweighted and any(item.stands_for != item.kept for item in report.items):
        report.note(plan.unweighted)
    if plan.frames is not None and not plan.frames.counts and _joins_no_images(items):
        report.note(
            "frames joined no images: frames of a clip follow each other and have one grid each, "
            "the same; images that are cut into tiles have several"
        )
    bare = sorted(set(range(rows)) - {item.row for item in items})
    if items and bare:
        report.note(f"rows without visual tokens: {', '.join(map(str, bare))}")


def _joins_no_images(items: Sequence[VisualItem]) -> bool:
    """Whether rows have several images, and every image is an item of its own."""
    images = [item for item in items if item.medium == "image"]
    several = len({item.row for item in images}) < len(images)
    return several and all(item.entries == 1 for item in images)
