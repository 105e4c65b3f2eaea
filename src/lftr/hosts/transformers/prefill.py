"""Reduction before the language model: the prompt it is given is shorter, and nothing else changes.

The images are encoded once; each item's tokens are chosen; the prompt's placeholders, masks and
positions shrink to match; the chosen features travel in ``mm_encoder_outputs``, the argument that
transformers has for them. Caches, beams, streaming and decoding then see a consistent prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, UnsupportedModelError
from ...methods.base import ImageMethod
from ...report import Report
from ...tokens import Grid, VisualTokens
from .clock import Clock
from .encode import Encoded, choose_evidence, encode, split_arguments
from .families import Family, Layout
from .flash import hide_positions
from .plan import Item, Plan, Reduced, choose, drops, fresh_of, write_report
from .prompt import (
    TOKEN_TYPES,
    CachedPrompt,
    Columns,
    aligned_with_prompt,
    compact,
    pad_id,
    pads_left,
    recall,
)
from .segment import Segment
from .texts import row_texts

PIXELS = ("pixel_values", "pixel_values_images")
VIDEOS = ("pixel_values_videos", "video_grid_thw")


class Prefill:
    """Reduces the arguments of ``forward`` and ``generate`` for one model."""

    def __init__(self, model: Any, family: Family, plan: Plan) -> None:
        self.model = model
        self.family = family
        self.plan = plan
        self.evidence = choose_evidence(family, model, plan.method.evidence, plan.tower is not None)

    def concerns(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call has images, begins a cache, or goes on with one that was filled here."""
        if any(kwargs.get(name) is not None for name in VIDEOS):
            raise UnsupportedModelError(
                "videos are not reduced yet, only images: pass images, or leave the reduction"
            )
        images = any(kwargs.get(name) is not None for name in PIXELS)
        cache = kwargs.get("past_key_values")
        prepared = kwargs.get("mm_encoder_outputs") is not None
        begins = _empty(cache) and isinstance(kwargs.get("input_ids"), Tensor) and not prepared
        return images or begins or recall(cache) is not None

    def hooks(self) -> list[Any]:
        """Attach nothing but what keeps gaps in positions harmless."""
        return hide_positions(self.model, self.family)

    def reduce(self, kwargs: Mapping[str, Any], report: Report) -> Reduced:
        """Return ``kwargs`` with the visual tokens reduced; fills ``report``."""
        clock = Clock(self.model.device)
        segment = Segment.of(kwargs, recall(kwargs.get("past_key_values")))
        arguments, encoder_names = split_arguments(self.model, kwargs)
        visual = self.family.placeholders(self.model, segment.input_ids)
        if bool((visual & (segment.mask == 0)).any()):
            raise ArgumentError(
                "attention_mask hides image placeholders; allowed: a mask of padding alone "
                "(leave an image out of the prompt to hide it)"
            )
        clock.lap("host")
        items: list[Item] = []
        features: dict[str, Any] = {}
        shorter = segment.prefix is not None
        # a chat gives every image at every turn; without new placeholders there is none to encode
        asked = segment.prefix is None or bool(visual.any())
        if asked and any(name in arguments for name in PIXELS):
            encoded = encode(self.family, self.model, arguments, self.evidence, self.plan.encoder)
            clock.lap("encode")
            items = self._items(encoded, arguments, segment)
            tokens = []
            chooses = drops(self.plan.keep, items)
            if chooses or any(item.merged is not None for item in fresh_of(items)):
                shorter = True
                _check_cache(kwargs.get("past_key_values"))
            if chooses:
                tokens = self._tokens(encoded, items, segment, visual)
            clock.lap("host")
            choose(self.plan, items, tokens)
            clock.lap("method")
            if tokens and isinstance(self.plan.method, ImageMethod):
                output = self._small(self.plan.method, encoded, arguments, items)
                clock.lap("encode")
            else:
                output = self._features(encoded, items)
            features = {"mm_encoder_outputs": {"image": output}}
        aligned, prompt, lag = self._shrink(kwargs, segment, visual, items)
        # positions are given where the prompt shrinks, so nothing is left that reads image sizes
        leave = encoder_names if shorter else set(PIXELS)
        out = {k: v for k, v in kwargs.items() if k not in leave} | features
        clock.lap("host")
        starts = bool(items) or segment.prefix is None
        if starts:
            write_report(self.plan, items, len(segment.full_ids), segment.full_length, report)
            report.clock = clock.readings()
        return Reduced(out | aligned if shorter else out, prompt, lag, starts)

    def _items(
        self, encoded: Encoded, arguments: Mapping[str, Any], segment: Segment
    ) -> list[Item]:
        """Cut the encoder's output into items and find each one's row."""
        features = getattr(encoded.output, self.family.features_key)
        sizes = self.family.entries(self.model, arguments, features)
        merged = encoded.merged
        if merged is not None:
            sizes = [merged.total] * len(sizes)
        layouts = self.family.layouts(self.model, arguments, sizes)
        views = self.family.views(self.model, arguments, sizes)
        visual = self.family.placeholders(self.model, segment.full_ids)
        seen = visual[:, : segment.start].sum(dim=1).tolist()
        if sum(sizes) != int(visual.sum()):  # the caller gave the new images alone
            visual, seen = visual[:, segment.start :], [0] * len(visual)
        rows = visual.sum(dim=1).tolist()
        if sum(sizes) != sum(rows):
            raise ArgumentError.of(
                "input_ids",
                f"{sum(rows)} image placeholders",
                f"as many as the images have tokens, {sum(sizes)}",
            )
        if self.family.run_is_item:
            sizes, layouts = _join_runs(visual, sizes, layouts)
            views = [len(layout.tiles or ()) for layout in layouts]
        items: list[Item] = []
        row, used, number = 0, 0, 0
        for size, layout, tiles in zip(sizes, layouts, views, strict=True):
            while used == rows[row]:
                row, used, number = row + 1, 0, 0
            if used + size > rows[row]:
                raise ArgumentError.of(
                    "input_ids",
                    f"{rows[row]} image placeholders in row {row}",
                    f"whole images in a row; the next one has {size} tokens, {used} are taken",
                )
            made = None if merged is None else merged.selection.item(len(items))
            items.append(Item(row, number, size, layout, tiles, used < seen[row], made))
            used, number = used + size, number + 1
        return items

    def _tokens(
        self, encoded: Encoded, items: Sequence[Item], segment: Segment, visual: Tensor
    ) -> list[VisualTokens]:
        """Put together what the method sees of each new item."""
        sizes = [item.given for item in items]
        rows = _flat(getattr(encoded.output, self.family.features_key))
        features = self.family.as_received(self.model, rows).detach().split(sizes)
        maps = {name: rows.detach().split(sizes) for name, rows in encoded.maps.items()}
        frames = encoded.frames
        frames = None if frames is None else frames.split([item.views for item in items])
        words = segment.mask.bool() & ~visual
        texts = row_texts(self.model, self.plan, self.evidence, segment.input_ids, words)
        found = []
        for i, item in enumerate(items):
            if item.seen:
                continue
            values: dict[str, Any] = {name: rows[i] for name, rows in maps.items()}
            if "cls_attention" in values:
                values["cls_attention"] = values["cls_attention"].T
            for name in ("attention_received", "attention_received_shallow"):
                if name in values:
                    values[name] = values[name].squeeze(-1)
            if frames is not None:
                values["frame_features"] = frames[i].detach()
            if "visual_projected" in self.evidence and self.plan.tower is not None:
                values["visual_projected"] = self.plan.tower.project(values["encoder_features"])
            values |= {name: rows[item.row] for name, rows in texts.items()}
            layout = item.layout if item.merged is None else Layout()  # merged tokens fill no grid
            found.append(
                VisualTokens(features[i], tiles=layout.tiles, separator=layout.separator, **values)
            )
        return found

    def _small(
        self,
        method: ImageMethod,
        encoded: Encoded,
        arguments: Mapping[str, Any],
        items: Sequence[Item],
    ) -> Any:
        """Encode every image at the grid that the method asks for, and return what goes on."""
        if any(len(item.layout.tiles or ()) > 1 for item in items):
            raise UnsupportedModelError(
                f"images of {self.model.config.model_type} are cut into tiles of one size; "
                "use 'pool' instead of 'downsample'"
            )
        grids = [(item.layout.tiles or ((1, 1, item.size),))[0] for item in items]
        counts = [item.selection.count if item.selection else 1 for item in items]
        small = [method.small_grid(g, k) for g, k in zip(grids, counts, strict=True)]
        outputs = [
            encode(self.family, self.model, one, ()).output
            for one in self.family.resized(self.model, arguments, small)
        ]

        def pick(name: str, plane: int | None = None) -> Any:
            rows = []
            for item, output, grid, count in zip(items, outputs, grids, counts, strict=True):
                values = getattr(output, name)
                values = values if plane is None else values[plane]
                if item.selection is not None:
                    rows.append(_flat(values)[method.cells(grid, count).to(self.model.device)])
            whole = getattr(encoded.output, name)
            whole = whole if plane is None else whole[plane]
            return _contained(torch.cat(rows), whole)

        reduced = {self.family.features_key: pick(self.family.features_key)}
        planes = getattr(encoded.output, "deepstack_features", None)
        if planes is not None:
            reduced["deepstack_features"] = [
                pick("deepstack_features", i) for i in range(len(planes))
            ]
        return type(encoded.output)(**reduced)

    def _features(self, encoded: Encoded, items: Sequence[Item]) -> Any:
        """Return the encoder's output with the chosen features alone, in its own container."""
        key = self.family.features_key
        choices = [item.selection for item in items]
        if all(c is not None and c.count == i.given for c, i in zip(choices, items, strict=True)):
            return encoded.output
        sizes = [item.given for item in items]

        def reduce(values: Any) -> Any:
            parts = zip(_flat(values).split(sizes), choices, strict=True)
            rows = torch.cat([choice.apply(part) for part, choice in parts if choice is not None])
            return _contained(rows, values)

        reduced = {key: reduce(getattr(encoded.output, key))}
        planes = getattr(encoded.output, "deepstack_features", None)
        if planes is not None:
            reduced["deepstack_features"] = [reduce(plane) for plane in planes]
        return type(encoded.output)(**reduced)

    def _shrink(
        self,
        kwargs: Mapping[str, Any],
        segment: Segment,
        visual: Tensor,
        items: Sequence[Item],
    ) -> tuple[dict[str, Any], CachedPrompt, Tensor | None]:
        """Return what is aligned with the prompt, at the columns that stay; see `Reduced`."""
        keep = segment.mask.bool()
        fresh = fresh_of(items)
        if fresh:
            marks = torch.zeros(sum(item.size for item in fresh), dtype=torch.bool)
            offset = 0
            for item in fresh:
                marks[item.anchors.cpu() + offset] = True
                offset += item.size
            keep = keep.masked_scatter(visual, marks.to(keep.device))
        columns = Columns.of(keep, pads_left(segment.mask))
        fill = pad_id(self.model.config, segment.input_ids, segment.mask, visual)
        out = {
            name: segment.splice(value, columns, padding, name in TOKEN_TYPES)
            for name, (value, padding) in aligned_with_prompt(kwargs).items()
        }
        out["input_ids"] = segment.splice(segment.full_ids, columns, fill)
        real = segment.real(columns)
        out["attention_mask"] = real.to(segment.mask.dtype)
        full = segment.positions(self.model, _with_new_grids(kwargs, segment, items))
        positions = segment.all_positions(columns.take(full, 0))
        following = segment.following(full)
        if self.plan.positions == "compact":
            positions = compact(real, positions)
            following = real.sum(dim=1)
        elif positions.ndim == 3 and len(positions) == 4:  # the text axis orders, it does not place
            positions = torch.cat([compact(real, positions[:1]), positions[1:]])
        out["position_ids"] = positions[..., positions.shape[-1] - out["input_ids"].shape[1] :]
        lag = None if self.plan.positions == "compact" else _lag(full, positions, segment.mask)
        return out, segment.cached_as(columns, positions, following), lag


