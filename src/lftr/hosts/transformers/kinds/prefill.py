"""Reduction before the language model: it receives a shorter prompt, and nothing else changes.

Images and videos are encoded once; each item's tokens are chosen; the prompt's placeholders, masks
and positions shrink to match; the chosen features travel in ``mm_encoder_outputs``, the argument
that transformers has for them. Caches, beams, streaming and decoding then see a consistent prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....methods.base import ImageMethod
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.report import Report
from ....values.tokens import VisualTokens
from ...clock import Clock
from ...items import ReductionPlan, VisualItem, choose, drops, fill_report, fresh_of, in_order
from ..api import ALIGNED, TOKEN_TYPES, CallArguments, Model
from ..checks import check_unpacked
from ..columns import (
    CachedPrompt,
    Columns,
    aligned_with_prompt,
    compact,
    pad_id,
    pads_left,
    recall,
)
from ..encoder.encode import choose_evidence, encoder_names
from ..encoder.media_input import MediaInput, of_medium
from ..families import Family, Medium, VideoNames, list_families
from ..hooks import ModelHooks
from ..layers.text_products import text_products
from ..prompt.flash import hide_positions, reads_gaps
from ..prompt.frames import as_video
from ..prompt.logits import shorter_logits
from ..prompt.segment import PromptSegment
from ..prompt.text_evidence import row_texts
from ..reduced_call import ReducedCall


class PrefillHost:
    """Reduces the arguments of ``forward`` and ``generate`` for one model."""

    model_hooks: ClassVar[type[ModelHooks]] = ModelHooks

    def __init__(self, model: Model, family: Family, plan: ReductionPlan) -> None:
        self.model = model
        self.family = family
        self.plan = replace(plan, notes=(*plan.notes, *family.notes(model)))
        self.evidence = choose_evidence(
            family,
            model,
            plan.method.evidence,
            has_tower=plan.guidance.text_tower is not None,
            has_frames=plan.frames is not None,
        )

    def concerns(self, call: CallArguments) -> bool:
        """Whether a call has images or videos, begins a cache, or goes on with one filled here."""
        names = (*VideoNames.pixels, VideoNames.grids)
        if self.family.video is None and any(call.get(name) is not None for name in names):
            raise UnsupportedModelError(
                f"videos of {self.model.config.model_type} are not reduced, only those of "
                f"{', '.join(list_families(video=True))}; frames that are given as images, of one "
                "grid each, are, with lftr.reduce(frames=lftr.Frames())"
            )
        has_media = any(medium.present_in(call) for medium in self.family.media)
        begins = not call.past and isinstance(call.ids, Tensor) and call.encoded is None
        return has_media or begins or recall(call.cache) is not None

    def hooks(self) -> list[Any]:
        """Attach hooks that hide gaps in positions from kernels that would misread them."""
        return hide_positions(self.model, self.family)

    def end(self) -> None:
        """End a call; this host keeps no data of it."""

    def reduce(self, call: CallArguments, report: Report) -> ReducedCall:
        """Return a call with the visual tokens reduced; fills ``report``."""
        clock = Clock(self.model.device)
        if reads_gaps(self.model):  # positions are hidden from it, also where all tokens stay
            check_unpacked(call)
        segment = PromptSegment.of(call, recall(call.cache))
        inputs = [MediaInput.of(medium, self.model, call, segment) for medium in self.family.media]
        visual = torch.stack([part.visual for part in inputs]).any(dim=0)
        for part in inputs:
            if bool((part.visual & (segment.mask == 0)).any()):
                raise ArgumentError(
                    f"attention_mask hides {part.medium.name} placeholders; allowed: a mask of "
                    f"padding alone (leave the {part.medium.name} out of the prompt to hide it)"
                )
        encoded = [part for part in inputs if part.needs_encoding(segment)]
        self.family.check_together(self.model, [part.medium for part in encoded])
        clock.lap("host")
        items: list[VisualItem] = []
        outputs: dict[str, Any] = {}
        shorter = segment.prefix is not None
        self._check_weights(segment.prefix)
        if encoded:
            for part in encoded:
                part.encode(self.plan, self.evidence)
            clock.lap("encode")
            items = in_order([item for part in encoded for item in part.items(segment)])
            items = items if self.plan.frames is None else as_video(items, self.plan.frames)
            by_medium = {part.medium.name: of_medium(items, part.medium) for part in encoded}
            tokens = []
            chooses = drops(self.plan.keep, items)
            if chooses or any(item.merged is not None for item in fresh_of(items)):
                shorter = True
                _check_cache(call)
                check_unpacked(call)
                self._check_known(call)
            if chooses:
                tokens = self._tokens(encoded, items, segment, visual)
            clock.lap("host")
            choose(self.plan, items, tokens)
            clock.lap("method")
            method = self.plan.method
            for part in encoded:
                members = by_medium[part.medium.name]
                if tokens and isinstance(method, ImageMethod):
                    outputs[part.medium.name] = part.smaller(method, members)
                    clock.lap("encode")
                else:
                    outputs[part.medium.name] = part.kept(members, shorter)
        aligned, prompt, lag = self._shrink(call, segment, inputs, items)
        if shorter and self.family.positions_are_columns:
            _check_padding(self.model, aligned.mask)
        # a shorter prompt has positions, so the model needs no arguments with sizes
        leave = {name for part in inputs for name in part.medium.pixels}
        if shorter:
            leave |= encoder_names(self.family, self.model)
            leave |= {part.medium.sent for part in inputs if part.medium.sent is not None}
        out = call.without(*leave)
        out = out.but(encoded=outputs) if outputs else out
        clock.lap("host")
        starts = bool(items) or segment.prefix is None
        if starts:
            fill_report(self.plan, items, len(segment.full_ids), segment.full_length, report)
            report.clock = clock.readings()
        return ReducedCall(out | aligned if shorter else out, prompt, lag, starts, fresh_of(items))

    def _check_weights(self, prefix: CachedPrompt | None) -> None:
        """Refuse to go on with a cache whose slots had other weights."""
        now = self.plan.weights or 0.0
        if prefix is not None and prefix.exponent != now and bool(prefix.log_weight.any()):
            raise UnsupportedModelError(
                f"the cache was filled with weights={prefix.exponent:g}, and this reduction has "
                f"weights={now:g}; continue with the same weights, or without the cache"
            )

    def _check_known(self, call: CallArguments) -> None:
        """Check that the host can shorten every argument that is aligned with the prompt."""
        name = call.aligned_unknown(encoder_names(self.family, self.model))
        if name is not None:
            known = ", ".join(ALIGNED)
            raise ArgumentError.of(
                name,
                tuple(call[name].shape),
                f"of the arguments with one value per prompt column only: {known}",
            )

    def _tokens(
        self,
        encoded: Sequence[MediaInput],
        items: Sequence[VisualItem],
        segment: PromptSegment,
        visual: Tensor,
    ) -> list[VisualTokens]:
        """Return the visual tokens of each new item, with their evidence, in the prompt's order."""
        words = segment.mask.bool() & ~visual & ~_text_within_items(visual, fresh_of(items))
        texts = row_texts(self.model, self.plan.guidance, self.evidence, segment.input_ids, words)
        requested = {name: rows for name, rows in texts.items() if name in self.evidence}
        by_medium: dict[str, Iterator[VisualTokens]] = {}
        for part in encoded:
            members = of_medium(items, part.medium)
            by_medium[part.medium.name] = iter(
                part.tokens(members, self.plan, self.evidence, requested)
            )
        tokens = [(item, next(by_medium[item.medium])) for item in fresh_of(items)]
        attention = self.family.first_attention(self.model)
        if attention is None or "text_products" not in self.evidence:
            return [one for _, one in tokens]
        decoder, embeds = self.family.decoder(self.model), texts["text_token_embeds"]
        return [
            replace(
                one, text_products=text_products(decoder, attention, embeds[item.row], one.features)
            )
            for item, one in tokens
        ]

    def _shrink(
        self,
        call: CallArguments,
        segment: PromptSegment,
        inputs: Sequence[MediaInput],
        items: Sequence[VisualItem],
    ) -> tuple[CallArguments, CachedPrompt, Tensor | None]:
        """Return the arguments aligned with the prompt at the kept columns, the record and the lag.

        See `ReducedCall` for the last two.
        """
        keep = segment.mask.bool()
        visual = torch.zeros_like(keep)
        for part in inputs:
            visual = visual | part.visual
            fresh = fresh_of(of_medium(items, part.medium))
            if fresh:
                keep = keep.masked_scatter(part.visual, _marks(fresh).to(keep.device))
        log_weight = torch.zeros(keep.shape, device=keep.device)
        for part in inputs:
            fresh = fresh_of(of_medium(items, part.medium))
            if fresh:
                logs = _log_weights(fresh).to(log_weight.device)
                log_weight = log_weight.masked_scatter(part.visual, logs)
        columns = Columns.of(keep, pads_left(segment.mask))
        fill = pad_id(self.model.config, segment.input_ids, segment.mask, visual)
        out: dict[str, Any] = {
            name: segment.splice(value, columns, padding, name in TOKEN_TYPES)
            for name, (value, padding) in aligned_with_prompt(call).items()
        }
        ids = segment.splice(segment.full_ids, columns, fill)
        real = segment.real(columns)
        placing: dict[str, Any] = {}
        for part in inputs:
            placing |= _mrope_arguments(part.medium, call, segment, of_medium(items, part.medium))
            placing |= {n: call[n] for n in part.medium.settings if call.get(n) is not None}
        full = segment.positions(self.family, self.model, call, placing)
        positions = segment.all_positions(columns.take(full, 0))
        following = self.family.following(full, segment.mask.bool())
        whole = columns.real.sum(dim=1) == segment.mask.bool().sum(dim=1)
        if segment.prefix is not None:
            whole &= segment.prefix.whole.to(whole.device)
        counted = compact(real, positions)
        if self.family.counts_columns(self.model, positions):
            positions = torch.cat([counted[:1], positions[1:]])
        if self.plan.positions == "compact":  # rows that lost no token keep their positions
            positions = torch.where(whole.unsqueeze(1), positions, counted.to(positions.dtype))
            following = torch.where(whole, following, real.sum(dim=1).to(following.dtype))
        if call.logits is not None:
            held = ids.shape[1] - columns.index.shape[1]
            out[CallArguments.name("logits")] = shorter_logits(
                call.logits, columns, segment.mask, segment.start, held
            )
        shorter = CallArguments(out).but(
            ids=ids,
            mask=real.to(segment.mask.dtype),
            positions=positions[..., positions.shape[-1] - ids.shape[1] :],
        )
        lag = None if self.plan.positions == "compact" else self._lag(full, positions, segment.mask)
        log_weight = columns.take(log_weight, 0)
        prompt = segment.cached_as(
            columns, positions, following, whole, log_weight, self.plan.weights or 0.0
        )
        return shorter, prompt, lag

    def _lag(self, full: Tensor, positions: Tensor, mask: Tensor) -> Tensor | None:
        """Return how far the last position is behind the full prompt's, or None if it is not."""
        lag = full[..., -1:] - positions[..., -1:]
        if self.family.counts_columns(self.model, lag):  # this axis counts the kept columns
            lag = torch.cat([torch.zeros_like(lag[:1]), lag[1:]])
        return lag if pads_left(mask) and bool(lag.any()) else None


