"""Mllama: the image enters by cross-attention; its vision states are reduced, the prompt is not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.errors import UnsupportedModelError
from ....values.evidence import fields_from
from ....values.report import Report
from ....values.selection import Selection
from ...clock import Clock
from ...items import ReductionPlan, VisualItem, drops, fill_report
from ...layout import Layout
from ...rows import FEATURES, choose_rows, evidence_of
from ..api import CallArguments, Model, generation_setting
from ..families import Family
from ..hooks import ModelHooks
from ..prompt.text_evidence import row_texts
from ..reduced_call import ReducedCall

CAN = FEATURES | fields_from("prompt")
_NAME = "_lftr_vision"  # the attribute of a cache that holds which vision states are kept
_STATIC = ("static", "offloaded_static")


@dataclass(frozen=True)
class _CrossAttentionInput:
    """The data that the hook needs about the call whose images it reduces.

    Attributes
    ----------
    report : Report
        The hook fills it.
    texts : dict of str to list of Tensor
        Evidence of each row's text.
    columns : int
        Columns of the prompt.
    tiles : list of list of int, (B, images)
        Number of real (not padded) tiles of each image.
    ratios : list of list of int, (B, images)
        Number of each image's aspect ratio; 0 where a row has no such image.
    """

    report: Report
    texts: dict[str, Any]
    columns: int
    tiles: list[list[int]]
    ratios: list[list[int]]


class _ThreadCrossAttentionInput(threading.local):
    """What the hook of the current thread needs about its reduced call, if it is in one."""

    value: _CrossAttentionInput | None = None


class CrossAttentionHost:
    """Reduces the vision states that one model's cross-attention layers read.

    An item is an image with its tiles; the class token of each tile stays beside the kept patches,
    and padding tiles are removed. The kept vision states are recorded on the cache, since the masks
    over them are made again at every step.
    """

    model_hooks: ClassVar[type[ModelHooks]] = ModelHooks

    def __init__(self, model: Model, family: Family, plan: ReductionPlan) -> None:
        self.evidence = evidence_of(plan.method, CAN, type(model).__name__)
        self.model = model
        self.family = family
        self.plan = plan
        self._current = _ThreadCrossAttentionInput()

    def concerns(self, call: CallArguments) -> bool:
        """Whether a call has images."""
        return self.family.present_in(call)

    def hooks(self) -> list[Any]:
        """Attach to the language model, at every step."""
        language = self.family.language_model(self.model)
        return [language.register_forward_pre_hook(self._before, with_kwargs=True)]

    def reduce(self, call: CallArguments, report: Report) -> ReducedCall:
        """Store what the hook needs to know; the prompt is not changed."""
        if generation_setting(self.model, call, "cache_implementation") in _STATIC:
            raise UnsupportedModelError(
                "cache_implementation='static' sizes mllama's cross-attention cache for all vision "
                "tokens; use the default cache with a reduction"
            )
        ids: Tensor = call.ids
        mask = torch.ones_like(ids) if call.mask is None else call.mask
        words = mask.bool() & ~self.family.placeholders(self.model, ids)
        texts = row_texts(self.model, self.plan.guidance, self.evidence, ids, words)
        tiles = call["aspect_ratio_mask"].sum(dim=-1).tolist()  # (B, images), without padding
        ratios = call["aspect_ratio_ids"].tolist()
        self._current.value = _CrossAttentionInput(report, texts, ids.shape[1], tiles, ratios)
        return ReducedCall(call)

    def end(self) -> None:
        """Forget the call of this thread."""
        self._current.value = None

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = CallArguments(kwargs)
        states, cache, current = call.vision_states, call.cache, self._current.value
        if states is not None and current is not None:
            index, real, states = self._reduce(current, states)
            call = call.but(vision_states=states)
            if cache is not None:
                setattr(cache, _NAME, (index, real))
        else:
            index, real = getattr(cache, _NAME, (None, None))
        if index is None or real is None:
            return args, call
        return args, call.but(vision_mask=_columns(call, index, real))

    def _reduce(
        self, current: _CrossAttentionInput, states: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return kept columns ``(B, V)``, which are real, and their states ``(B, V, C)``."""
        report, tiles = current.report, current.tiles
        clock = Clock(states.device)
        most = self.model.config.vision_config.max_num_tiles
        each = states.shape[-2]
        per_image = states.reshape(-1, most, each, states.shape[-1])
        expand = len(per_image) // sum(map(len, tiles))  # beams repeat whole rows
        items, bodies = [], []
        for row, counts in enumerate(tiles):
            for number, count in enumerate(counts):
                if current.ratios[row][number] == 0:  # padding: this row has fewer images
                    continue
                image = per_image[(row * len(counts)) * expand + number]
                body = image[:count, 1:].flatten(0, 1)
                grid = Layout.square(each - 1).tiles or ((1, 1, each - 1),)
                items.append(VisualItem(row, number, len(body), Layout(grid * count)))
                bodies.append(body)
        choose_rows(self.plan, items, bodies, bodies, current.texts)
        clock.lap("method")
        fill_report(self.plan, items, len(tiles), current.columns, report)
        report.note("the class token of each tile stays beside the kept ones")
        report.clock = clock.readings()
        if not drops(self.plan.keep, items):
            return None, None, states
        return self._gather(per_image, items, tiles, expand)

    def _gather(
        self,
        per_image: Tensor,
        items: Sequence[VisualItem],
        tiles: Sequence[Sequence[int]],
        expand: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put each row's kept states together, padded to the longest row."""
        _, most, each, channels = per_image.shape
        images = len(tiles[0])
        index: list[list[int]] = [[] for _ in tiles]
        parts: list[list[Tensor]] = [[] for _ in tiles]
        for item in items:
            assert item.selection is not None
            start = item.number * most * each
            image = per_image[item.row * images * expand + item.number]
            columns, rows = _with_class_tokens(image, item.selection, item.size, each)
            index[item.row] += [start + c for c in columns]
            parts[item.row].append(rows)
        longest = max(map(len, index))
        for row in range(len(tiles)):  # a row without images attends to the states it would have
            if not index[row]:
                index[row] = list(range(min(longest, images * most * each)))
                flat = per_image[row * images * expand : row * images * expand + images]
                parts[row].append(flat.reshape(-1, channels)[: len(index[row])])
        longest = max(map(len, index))
        device = per_image.device
        columns_out = torch.zeros(len(tiles), longest, dtype=torch.int64, device=device)
        real = torch.zeros(len(tiles), longest, dtype=torch.bool, device=device)
        out = per_image.new_zeros(len(tiles), longest, channels)
        for row, (columns, pieces) in enumerate(zip(index, parts, strict=True)):
            columns_out[row, : len(columns)] = torch.tensor(columns, device=device)
            real[row, : len(columns)] = True
            out[row, : len(columns)] = torch.cat(pieces)
        repeat = [t.repeat_interleave(expand, dim=0) for t in (columns_out, real, out)]
        return repeat[0], repeat[1], repeat[2]


def _with_class_tokens(
    image: Tensor, choice: Selection, size: int, each: int
) -> tuple[list[int], Tensor]:
    """Return the columns within an image that stay, class tokens included, and their states."""
    tiles = size // (each - 1)
    body = image[:tiles, 1:].flatten(0, 1)
    place = [(t // (each - 1)) * each + 1 + t % (each - 1) for t in choice.index.tolist()]
    columns = [tile * each for tile in range(tiles)] + place
    states = torch.cat([image[:tiles, 0], choice.apply(body)])
    order = sorted(range(len(columns)), key=columns.__getitem__)
    return [columns[i] for i in order], states[order]


def _columns(call: CallArguments, index: Tensor, real: Tensor) -> Tensor:
    """Return the mask over the kept vision states, ``(B, 1, L, V)``."""
    mask = call.vision_mask
    hidden = torch.finfo(torch.float32 if mask is None else mask.dtype).min
    if mask is None:
        embeds = call.embeds
        length = (embeds if embeds is not None else call.ids).shape[1]
        dtype = torch.float32 if embeds is None else embeds.dtype
        hidden = torch.finfo(dtype).min
        shape = (len(index), 1, length, int(index.max()) + 1)
        mask = torch.zeros(shape, dtype=dtype, device=index.device)
    taken: Tensor = mask.gather(
        -1, index[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
    )
    return taken.masked_fill(~real[:, None, None, :], hidden)