def _lag(full: Tensor, positions: Tensor, mask: Tensor) -> Tensor | None:
    """Return how far the last position fell behind, or nothing where it did not."""
    lag = full[..., -1:] - positions[..., -1:]
    if lag.ndim == 3 and len(lag) == 4:  # the text axis counts what there is
        lag = torch.cat([torch.zeros_like(lag[:1]), lag[1:]])
    return lag if pads_left(mask) and bool(lag.any()) else None


def _empty(cache: Any) -> bool:
    return cache is None or cache.get_seq_length() == 0


def _check_cache(cache: Any) -> None:
    """Refuse to add to what was cached by nobody knows whom."""
    if recall(cache) is None and not _empty(cache):
        raise UnsupportedModelError(
            f"past_key_values holds {cache.get_seq_length()} columns that were not cached under a "
            "reduction; start the conversation inside lftr.reduce, or without the cache"
        )


def _with_new_grids(
    kwargs: Mapping[str, Any], segment: Segment, items: Sequence[Item]
) -> dict[str, Any]:
    """Return a later turn's arguments with the grids of its new images alone."""
    grids = kwargs.get("image_grid_thw")
    if grids is None or segment.prefix is None:
        return dict(kwargs)
    new = [i for i, item in enumerate(items) if not item.seen]
    return {**kwargs, "image_grid_thw": grids[new] if new else None}


def _flat(values: Any) -> Tensor:
    """Return the encoder's tokens as one ``(total, C)``, whatever their container."""
    if isinstance(values, Tensor):
        return values.reshape(-1, values.shape[-1])
    return torch.cat([value.reshape(-1, value.shape[-1]) for value in values])


def _contained(rows: Tensor, like: Any) -> Any:
    """Return ``(total, C)`` in a container that the model takes where it had ``like``.

    Entries of one token each are what SmolVLM before transformers 5.20 takes in any number.
    """
    return rows.unsqueeze(1) if isinstance(like, Tensor) else [rows]


def _join_runs(
    visual: Tensor, sizes: Sequence[int], layouts: Sequence[Layout]
) -> tuple[list[int], list[Layout]]:
    """Join the tiles that stand in one run of placeholders into one item."""
    before = torch.nn.functional.pad(visual, (1, 0))[:, :-1]
    starts = (visual & ~before)[visual].nonzero().squeeze(1).tolist()  # first token of each run
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
