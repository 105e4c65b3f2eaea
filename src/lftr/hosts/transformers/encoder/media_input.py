"""The images, or the videos, of a call: encoded once, cut into items, reduced, passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ....methods.base import ImageMethod
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.evidence import from_rows
from ....values.selection import Selection
from ....values.tokens import Grid, VisualTokens
from ...items import ReductionPlan, VisualItem
from ...layout import Layout
from ..api import CallArguments, Model
from ..families import Medium
from ..prompt.segment import PromptSegment
from .encode import Encoded, encode, encoder_arguments


def of_medium(items: Sequence[VisualItem], medium: Medium) -> list[VisualItem]:
    """Return the items of one medium, as its encoder has them."""
    return [item for item in items if item.medium == medium.name]


@dataclass
class MediaInput:
    """The images, or the videos, of a call.

    Attributes
    ----------
    medium : Medium
        The family's images or videos.
    model : PreTrainedModel
        The model.
    visual : Tensor of bool, shape (B, L)
        The placeholders of this medium among the new columns.
    arguments : dict
        The arguments of its encoder.
    sent : Tensor of bool, optional
        Which of the encoder's tokens have a placeholder, ``(N,)``; all if None.
    """

    medium: Medium
    model: Model
    visual: Tensor
    arguments: dict[str, Any]
    sent: Tensor | None = None
    _encoded: Encoded | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, medium: Medium, model: Model, call: CallArguments, segment: PromptSegment
    ) -> MediaInput:
        """Return the input of one medium in a call."""
        present = medium.present_in(call)
        arguments = encoder_arguments(medium, model, call) if present else {}
        visual = medium.placeholders(model, segment.input_ids)
        if medium.shares_placeholder and not present:
            visual = torch.zeros_like(visual)
        sent = None if medium.sent is None else call.get(medium.sent)
        return cls(medium, model, visual, arguments, sent)

    def needs_encoding(self, segment: PromptSegment) -> bool:
        """Whether the call has items that are not in its cache.

        A chat passes the items of all turns in every turn. Without new placeholders, none is new.
        """
        return bool(self.arguments) and (segment.prefix is None or bool(self.visual.any()))

    @property
    def encoded(self) -> Encoded:
        """The encoder's output, once `encode` has run."""
        assert self._encoded is not None
        return self._encoded

    @property
    def features(self) -> Any:
        """The visual tokens that have a placeholder, in the encoder's own container."""
        return self._with_placeholder(self.medium.features(self.encoded.output))

    def encode(self, plan: ReductionPlan, evidence: frozenset[str]) -> None:
        """Run the encoder."""
        self._encoded = encode(self.medium, self.model, self.arguments, evidence, plan.encoder)

    def items(self, segment: PromptSegment) -> list[VisualItem]:
        """Cut the encoder's output into items, each with its place in the prompt."""
        medium, merged = self.medium, self.encoded.merged
        visual = medium.placeholders(self.model, segment.full_ids)
        sizes = medium.entries(self.model, self.arguments, self.features)
        if sizes is not None and merged is not None:
            sizes = [merged.total] * len(sizes)
        tokens = len(flat(self.features)) if sizes is None else sum(sizes)
        seen = visual[:, : segment.start].sum(dim=1).tolist()
        first = 0
        if tokens != int(visual.sum()):  # the caller passed only the new items
            visual, seen, first = visual[:, segment.start :], [0] * len(visual), segment.start
        rows = visual.sum(dim=1).tolist()
        if tokens != sum(rows):
            raise ArgumentError.of(
                CallArguments.name("ids"),
                f"{sum(rows)} {medium.name} placeholders",
                f"{tokens}, one for each token of the {medium.name}s",
            )
        sizes = _runs(visual) if sizes is None else sizes
        layouts = medium.layouts(self.model, self.arguments, sizes)
        views = medium.views(self.model, self.arguments, sizes)
        if medium.run_is_item or medium.tiles_apart:
            sizes, layouts = _join_tiles(
                medium, segment.full_ids[:, first:], visual, sizes, layouts
            )
            views = [len(layout.tiles or ()) for layout in layouts]
        if medium.run_is_line:
            sizes, layouts = _join_lines(visual, sizes)
            views = [1] * len(sizes)
        columns = visual.nonzero()[:, 1].tolist()
        items: list[VisualItem] = []
        row, used, total = 0, 0, 0
        for size, layout, tiles in zip(sizes, layouts, views, strict=True):
            while used == rows[row]:
                row, used = row + 1, 0
            if used + size > rows[row]:
                raise ArgumentError.of(
                    CallArguments.name("ids"),
                    f"{rows[row]} {medium.name} placeholders in row {row}",
                    f"whole {medium.name}s in a row; the next one has {size} tokens, {used} are "
                    "taken",
                )
            items.append(
                VisualItem(
                    row,
                    0,
                    size,
                    layout,
                    tiles,
                    used < seen[row],
                    None if merged is None else merged.selection.item(len(items)),
                    medium=medium.name,
                    column=first + columns[total],
                )
            )
            used, total = used + size, total + size
        return items

    def tokens(
        self,
        items: Sequence[VisualItem],
        plan: ReductionPlan,
        evidence: frozenset[str],
        texts: Mapping[str, Sequence[Tensor]],
    ) -> list[VisualTokens]:
        """Return the visual tokens of each of ``items`` that is new, with their evidence."""
        sizes = [item.encoded for item in items]
        rows = flat(self.features)
        features = self.medium.as_received(self.model, rows).detach().split(sizes)
        maps = {
            name: self._rows_with_placeholder(rows).detach().split(sizes)
            for name, rows in self.encoded.maps.items()
        }
        frames = self.encoded.frames
        frames = None if frames is None else frames.split([item.views for item in items])
        tokens = []
        for i, item in enumerate(items):
            if item.seen:
                continue
            values: dict[str, Any] = {name: from_rows(name, rows[i]) for name, rows in maps.items()}
            layout = item.layout if item.merged is None else Layout()  # merged tokens fill no grid
            if frames is not None:
                values["frame_features"] = frames[i].detach()
            elif "frame_features" in evidence:
                values["frame_features"] = frame_means(values["encoder_features"], layout)
            tower = plan.guidance.text_tower
            if "visual_projected" in evidence and tower is not None:
                values["visual_projected"] = tower.project(values["encoder_features"])
            for name in maps.keys() - evidence:  # only other fields are computed from it
                del values[name]
            values |= {name: rows[item.row] for name, rows in texts.items()}
            tokens.append(VisualTokens(features[i], **layout.fields, **values))
        return tokens

    def kept(self, items: Sequence[VisualItem], shorter: bool) -> Any:
        """Return the encoder's output with only the chosen features, in its own container.

        ``shorter`` says whether the prompt lost columns; the model is then called without `sent`.
        """
        choices = [item.selection for item in items]
        whole = all(c and c.count == i.encoded for c, i in zip(choices, items, strict=True))
        if whole and not (shorter and self.sent is not None):
            return self.encoded.output
        sizes = [item.encoded for item in items]
        added = self.medium.added(self.model)

        def reduce(values: Any) -> Any:
            parts = zip(flat(values).split(sizes), choices, strict=True)
            rows = torch.cat(
                [_slots(choice, part, added) for part, choice in parts if choice is not None]
            )
            return contained(rows, values)

        output = self.encoded.output
        planes = [reduce(self._with_placeholder(values)) for values in self.medium.planes(output)]
        return self.medium.with_planes(output, planes)

    def _with_placeholder(self, values: Any) -> Any:
        """Return the tokens that have a placeholder, in the encoder's container."""
        if self.sent is None:
            return values
        marks = self.sent.split([len(value) for value in values])
        return [value[mark.to(value.device)] for value, mark in zip(values, marks, strict=True)]

    def _rows_with_placeholder(self, rows: Tensor) -> Tensor:
        return rows if self.sent is None else rows[self.sent.to(rows.device)]

    def smaller(self, method: ImageMethod, items: Sequence[VisualItem]) -> Any:
        """Encode all items at the grid that the method asks for, and return the kept features."""
        if any(len(item.layout.tiles or ()) > 1 for item in items):
            raise UnsupportedModelError(
                f"{self.medium.name}s of {self.model.config.model_type} are cut into tiles of one "
                "size; use 'pool' instead of 'downsample'"
            )
        grids = [item.layout.grid or (1, 1, item.size) for item in items]
        counts = [item.selection.count if item.selection else 1 for item in items]
        small: list[Grid] = []  # of each entry that the encoder is given
        for item, grid, count in zip(items, grids, counts, strict=True):
            frames, high, wide = method.small_grid(grid, count)
            small += [(frames // item.entries, high, wide)] * item.entries
        outputs = iter(
            encode(self.medium, self.model, one, ()).output
            for one in self.medium.resized(self.model, self.arguments, small)
        )
        encodings = [list(islice(outputs, item.entries)) for item in items]

        def pick(values: Any, plane: int) -> Any:
            rows = []
            for item, parts, grid, count in zip(items, encodings, grids, counts, strict=True):
                if item.selection is not None:
                    whole = torch.cat([flat(self.medium.planes(part)[plane]) for part in parts])
                    rows.append(whole[method.cells(grid, count).to(self.model.device)])
            return contained(torch.cat(rows), values)

        output = self.encoded.output
        planes = [pick(values, i) for i, values in enumerate(self.medium.planes(output))]
        return self.medium.with_planes(output, planes)


def _slots(choice: Selection, rows: Tensor, added: Tensor | None) -> Tensor:
    """Return the slots of the encoder's ``rows``, to each of which the model will add ``added``.

    ``added`` is part of every token and is merged like the rest: a slot has it as often as the sum
    of its weights.
    """
    slots = choice.apply(rows)
    if added is None or choice.flow is None:
        return slots
    times = choice.apply(torch.ones(len(rows), 1, device=rows.device)) - 1
    return slots + (times * added.to(times)).to(slots)


def _runs(visual: Tensor) -> list[int]:
    """Return the length of each run of placeholders."""
    before = torch.nn.functional.pad(visual, (1, 0))[:, :-1]
    starts = (visual & ~before)[visual].nonzero().squeeze(1).tolist()
    ends = [*starts[1:], int(visual.sum())]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def _join_lines(visual: Tensor, sizes: Sequence[int]) -> tuple[list[int], list[Layout]]:
    """Join runs of placeholders that are rows of one image: equal lengths, one column apart."""
    before = torch.nn.functional.pad(visual, (1, 0))[:, :-1]
    images: list[list[int]] = []
    following = None  # where the next row of the same image would start, and its length
    for (row, column), size in zip((visual & ~before).nonzero().tolist(), sizes, strict=True):
        if (row, column, size) == following:
            images[-1].append(size)
        else:
            images.append([size])
        following = row, column + size + 1, size
    return [sum(lines) for lines in images], [
        Layout(((1, len(lines), lines[0]),)) for lines in images
    ]


def flat(values: Any) -> Tensor:
    """Return the encoder's tokens as one ``(total, C)``, whatever their container."""
    if isinstance(values, Tensor):
        return values.reshape(-1, values.shape[-1])
    return torch.cat([value.reshape(-1, value.shape[-1]) for value in values])


def contained(rows: Tensor, like: Any) -> Any:
    """Return ``(total, C)`` in a container that the model takes where it had ``like``.

    With entries of one token, SmolVLM before transformers 5.20 takes any number of them.
    """
    if not isinstance(like, Tensor):
        return [rows]
    return rows if like.ndim == 2 else rows.unsqueeze(1)


def frame_means(rows: Tensor, layout: Layout) -> Tensor:
    """Return the mean of the encoder's features of each frame or tile, ``(T, D)``."""
    patches = rows if layout.separator is None else rows[~layout.separator.to(rows.device)]
    grids = layout.tiles or ((1, 1, len(patches)),)
    sizes = [high * wide for frames, high, wide in grids for _ in range(frames)]
    return torch.stack([frame.mean(dim=0) for frame in patches.split(sizes)])


def _join_tiles(
    medium: Medium, ids: Tensor, visual: Tensor, sizes: Sequence[int], layouts: Sequence[Layout]
) -> tuple[list[int], list[Layout]]:
    """Join the tiles in one run of placeholders, or in all runs of one image, to one item."""
    starts = _image_starts(medium, ids, visual)
    joined: list[int] = []
    tiles: list[list[Grid]] = []
    offset = 0
    for size, layout in zip(sizes, layouts, strict=True):
        if offset in starts:
            joined.append(0)
            tiles.append([])
        joined[-1] += size
        tiles[-1] += layout.tiles or ((1, 1, size),)
        offset += size
    return joined, [Layout(tuple(grids)) for grids in tiles]


def _image_starts(medium: Medium, ids: Tensor, visual: Tensor) -> set[int]:
    """Return which of the placeholders, counted over the batch, begin an image.

    A run of placeholders begins an image unless it continues one: it then follows the previous run
    after few columns, and that run is not marked as the last tile of its image. The last run of a
    row always is.
    """
    edge = torch.nn.functional.pad(visual, (1, 1)).int().diff(dim=1)
    starts: set[int] = set()
    passed = 0
    for row, edges in enumerate(edge):
        begins, ends = edges.eq(1).nonzero().squeeze(1), edges.eq(-1).nonzero().squeeze(1)
        apart = (begins[1:] - ends[:-1]) > medium.tiles_apart
        if medium.marks_last_tile and len(begins):
            marks = ids[row, (begins - 1).clamp(min=0)]
            apart |= marks[:-1] == marks[-1]
        new = torch.nn.functional.pad(apart, (1, 0), value=True)[: len(begins)]
        before = passed + torch.nn.functional.pad((ends - begins).cumsum(0), (1, 0))
        starts |= set(before[:-1][new].tolist())
        passed = int(before[-1])
    return starts
