"""Reducing what any module returns: for research code that is not in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...values.errors import ArgumentError
from ...values.report import Report
from ..attached import Attached
from ..clock import Clock
from ..items import Item, Plan, write_report
from ..layout import Layout
from ..rows import FEATURES, apply_rows, choose_rows, evidence_of


class ModuleReduction(Attached):
    """A reduction of what one module returns, on from the start; see `Attached`.

    Laid on a module that is reduced already, it replaces that reduction until it ends.

    Attributes
    ----------
    report : Report
        What the last call did.
    """

    def __init__(self, module: nn.Module, plan: Plan, grid: Sequence[Any] | None) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError.of("module", type(module).__name__, "a torch.nn.Module")
        evidence_of(plan.method, FEATURES, type(module).__name__)
        self.report = Report()
        self._plan = plan
        self._layout = _layout(grid)
        self._module = module
        self._handle: Any = None
        self._begin()

    @property
    def on(self) -> bool:
        """Whether the reduction is attached to its module."""
        return self._handle is not None

    def _attach(self) -> None:
        self._handle = self._module.register_forward_hook(self._after)

    def _detach(self) -> None:
        self._handle.remove()
        self._handle = None

    def __repr__(self) -> str:
        return f"<lftr.ModuleReduction {self._plan} {'on' if self.on else 'off'}>"

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if module_reductions(module)[-1:] != [self]:
            return None
        rows = _tokens_of(output)
        clock = Clock(rows.device)
        items = [Item(row, 0, rows.shape[1], self._layout) for row in range(len(rows))]
        choose_rows(self._plan, items, rows, rows, {})
        clock.lap("method")
        write_report(self._plan, items, len(rows), rows.shape[1], self.report)
        reduced = apply_rows(items, rows)
        self.report.received = reduced.shape[1]
        self.report.clock = clock.readings()
        return _with_tokens(output, reduced)


def module_reductions(module: nn.Module) -> list[ModuleReduction]:
    """Return the reductions on this module (not its parts); the active one comes last."""
    owners = (getattr(hook, "__self__", None) for hook in module._forward_hooks.values())
    return [owner for owner in owners if isinstance(owner, ModuleReduction)]


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


def _tokens_of(output: Any) -> Tensor:
    """Find the tokens in what a module returned."""
    found = output[0] if isinstance(output, (tuple, list)) else output
    found = getattr(found, "last_hidden_state", found)
    if not isinstance(found, Tensor) or found.ndim != 3:
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError.of("module", f"one that returns {shown}", "visual tokens (B, N, C)")
    return found


def _with_tokens(output: Any, tokens: Tensor) -> Any:
    """Put the reduced tokens where the full ones were."""
    if isinstance(output, Tensor):
        return tokens
    if isinstance(output, (tuple, list)):
        make = getattr(output, "_make", type(output))  # a named tuple takes no list
        return make([_with_tokens(output[0], tokens), *output[1:]])
    output.last_hidden_state = tokens
    return output
