"""Reports of a reduction, counted from what the language model received."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

from torch import Tensor

from .errors import UnsupportedModelError
from .selection import Selection
from .tokens import Grid


@dataclass(frozen=True)
class ItemReport:
    """One visual item of a call: its place, and its tokens before and after the reduction.

    Attributes
    ----------
    row, number : int
        Row in the batch, and number of the item in that row.
    tokens, kept : int
        Visual tokens before and after.
    grids : tuple of (T, H, W)
        The item's layout before.
    positions : tuple of int
        Raster index of every kept token's anchor.
    notes : tuple of str
        Remarks of the method: which evidence was replaced by other, which values were taken as 0.
    selection : Selection
        The decision, with the weights of merged tokens.
    separators : tuple of int
        Tokens outside of the grids (newline tokens).
    encoded : int, optional
        Number of tokens after the encoder, if tokens were merged inside it.
    medium : {"image", "video"}
        Kind of the item. Images that are treated as the frames of one clip are a video.
    """

    row: int
    number: int
    tokens: int
    kept: int
    grids: tuple[Grid, ...]
    positions: tuple[int, ...]
    notes: tuple[str, ...] = ()
    selection: Selection | None = field(default=None, repr=False, compare=False)
    separators: tuple[int, ...] = field(default=(), repr=False)
    encoded: int | None = None
    medium: str = "image"

    @classmethod
    def of(
        cls,
        row: int,
        number: int,
        grids: Sequence[Grid] | None,
        size: int,
        choice: Selection,
        separator: Tensor | None = None,
        encoded: int | None = None,
        medium: str = "image",
    ) -> ItemReport:
        """Describe what ``choice`` did to an item of ``size`` tokens."""
        apart = () if separator is None else separator.nonzero().squeeze(1).tolist()
        return cls(
            row,
            number,
            size,
            choice.count,
            tuple(grids or ((1, 1, size),)),
            tuple(choice.index.tolist()),
            choice.notes,
            choice,
            tuple(apart),
            encoded,
            medium,
        )

    @property
    def stands_for(self) -> float:
        """How many of the item's tokens the kept ones stand for, merged ones included.

        Attention counts them as many only with weights, see `Report.weights`.
        """
        return self.kept if self.selection is None else self.selection.weight.sum().item()

    @property
    def grid(self) -> Grid | None:
        """The one grid ``(T, H, W)`` of an image or a video; None for tiles."""
        return self.grids[0] if len(self.grids) == 1 else None

    @property
    def kept_by_frame(self) -> tuple[tuple[int, ...], ...]:
        """For each frame (or tile), the positions ``row * W + column`` of its kept tokens."""
        sizes = [high * wide for frames, high, wide in self.grids for _ in range(frames)]
        apart, kept = set(self.separators), set(self.positions)
        patches = (i for i in range(self.tokens) if i not in apart)
        return tuple(
            tuple(place for place, i in enumerate(islice(patches, size)) if i in kept)
            for size in sizes
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the item as plain values for JSON."""
        values = {name: value for name, value in vars(self).items() if name != "selection"}
        return values | {"stands_for": self.stands_for}


@dataclass(frozen=True)
class LayerReport:
    """The tokens of one decoder layer, over all rows of the call.

    Attributes
    ----------
    layer : int
        Its number, from 0.
    tokens : int
        Number of visual tokens that were not dropped before.
    state : {"active", "frozen", "bypassed"}
        Whether text reads them and they are updated, text reads them only, or the layer skips them.
    columns : tuple of int
        Number of cached tokens of any kind in each row, without padding.
    stands_for : float
        How many tokens those visual tokens stand for, merged ones included.
    """

    layer: int
    tokens: int
    state: str
    columns: tuple[int, ...]
    stands_for: float

    @property
    def shown(self) -> str:
        """The state, or "dropped" if no visual token is left."""
        return self.state if self.tokens else "dropped"


