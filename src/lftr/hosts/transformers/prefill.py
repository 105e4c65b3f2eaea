"""Reduction before the language model: the prompt it is given is shorter, and nothing else changes.

The images are encoded once; each item's tokens are chosen; the prompt's placeholders, masks and
positions shrink to match; the chosen features travel in ``mm_encoder_outputs``, the argument that
transformers has for them. Caches, beams, streaming and decoding then see a consistent prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...budget import Keep, resolve_all
from ...errors import ArgumentError, UnsupportedModelError
from ...evidence.text import TextTower, prompt_embeddings
from ...methods.base import Method
from ...report import ItemReport, Report
from ...selection import Selection
from ...tokens import Grid, VisualTokens
from .clock import Clock
from .encode import Encoded, choose_evidence, encode, split_arguments
from .families import Family, Layout
from .prompt import CachedPrompt, Columns, aligned, compact, pad_id, pads_left, recall
from .segment import Segment

PIXELS = ("pixel_values", "pixel_values_images")
VIDEOS = ("pixel_values_videos", "video_grid_thw")


@dataclass(frozen=True)
class Plan:
    """How to reduce: fixed while a reduction lasts.

    Attributes
    ----------
    method : Method
        Decides.
    keep : float, int or Budget
        How many stay, for each item or (a budget) for each prompt.
    positions : {"original", "compact"}
        Whether kept tokens stay where they were or are renumbered.
    text : str or sequence of str, optional
        What guides text-guided methods, one for all rows or one for each.
    decode : callable, optional
        Turns a row of prompt ids into text where ``text`` is not given.
    tower : TextTower, optional
        CLIP's text side.
    """

    method: Method
    keep: Keep
    positions: str = "original"
    text: str | Sequence[str] | None = None
    decode: Callable[[Tensor], str] | None = None
    tower: TextTower | None = None


@dataclass(frozen=True)
class Reduced:
    """A call's arguments with a shorter prompt.

    Attributes
    ----------
    kwargs : dict
        Arguments to go on with.
    prompt : CachedPrompt
        What a cache filled by this call will hold.
    """

    kwargs: dict[str, Any]
    prompt: CachedPrompt


@dataclass
class Item:
    """One visual item of a call; ``seen`` if an earlier turn's cache holds it already."""

    row: int
    number: int
    size: int
    layout: Layout
    seen: bool = False
    selection: Selection | None = None


