"""Reducing what any module returns: for research code that is not in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.compose.base import encodes_again
from ...values.errors import ArgumentError, LftrError, UnsupportedModelError
from ...values.evidence import fields_from
from ...values.report import Report
from ..attached import Attached
from ..clock import Clock
from ..items import ReductionPlan, VisualItem, drops, fill_report
from ..layout import Layout
from ..rows import FEATURES, apply_rows, choose_rows, evidence_of
from .encoder import EncoderReader
from .evidence import ModuleEvidence
from .outputs import entries_beside, tokens_of, with_tokens
from .placeholders import Placeholders


class ModuleReduction(Attached):
    """A reduction of what one module returns, on from the start; see `Attached`.

    Laid on a module that is reduced already, it replaces that reduction until it ends.

    Attributes
    ----------
    report : Report
        What the last call did.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: ReductionPlan,
        grid: Sequence[Any] | None,
        evidence: ModuleEvidence | None,
        placeholders: object,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError.of("module", type(module).__name__, "a torch.nn.Module")
        if evidence is not None and not isinstance(evidence, ModuleEvidence):
            raise ArgumentError.of("evidence", evidence, "a lftr.ModuleEvidence")
        self.report = Report()
        self._plan = plan
        self._layout = _layout(grid)
        self._module = module
        self._evidence = evidence or ModuleEvidence()
        self._reader = _reader(plan, self._evidence, type(module).__name__)
        self._placeholders: Placeholders | None = None
        self._concatenates = placeholders == ()
        if placeholders is not None and not self._concatenates:
            others = [r._placeholders for r in module_reductions(module) if r._placeholders]
            self._placeholders = Placeholders.of(placeholders, plan.keep, others)
        self._handles: list[Any] = []
        self._begin()

    @property
    def on(self) -> bool:
        """Whether the reduction is attached to its module."""
        return bool(self._handles)

    def _attach(self) -> None:
        self._handles = [self._module.register_forward_hook(self._after)]
        if self._reader is not None:
            self._handles += self._reader.attach(self._acts)
        self._write_placeholders()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._write_placeholders()

    def _write_placeholders(self) -> None:
        """Set the number of placeholders for the reduction that acts now."""
        if self._placeholders is None:
            return
        mine = self._placeholders
        acting = [reduction._placeholders for reduction in module_reductions(self._module)[-1:]]
        kept = [one.kept for one in acting if one is not None and one.place == mine.place]
        setattr(mine.owner, mine.name, kept[0] if kept else mine.full)

    def __exit__(self, *error: object) -> None:
        """End the block, and add to an error of the caller's code that there were fewer tokens."""
        raised = error[1] if len(error) > 1 else None
        report = self.report
        if isinstance(raised, Exception) and not isinstance(raised, LftrError) and report.items:
            raised.add_note(
                f"lftr: {type(self._module).__name__} returned {report.kept} of {report.tokens} "
                "visual tokens; code that reshapes or counts all of them fails "
                "(LLaVA 1.6 with mm_patch_merge_type 'spatial'): see the recipes of "
                "lftr.reduce_module"
            )
        super().__exit__(*error)

    def __repr__(self) -> str:
        return f"<lftr.ModuleReduction {self._plan} {'on' if self.on else 'off'}>"

    def _acts(self) -> bool:
        """Whether no later reduction of the same module replaces this one."""
        return module_reductions(self._module)[-1:] == [self]

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._acts():
            return None
        self._warn_of_replaced(module_reductions(module))
        tensors = tokens_of(output)
        rows = [row for one in tensors for row in (one if one.ndim == 3 else one.unsqueeze(0))]
        if self._placeholders is not None:
            for row in rows:
                self._placeholders.check(len(row))
        clock = Clock(rows[0].device)
        items = [VisualItem(number, 0, len(row), self._layout) for number, row in enumerate(rows)]
        others: dict[str, list[Tensor]] = {}
        if drops(self._plan.keep, items):
            others = self._evidence_of(rows)
        elif self._reader is not None:
            self._reader.forget()
        choose_rows(self._plan, items, rows, self._encoder_features(args, rows), others)
        clock.lap("method")
        reduced = _regroup(apply_rows(items, rows), tensors)
        self._write(items, rows, reduced)
        self._note_others(output, tensors)
        self.report.clock = clock.readings()
        return with_tokens(output, reduced)

    def _evidence_of(self, rows: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the evidence beyond features, each field with an entry for each row."""
        fields: dict[str, list[Tensor]] = {}
        if self._evidence.text is not None:
            texts = [self._evidence.text_of(number, len(rows)) for number in range(len(rows))]
            fields["text_token_embeds"] = texts
        if self._reader is not None:
            for read in self._reader.take([len(row) for row in rows], self._layout.grid):
                for name, value in read.items():
                    fields.setdefault(name, []).append(value)
        return {
            name: [one.to(row.device) for one, row in zip(values, rows, strict=True)]
            for name, values in fields.items()
        }

    def _encoder_features(self, args: tuple[Any, ...], rows: list[Tensor]) -> Sequence[Tensor]:
        """Return the module's input, where an encoder is known and it has a row for each token."""
        features = args[0] if args else None
        if self._evidence.encoder is None or not isinstance(features, Tensor):
            return rows
        fits = features.ndim == 3 and features.shape[:2] == (len(rows), len(rows[0]))
        return list(features) if fits else rows

    def _note_others(self, output: Any, tensors: Sequence[Tensor]) -> None:
        """Say in the report what of an output of several parts was reduced, and what was not."""
        if self.report.kept == self.report.tokens:
            return
        if isinstance(output, tuple) and len(tensors) > 1:
            self.report.note(f"the module returned {len(tensors)} tensors: each was reduced alone")
        if others := entries_beside(output):
            self.report.note(
                f"the module returned {', '.join(others)} too, which were left as they are: code "
                "that takes tokens from there has all of them"
            )

    def _write(
        self, items: Sequence[VisualItem], rows: Sequence[Tensor], reduced: Sequence[Tensor]
    ) -> None:
        """Write the report, and refuse a result that the code around may take for another one."""
        report = self.report
        fill_report(self._plan, items, len(rows), max(map(len, rows)), report)
        report.received = max(one.shape[-2] for one in reduced)
        if encodes_again(self._plan.method):
            report.note(
                "the encoder was not run on a smaller image: tokens of the full image were picked"
            )
        alone = report.kept == 1 < report.tokens
        if alone and self._placeholders is None and not self._concatenates:
            raise UnsupportedModelError(
                f"one of {report.tokens} tokens is left: code that assigns tokens to placeholders "
                "(InternVL) would repeat it at each of them. Give placeholders=(model, "
                "'num_image_token'), or placeholders=() for code that concatenates embeddings"
            )


def module_reductions(module: nn.Module) -> list[ModuleReduction]:
    """Return the reductions on this module (not its parts); the active one comes last."""
    owners = (getattr(hook, "__self__", None) for hook in module._forward_hooks.values())
    return [owner for owner in owners if isinstance(owner, ModuleReduction)]


def attached_to(module: object) -> list[ModuleReduction]:
    """Return the reductions on a module and on its parts."""
    if not isinstance(module, nn.Module):
        raise ArgumentError.of("model", module, "a torch.nn.Module")
    return [reduction for part in module.modules() for reduction in module_reductions(part)]


def _reader(plan: ReductionPlan, evidence: ModuleEvidence, where: str) -> EncoderReader | None:
    """Return what reads the encoder for the method, where the method asks for that.

    Raises
    ------
    MissingEvidenceError
        If the method needs what neither the tokens nor ``evidence`` provide.
    """
    can = FEATURES | evidence.fields
    evidence_of(plan.method, can, where)
    wanted = {next(name for name in names if name in can) for names in plan.method.evidence}
    read = (wanted & evidence.fields) - fields_from("prompt")
    return EncoderReader(evidence, frozenset(read)) if read and not plan.keeps_all else None


def _layout(grid: Sequence[Any] | None) -> Layout:
    """Read one grid ``(T, H, W)``, or several."""
    if grid is None:
        return Layout()
    try:
        grids = torch.atleast_2d(torch.as_tensor(grid))
    except (TypeError, ValueError, RuntimeError):
        grids = torch.empty(0)
    whole = not (grids.is_floating_point() or grids.dtype == torch.bool)
    if not whole or grids.ndim != 2 or grids.shape[1] != 3 or not len(grids) or grids.min() < 1:
        raise ArgumentError.of("grid", grid, "(T, H, W), or several of them, of numbers from 1 up")
    return Layout(tuple((t, h, w) for t, h, w in grids.tolist()))


def _regroup(chosen: list[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the chosen tokens of every row in tensors as many, and as deep, as ``tensors``."""
    reduced, start = [], 0
    for one in tensors:
        if one.ndim == 2:
            reduced.append(chosen[start])
            start += 1
            continue
        part = chosen[start : start + len(one)]
        start += len(one)
        counts = sorted({len(row) for row in part})
        if len(counts) > 1:
            raise ArgumentError.of(
                "keep", "auto", f"one image at a time; these rows keep {counts} tokens"
            )
        reduced.append(torch.stack(part))
    return reduced