def _text_within_items(visual: Tensor, items: Sequence[VisualItem]) -> Tensor:
    """Return which columns lie between the first and last token of an item, bool like ``visual``.

    The text there (timestamps, numbers of frames) describes the item and is not the question.
    """
    inside = torch.zeros_like(visual)
    columns = [row.nonzero().squeeze(1).tolist() for row in visual]
    for item in items:
        members, columns[item.row] = columns[item.row][: item.size], columns[item.row][item.size :]
        inside[item.row, members[0] : members[-1] + 1] = True
    return inside


def _check_cache(call: CallArguments) -> None:
    """Check that the cache, if it is not empty, was filled by a reduction."""
    if call.past and recall(call.cache) is None:
        raise UnsupportedModelError(
            f"the cache holds {call.past} columns from a call without "
            "reduction; start the conversation inside lftr.reduce, or omit the cache"
        )


def _check_padding(model: Model, mask: Tensor) -> None:
    """Check that a reduced prompt has no padding on its left, which this model does not support."""
    if not bool(mask[:, 0].all()):
        raise UnsupportedModelError(
            f"the reduced rows have {mask.sum(dim=1).tolist()} tokens, and this "
            f"{type(model).__name__} is wrong where a row is padded on its left: reduce one prompt "
            "at a time"
        )