@dataclass
class Report:
    """What the last reduced call of a reduction did.

    Attributes
    ----------
    method : str
        The method, with the options that are not at their defaults.
    items : list of ItemReport
        Every visual item of the call.
    prompt : int
        Number of tokens of the caller's prompt.
    received : int
        Number of tokens that reached the language model's first layer; 0 if it has not run (after
        `lftr.prepare`).
    layers : list of LayerReport
        Every decoder layer, if methods decide inside the language model.
    survivors : dict of int to tuple of int
        For each row, which of the visual tokens that entered the language model are left in the
        last layer that has any.
    cache_bytes, full_cache_bytes : int
        Size of the keys and values that the call cached, and their size if every layer held the
        caller's whole prompt; 0 without such methods or without a cache.
    decoder : transformers.PretrainedConfig, optional
        Configuration of the decoder of ``layers``, from which `flops` is computed.
    encode_ms, method_ms, host_ms : float
        Time of the vision encoder, of the method, and of the rest of the reduction.
    notes : list of str
        Warnings, each once.
    weights : float
        The exponent of the slots' weights in attention; 0 where each slot counts as one token.
    """

    method: str = ""
    weights: float = 0.0
    items: list[ItemReport] = field(default_factory=list)
    prompt: int = 0
    received: int = 0
    notes: list[str] = field(default_factory=list)
    layers: list[LayerReport] = field(default_factory=list)
    survivors: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    cache_bytes: int = 0
    full_cache_bytes: int = 0
    decoder: Any = field(default=None, repr=False, compare=False)
    clock: dict[str, Callable[[], float] | float] = field(default_factory=dict, repr=False)

    def note(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def tokens(self) -> int:
        """Visual tokens before, over all items."""
        return sum(item.tokens for item in self.items)

    @property
    def kept(self) -> int:
        """Visual tokens after, over all items."""
        return sum(item.kept for item in self.items)

    @property
    def average(self) -> float:
        """Number of visual tokens that a decoder layer reads, averaged over layers, in all rows."""
        return float(sum(self.kept_by(row) for row in {item.row for item in self.items}))

    def kept_by(self, row: int) -> float:
        """Return how many visual tokens of a row a decoder layer reads, averaged over layers."""
        kept = sum(item.kept for item in self.items if item.row == row)
        if not self.layers:
            return kept
        columns = [layer.columns[row] for layer in self.layers]
        return kept - columns[0] + sum(columns) / len(columns)

    def innermost(self, item: ItemReport) -> ItemReport | None:
        """Return an item with the tokens of the last layer that has any; None if none is left."""
        if item.row not in self.survivors or item.selection is None:
            return item
        earlier = [i.kept for i in self.items if (i.row, i.number) < (item.row, item.number)]
        first = sum(earlier[len(earlier) - item.number :])
        left = [i - first for i in self.survivors[item.row] if first <= i < first + item.kept]
        if not left:
            return None
        index = item.selection.index[left]
        choice = Selection(index, notes=item.notes)
        return replace(item, kept=len(left), positions=tuple(index.tolist()), selection=choice)

    def flops(self, convention: str = "true", *, full: bool = False) -> int:
        """Return the number of operations of the call's prefill in the decoder's layers, all rows.

        Parameters
        ----------
        convention : {"fastv", "gated", "true"}
            How they are counted, see `lftr.profiling.prefill_flops`.
        full : bool
            Whether to count every layer with the caller's whole prompt.

        Raises
        ------
        UnsupportedModelError
            If no methods decided inside the language model, or the formulas do not cover it.
        """
        from .flops import prefill_flops

        if not self.layers:
            raise UnsupportedModelError("operations are counted where methods decide inside layers")
        if any(layer.shown == "frozen" for layer in self.layers) and not full:
            raise UnsupportedModelError("no formula counts layers in which tokens are frozen")
        total = 0
        for row in range(len(self.layers[0].columns)):
            columns = [layer.columns[row] for layer in self.layers]
            if full:
                removed = sum(i.tokens - i.kept for i in self.items if i.row == row)
                columns = [columns[0] + removed] * len(columns)
            total += prefill_flops(self.decoder, columns, convention)
        return total

    def _all_flops(self) -> dict[str, dict[str, int]]:
        """Return both numbers by every convention; empty if the formulas do not cover the model."""
        from .flops import CONVENTIONS

        try:
            return {
                name: {"pruned": self.flops(name), "full": self.flops(name, full=True)}
                for name in CONVENTIONS
            }
        except UnsupportedModelError:
            return {}

    def _ms(self, name: str) -> float:
        reading = self.clock.get(name, 0.0)
        return reading() if callable(reading) else reading

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle: times as numbers, since clocks are not copied."""
        return vars(self) | {"clock": {name: self._ms(name) for name in self.clock}}

    @property
    def encode_ms(self) -> float:
        """Time of the vision encoder, milliseconds."""
        return self._ms("encode")

    @property
    def method_ms(self) -> float:
        """Time of the method, milliseconds."""
        return self._ms("method")

    @property
    def host_ms(self) -> float:
        """Time of the rest of the reduction, milliseconds."""
        return self._ms("host")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "method": self.method,
            "weights": self.weights,
            "tokens": self.tokens,
            "kept": self.kept,
            "prompt": self.prompt,
            "received": self.received,
            "encode_ms": self.encode_ms,
            "method_ms": self.method_ms,
            "host_ms": self.host_ms,
            "notes": list(self.notes),
            "layers": [vars(layer) for layer in self.layers],
            "cache_bytes": self.cache_bytes,
            "full_cache_bytes": self.full_cache_bytes,
            "flops": self._all_flops(),
            "items": [item.to_dict() for item in self.items],
        }

    def __str__(self) -> str:
        if not self.items:
            return "lftr report: no visual tokens so far"
        if self.layers:
            kept, unit = f"{self.average:.1f}", "visual tokens per layer on average"
        else:
            kept, unit = f"{self.kept}", "visual tokens"
        share = self.tokens / max(self.average, 1)
        lines = [
            f"lftr report: method {self.method}, {self.tokens} -> {kept} {unit} "
            f"({share:.1f}x fewer), prompt {self.prompt} -> {self.received or '?'} columns, "
            f"method {self.method_ms:.2f} ms, host {self.host_ms:.2f} ms"
        ]
        for item in self.items:
            shape = "+".join("x".join(map(str, grid)) for grid in item.grids)
            left = "" if item.encoded is None else f" -> {item.encoded} after the encoder"
            lines.append(
                f"  row {item.row} item {item.number}: {item.medium} of {item.tokens} ({shape})"
                f"{left} -> {item.kept}{self._mass(item.kept, item.stands_for)}"
            )
        if self.layers:
            lines.append(f"  inside the language model: {self._stages()}")
        if self.full_cache_bytes:
            saved = (self.full_cache_bytes - self.cache_bytes) / 2**20
            lines.append(f"  cache: {self.cache_bytes / 2**20:.2f} MiB, {saved:.2f} MiB saved")
        for name, counted in self._all_flops().items():
            if name == "true":
                share = counted["pruned"] / counted["full"]
                lines.append(f"  decoder: {100 * share:.1f} % of the operations of a full prefill")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _mass(self, tokens: int, stands_for: float) -> str:
        """Return what is said of tokens that count as more than one in attention."""
        if not self.weights or f"{stands_for:.0f}" == f"{tokens}":
            return ""
        exponent = "" if self.weights == 1 else f" (weights={self.weights:g})"
        return f", standing for {stands_for:.0f} tokens{exponent}"

    def _stages(self) -> str:
        """Return equal adjacent layers together: "layers 0-1: 576; layers 2-6: 144 frozen"."""

        def stage(layer: LayerReport) -> str:
            state = "" if layer.state == "active" else f" {layer.state}"
            return f"{layer.tokens}{state}{self._mass(layer.tokens, layer.stands_for)}"

        lines = []
        for text, run in groupby(self.layers, key=stage):
            numbers = [layer.layer for layer in run]
            first, last = numbers[0], numbers[-1]
            place = f"layer {first}" if first == last else f"layers {first}-{last}"
            lines.append(f"{place}: {text}")
        return "; ".join(lines)