class Prefill:
    """Reduces the arguments of ``forward`` and ``generate`` for one model."""

    def __init__(self, model: Any, family: Family, plan: Plan) -> None:
        self.model = model
        self.family = family
        self.plan = plan
        self.evidence = choose_evidence(family, model, plan.method.evidence, plan.tower is not None)

    def concerns(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call has something to reduce: images, or a cache that was filled reduced."""
        if any(kwargs.get(name) is not None for name in VIDEOS):
            raise UnsupportedModelError(
                "videos are not reduced yet, only images: pass images, or leave the reduction"
            )
        images = any(kwargs.get(name) is not None for name in PIXELS)
        return images or recall(kwargs.get("past_key_values")) is not None

    def reduce(self, kwargs: Mapping[str, Any], report: Report) -> Reduced:
        """Return ``kwargs`` with the visual tokens reduced; fills ``report``."""
        clock = Clock(self.model.device)
        segment = Segment.of(kwargs, recall(kwargs.get("past_key_values")))
        arguments, encoder_names = split_arguments(self.model, kwargs)
        visual = self.family.placeholders(self.model, segment.input_ids)
        clock.lap("host")
        items: list[Item] = []
        out = {k: v for k, v in kwargs.items() if k not in encoder_names}
        if any(name in arguments for name in PIXELS):
            encoded = encode(self.family, self.model, arguments, self.evidence)
            clock.lap("encode")
            items = self._items(encoded, arguments, segment)
            tokens = self._tokens(encoded, items, segment, visual) if self._drops(items) else []
            clock.lap("host")
            self._select(items, tokens)
            clock.lap("method")
            out["mm_encoder_outputs"] = {"image": self._features(encoded, items)}
        shorter, prompt = self._shrink(kwargs, segment, visual, items)
        out |= shorter
        clock.lap("host")
        self._fill(report, items, segment)
        report.clock = clock.readings()
        return Reduced(out, prompt)

    def _items(
        self, encoded: Encoded, arguments: Mapping[str, Any], segment: Segment
    ) -> list[Item]:
        """Cut the encoder's output into items and find each one's row."""
        features = getattr(encoded.output, self.family.features_key)
        sizes = self.family.entries(self.model, arguments, features)
        layouts = self.family.layouts(self.model, arguments, sizes)
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
        items: list[Item] = []
        row, used, number = 0, 0, 0
        for size, layout in zip(sizes, layouts, strict=True):
            while used == rows[row]:
                row, used, number = row + 1, 0, 0
            if used + size > rows[row]:
                raise ArgumentError.of(
                    "input_ids",
                    f"{rows[row]} image placeholders in row {row}",
                    f"whole images in a row; the next one has {size} tokens, {used} are taken",
                )
            items.append(Item(row, number, size, layout, seen=used < seen[row]))
            used, number = used + size, number + 1
        return items

    def _counts(self, items: Sequence[Item]) -> list[int]:
        """Return how many tokens each new item keeps, from sizes alone."""
        return [
            count
            for _, prompt in groupby(items, key=lambda item: item.row)
            for count in resolve_all(self.plan.keep, [item.size for item in prompt])
        ]

    def _drops(self, items: Sequence[Item]) -> bool:
        fresh = [item for item in items if not item.seen]
        return self._counts(fresh) != [item.size for item in fresh]

    def _select(self, items: Sequence[Item], tokens: Sequence[VisualTokens]) -> None:
        """Let the method choose; it is not asked where everything is kept."""
        fresh = [item for item in items if not item.seen]
        if not tokens:
            for item in fresh:
                item.selection = Selection.everything(item.size)
            return
        counts = []
        places = zip(fresh, self._counts(fresh), tokens, strict=True)
        for _, prompt in groupby(places, key=lambda place: place[0].row):
            members = list(prompt)
            counts += self.plan.method.allot([m[2] for m in members], [m[1] for m in members])
        for item, choice in zip(fresh, self.plan.method.select_all(tokens, counts), strict=True):
            item.selection = choice

    def _tokens(
        self, encoded: Encoded, items: Sequence[Item], segment: Segment, visual: Tensor
    ) -> list[VisualTokens]:
        """Put together what the method sees of each new item."""
        sizes = [item.size for item in items]
        features = _flat(getattr(encoded.output, self.family.features_key)).detach().split(sizes)
        maps = {name: rows.detach().split(sizes) for name, rows in encoded.maps.items()}
        texts = self._texts(segment, visual)
        found = []
        for i, item in enumerate(items):
            if item.seen:
                continue
            values: dict[str, Any] = {name: rows[i] for name, rows in maps.items()}
            if "cls_attention" in values:
                values["cls_attention"] = values["cls_attention"].T
            if "attention_received" in values:
                values["attention_received"] = values["attention_received"].squeeze(-1)
            if encoded.frames is not None:
                values["frame_features"] = encoded.frames[i : i + 1].detach()
            if "visual_projected" in self.evidence and self.plan.tower is not None:
                values["visual_projected"] = self.plan.tower.project(values["encoder_features"])
            values |= {name: rows[item.row] for name, rows in texts.items()}
            layout = item.layout
            found.append(
                VisualTokens(features[i], tiles=layout.tiles, separator=layout.separator, **values)
            )
        return found

    def _texts(self, segment: Segment, visual: Tensor) -> dict[str, list[Tensor]]:
        """Return text evidence for each row of the batch."""
        found: dict[str, list[Tensor]] = {}
        rows = len(segment.input_ids)
        words = segment.mask.bool() & ~visual
        if "text_token_embeds" in self.evidence:
            special = _special_ids(self.model)
            embed = self.model.get_input_embeddings()
            own = prompt_embeddings(embed, segment.input_ids, words, special)
            if not all(len(row) for row in own):
                raise ArgumentError.of("input_ids", "a row without text", "text to be guided by")
            found["text_token_embeds"] = [row.detach() for row in own]
        if "text_embeds" in self.evidence and self.plan.tower is not None:
            found["text_embeds"] = [
                self.plan.tower.embed(self._text(row, segment.input_ids[row][words[row]]))
                for row in range(rows)
            ]
        return found

    def _text(self, row: int, ids: Tensor) -> str:
        text = self.plan.text
        if isinstance(text, str):
            return text
        if text is not None and row < len(text):
            return text[row]
        if text is None and self.plan.decode is not None:
            return self.plan.decode(ids)
        raise ArgumentError.of(
            "text", text, "the question (one, or one for each row), or processor=... to decode it"
        )

    def _features(self, encoded: Encoded, items: Sequence[Item]) -> Any:
        """Return the encoder's output with the chosen features alone, in its own container."""
        key = self.family.features_key
        choices = [item.selection for item in items]
        if all(c is not None and c.count == i.size for c, i in zip(choices, items, strict=True)):
            return encoded.output
        sizes = [item.size for item in items]

        def reduce(values: Any) -> Any:
            parts = zip(_flat(values).split(sizes), choices, strict=True)
            rows = torch.cat([choice.apply(part) for part, choice in parts if choice is not None])
            return rows.unsqueeze(0) if isinstance(values, Tensor) else [rows]

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
    ) -> tuple[dict[str, Any], CachedPrompt]:
        """Return every argument that is aligned with the prompt, at the columns that stay."""
        keep = segment.mask.bool()
        fresh = [item for item in items if not item.seen and item.selection is not None]
        if fresh:
            marks = torch.zeros(sum(item.size for item in fresh), dtype=torch.bool)
            offset = 0
            for item in fresh:
                marks[item.selection.index.cpu() + offset] = True  # type: ignore[union-attr]
                offset += item.size
            keep = keep.masked_scatter(visual, marks.to(keep.device))
        columns = Columns.of(keep, pads_left(segment.mask))
        fill = pad_id(self.model.config, segment.input_ids, segment.mask, visual)
        out = {
            name: segment.splice(value, columns, padding)
            for name, (value, padding) in aligned(kwargs).items()
        }
        out["input_ids"] = segment.splice(segment.full_ids, columns, fill)
        real = segment.real(columns)
        out["attention_mask"] = real.to(segment.mask.dtype)
        full = segment.positions(self.model, kwargs)
        positions = segment.all_positions(columns.take(full, 0))
        following = segment.following(full)
        if self.plan.positions == "compact":
            positions = compact(real, positions)
            following = real.sum(dim=1)
        elif positions.ndim == 3 and len(positions) == 4:  # the text axis orders, it does not place
            positions = torch.cat([compact(real, positions[:1]), positions[1:]])
        out["position_ids"] = positions[..., positions.shape[-1] - out["input_ids"].shape[1] :]
        return out, segment.cached_as(columns, positions, following)

    def _fill(self, report: Report, items: Sequence[Item], segment: Segment) -> None:
        """Write down what was done."""
        report.method = repr(self.plan.method)
        report.prompt = segment.full_length
        report.received = 0
        report.notes = []
        report.items = [
            ItemReport(
                item.row,
                item.number,
                item.size,
                item.selection.count,
                item.layout.tiles or ((1, 1, item.size),),
                tuple(item.selection.index.tolist()),
                item.selection.notes,
            )
            for item in items
            if item.selection is not None
        ]
        keep = self.plan.keep
        smaller = [
            item.tokens for item in report.items if isinstance(keep, int) and keep > item.tokens
        ]
        if smaller:
            report.note(f"keep = {keep} is more than an item of {smaller[0]} tokens has: all stay")
        for item in report.items:
            for note in item.notes:
                report.note(note)
        bare = sorted(set(range(len(segment.full_ids))) - {item.row for item in items})
        if items and bare:
            report.note(f"rows without an image: {', '.join(map(str, bare))}")


def _flat(values: Any) -> Tensor:
    """Return the encoder's tokens as one ``(total, C)``, whatever their container."""
    if isinstance(values, Tensor):
        return values.reshape(-1, values.shape[-1])
    return torch.cat([value.reshape(-1, value.shape[-1]) for value in values])


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


def _special_ids(model: Any) -> list[int]:
    """Return ids of begin, end and padding, from wherever the model states them."""
    found: set[int] = set()
    for source in (
        model.config,
        getattr(model.config, "text_config", None),
        model.generation_config,
    ):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(source, name, None)
            found.update(
                value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            )
    return sorted(token for token in found if token is not None)