def _marks(items: Sequence[VisualItem]) -> Tensor:
    """Return which of the items' tokens, one item after the other, hold a slot."""
    marks = torch.zeros(sum(item.size for item in items), dtype=torch.bool)
    offset = 0
    for item in items:
        marks[item.anchors.cpu() + offset] = True
        offset += item.size
    return marks


def _log_weights(items: Sequence[VisualItem]) -> Tensor:
    """Return the logarithm of each slot's weight at its anchor, one item after the other."""
    logs = torch.zeros(sum(item.size for item in items))
    offset = 0
    for item in items:
        if item.whole is not None and not item.whole.plain:
            logs[item.anchors.cpu() + offset] = item.whole.weight.cpu().log()
        offset += item.size
    return logs


def _mrope_arguments(
    medium: Medium, call: CallArguments, segment: PromptSegment, items: Sequence[VisualItem]
) -> dict[str, Any]:
    """Return the arguments by which M-RoPE places the entries; in a later turn, the new ones."""
    placing = {name: call[name] for name in medium.placing if call.get(name) is not None}
    if segment.prefix is None:
        return placing
    entries = [item.seen for item in items for _ in range(item.entries)]
    new = [i for i, seen in enumerate(entries) if not seen]
    if not new:
        return {}
    new_ones: dict[str, Any] = {}
    for name, value in placing.items():
        rows = torch.as_tensor(value)
        more = len(rows) - len(entries)  # rows of all turns, pixels of the new items
        if more < 0 or (more and len(segment.full_ids) > 1):
            raise ArgumentError.of(
                name,
                f"{len(rows)} values",
                f"{len(entries)}, one for each of the {medium.name}s given beside it",
            )
        new_ones[name] = rows[more:][new]
    return new_ones
