"""BLIP-2, InstructBLIP and its clips (the MiniGPT-4 architecture): tokens around the Q-Former.

Their ``generate`` encodes the image itself and passes embeddings to the language model. The host
therefore shortens the placeholders before the call, from sizes alone, and hooks reduce the features
during it: the projector's output (stage "llm") or the input of the Q-Former (stage "encoder"). The
Q-Former reads each frame of a clip separately, so each frame is an item.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.evidence import fields_from
from ....values.report import Report
from ...clock import Clock
from ...items import ReductionPlan, VisualItem, counts_of, fill_report
from ...layout import Layout
from ...rows import FEATURES, apply_rows, choose_rows, evidence_of
from ..api import CallArguments
from ..columns import Columns, aligned_with_prompt, pad_id, pads_left
from ..families import Family
from ..hooks import ModelHooks
from ..prompt.text_evidence import row_texts
from ..reduced_call import ReducedCall

CAN = FEATURES | fields_from("prompt")


@dataclass(frozen=True)
class _QFormerInput:
    """The data that the hooks need about the call whose images they reduce.

    Attributes
    ----------
    report : Report
        The hooks fill it.
    texts : dict of str to list of Tensor
        Evidence of each row's text.
    columns : int
        Columns of the prompt.
    frames : int
        Images of each row: the frames of its clip, or 1.
    """

    report: Report
    texts: dict[str, Any]
    columns: int
    frames: int


class _ThreadQFormerInput(threading.local):
    """What the hooks of the current thread need about its reduced call, if it is in one."""

    value: _QFormerInput | None = None


class QFormerHost:
    """Reduces one model whose visual tokens pass through a Q-Former."""

    model_hooks: ClassVar[type[ModelHooks]] = ModelHooks

    def __init__(self, model: Any, family: Family, plan: ReductionPlan) -> None:
        if plan.keep == "auto" and plan.stage == "llm":
            raise UnsupportedModelError(
                f"keep = 'auto'; {type(model).__name__} needs the number of tokens before the "
                "image is encoded: give a ratio or a count"
            )
        # text embeddings do not have the width of the encoder's states
        can = CAN if plan.stage == "llm" else FEATURES
        self.evidence = evidence_of(plan.method, can, type(model).__name__)
        self.model = model
        self.family = family
        self.plan = plan
        self._current = _ThreadQFormerInput()

    def concerns(self, call: CallArguments) -> bool:
        """Whether a call has images, or clips."""
        return self.family.present_in(call)

    def hooks(self) -> list[Any]:
        """Attach to the modules that tokens flow through."""
        if self.plan.stage == "encoder":
            return [
                self.model.qformer.register_forward_pre_hook(self._before_qformer, with_kwargs=True)
            ]
        return [self.model.language_projection.register_forward_hook(self._after_projection)]

    def reduce(self, call: CallArguments, report: Report) -> ReducedCall:
        """Return a call with as many placeholders as the hooks will keep tokens."""
        call = self._with_prompt(call)
        ids: Tensor = call.ids
        mask = torch.ones_like(ids) if call.mask is None else call.mask
        visual = self.family.placeholders(self.model, ids)
        texts = row_texts(self.model, self.plan.guidance, self.evidence, ids, mask.bool() & ~visual)
        frames = self.family.frames(call)
        self._current.value = _QFormerInput(report, texts, ids.shape[1], frames)
        if self.plan.stage == "encoder":
            return ReducedCall(call)
        name, queries = self.family.name, self._queries()
        per_row = visual.sum(dim=1)
        if set(per_row.tolist()) != {queries * frames}:
            raise ArgumentError.of(
                CallArguments.name("ids"),
                f"{per_row.tolist()} {name} placeholders",
                f"{queries * frames} in every row, for one {name} each",
            )
        assert self.plan.keep != "auto"
        kept = counts_of(self.plan.keep, [VisualItem(0, 0, queries, Layout())])[0]
        if kept == queries:
            return ReducedCall(call)
        self._check_width(frames, kept)
        keep = mask.bool() & (~visual | ((visual.cumsum(dim=1) - 1) % queries < kept))
        columns = Columns.of(keep, pads_left(mask))
        fill = pad_id(self.model.config, ids, mask, visual)
        aligned = {
            name: columns.take(value, padding)
            for name, (value, padding) in aligned_with_prompt(call).items()
        }
        shorter = call.but(ids=columns.take(ids, fill), mask=columns.real.to(mask.dtype))
        return ReducedCall(shorter | aligned)

    def end(self) -> None:
        """Forget the call of this thread."""
        self._current.value = None

    def _queries(self) -> int:
        return int(self.model.config.num_query_tokens)

    def _check_width(self, frames: int, kept: int) -> None:
        """Check that the model can concatenate the frames of a clip with this count.

        It reshapes all tokens of a clip to (queries * frames, ...) before it writes them to the
        placeholders.
        """
        width = self.model.get_input_embeddings().weight.shape[1]
        if frames > 1 and kept * width % self._queries():
            raise UnsupportedModelError(
                f"keep = {self.plan.keep} keeps {kept} of {self._queries()} tokens of a frame; "
                f"{type(self.model).__name__} takes only counts whose product with {width} is a "
                f"multiple of {self._queries()}"
            )

    def _with_prompt(self, call: CallArguments) -> CallArguments:
        """Return a call with the default prompt of the model, if it has none."""
        if call.ids is not None:
            return call
        if call.embeds is not None:
            raise ArgumentError.of(
                CallArguments.name("embeds"),
                "given",
                f"{CallArguments.name('ids')}; a prompt of embeddings cannot be reduced",
            )
        config = self.model.config
        token = getattr(config, f"{self.family.name}_token_id")
        queries = [token] * (self._queries() * self.family.frames(call))
        start = [*queries, config.text_config.bos_token_id]
        pixels = self.family.pixels_of(call)
        ids = torch.tensor([start] * len(pixels), device=pixels.device)
        return call.but(ids=ids, mask=torch.ones_like(ids))

    def _choose(
        self, current: _QFormerInput, features: Tensor, encoder: Tensor, layout: Layout, fixed: int
    ) -> Tensor:
        """Reduce ``(B, N, C)`` after ``fixed`` leading tokens that always stay; fill the report."""
        report, frames = current.report, current.frames
        clock = Clock(features.device)
        body = features[:, fixed:]
        items = [
            VisualItem(i // frames, i % frames, body.shape[1], layout, medium=self.family.name)
            for i in range(len(features))
        ]
        choose_rows(self.plan, items, body, encoder[:, fixed:], current.texts)
        clock.lap("method")
        fill_report(self.plan, items, len(items) // frames, current.columns, report)
        if fixed:
            report.note(f"the encoder's {fixed} class token stays beside the kept ones")
        report.clock = clock.readings()
        return torch.cat([features[:, :fixed], torch.stack(apply_rows(items, body))], dim=1)

    def _after_projection(
        self, module: nn.Module, args: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        current = self._current.value
        return None if current is None else self._choose(current, output, args[0], Layout(), 0)

    def _before_qformer(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        current = self._current.value
        if current is None:
            return None
        call = CallArguments(kwargs)
        states = call.queried_states
        layout = Layout.square(states.shape[1] - 1)
        reduced = self._choose(current, states, states, layout, 1)
        mask = call.queried_mask
        mask = None if mask is None else mask[:, : reduced.shape[1]]
        return args, call.but(queried_states=reduced, queried_mask=mask)
