"""One forward through the decoder layers: which columns each layer works on and caches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ....evidence.attention import attention_modules, attention_not_recorded
from ....methods.inside.base import Heads, Passage
from ....values.errors import LftrError, UnsupportedModelError
from ....values.report import LayerReport, Report
from ...items import VisualItem
from ..api import Cache, CallArguments, versions
from ..cache_record import CachedColumns, attach_columns, cache_sizes, layer_sizes
from .heads import Capture, chooses_keys, no_rotation, start_layer
from .layer_arguments import LayerArguments
from .layer_decisions import Decisions, PromptRow
from .live_columns import LiveColumns
from .masks import layer_mask, local_mask
from .passages import Passages

if TYPE_CHECKING:
    from .host import LayerHost


class LayerPass:
    """The columns of one forward of the language model, layer by layer.

    Parameters
    ----------
    visual : Tensor of bool, shape (B, L)
        Columns of this call that are visual tokens.
    known : Tensor of bool, shape (B, past + L)
        Columns of the whole conversation that are not padding.
    log_weight : Tensor of float32, shape (B, past + L)
        The logarithms of how many tokens these columns stand for, before any layer.
    items : sequence of sequence of VisualItem
        The images and videos of each row, where it is known how their tokens lie.
    past : int
        Number of columns before this call.
    cached : CachedColumns, optional
        Which of those the cache's layers hold; None if all.
    end : int, optional
        Number of columns of this call that belong to the prompt; later ones are candidates of
        assisted decoding.
    decisions : dict, optional
        Decisions of an earlier forward on the same prompt, to be repeated; an empty one is filled.
    """

    def __init__(
        self,
        host: LayerHost,
        visual: Tensor,
        known: Tensor,
        log_weight: Tensor,
        items: Sequence[Sequence[VisualItem]],
        past: int,
        cached: CachedColumns | None,
        end: int | None,
        decisions: Decisions | None,
    ) -> None:
        self.host = host
        self.known = known
        valid = known[:, past:]
        self.live = LiveColumns(visual & valid, valid)
        self.past = past
        self.cached = cached
        self.end = visual.shape[1] if end is None or end <= 0 else min(end, visual.shape[1])
        self.decisions = {} if decisions is None else decisions
        self.repeats = bool(decisions)
        self.arguments = LayerArguments(self.live.everything, past, cached, host.depth)
        self.cache: Cache | None = None
        self.columns: list[Tensor | None] = [None] * host.depth  # that each layer caches; None: all
        self.keys: dict[int, Tensor] = {}  # the columns behind the keys of each layer
        self.weight = log_weight[:, past:].exp()  # how many tokens the call's columns stand for
        self.weights: dict[int, Tensor] = {}  # the same in each layer, once a method changed it
        self._weighed = False
        self._log_weight = log_weight
        self._log_weights: dict[int, Tensor] = {}
        self.captures: dict[int, Capture] = {}
        self.passages: defaultdict[int, dict[str, Passages]] = defaultdict(dict)
        self.entered: dict[int, tuple[Tensor, tuple[Any, ...], CallArguments]] = {}
        self.prompts = [
            PromptRow(row, host.methods, columns, valid[row], items[row], host.depth, host.first)
            for row, columns in self.live.survivors.items()
        ]
        self._entries = {i - 1 for prompt in self.prompts for i in prompt.layers_read("unrotated")}
        self.counts: list[int] = []  # visual tokens left in each layer so far
        self.masses: list[Tensor] = []  # how many tokens those stand for
        self.left = False  # whether the last layer has run

    def read_in_passing(self) -> list[int]:
        """Return the layers whose queries and keys have to be read while they run."""
        return sorted({i - 1 for p in self.prompts for i in p.layers_read("previous") if i > 0})

    def enter(
        self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with which layer ``number`` is called."""
        call = CallArguments(kwargs)
        states = args[0] if args else call.states
        rest = args[1:]
        call = call.without(CallArguments.name("states"))
        self.cache = call.cache
        states = self._decide(number, layer, self.live.move(states, self.live.alive), rest, call)
        if self._weighed:
            self.weights[number] = self.weight
        self.counts.append(self.live.left)
        if self.prompts:
            self.masses.append(self.live.total(self.weight))
        state = self.host.states[number] if self.live.left else "active"
        states = self.live.move(states, self.live.alive)
        if number in self._entries:
            self.entered[number] = states, rest, call
        new = self.live.alive
        if state != "active":
            text, _, both = self.live.split()
            new = both if state == "frozen" else text
        keys = self.keys[number] = self._keys(number, new)  # counted before the cache grows
        if state == "frozen":
            states = self.live.move(states, self.live.split()[1])
            call = self._freeze(number, layer, states, rest, call)
        if state != "active":
            states = self.live.move(states, self.live.split()[0])
        if new is not self.live.everything:
            self.columns[number] = self.arguments.in_conversation(new)
        out = self._call_at_live_columns(call)
        if number in self.captures:
            self.captures[number].columns = keys
        out = out.but(mask=self._mask(number, call.mask, keys, new))
        return (states, *(self._at_live_columns(value) for value in rest)), out

    def passed(self, number: int, part: str, passages: Passages) -> None:
        """Keep what went through a part of layer ``number``, if a method will look at it."""
        if any(prompt.follows(number + 1) for prompt in self.prompts):
            self.passages[number][part] = passages

    def check_end(self) -> None:
        """Check that the hooks of every layer ran, and that of the last layer's end.

        Raises
        ------
        LftrError
            If not, for example because a compiled graph calls layers without their hooks.
        """
        if not self.left or len(self.counts) != self.host.depth:
            raise LftrError(
                f"the language model ran {len(self.counts)} of {self.host.depth} layers with "
                "lftr's hooks, so no tokens were dropped in the others; if the model was compiled "
                f"(torch.compile), start the reduction before its first call; {versions()}"
            )

    def leave(self, states: Tensor, report: Report) -> Tensor:
        """Return the last layer's output with all columns, and attach the record to the cache."""
        self.left = True
        whole = self.live.move(states, self.live.everything)
        if self.cache is not None and (self.cached is not None or self._shorter()):
            attach_columns(self.cache, self._record())
        if self.prompts and not self.repeats:
            self._write_report(report)
        return whole

    def _shorter(self) -> bool:
        return any(columns is not None for columns in self.columns)

    def _decide(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: CallArguments,
    ) -> Tensor:
        """Let the methods decide; return the states with merged tokens, and update ``alive``."""
        deciding = [prompt for prompt in self.prompts if prompt.decides(number)]
        if not deciding:
            return states
        previous = self.captures.pop(number - 1, None)
        passages = self.passages.pop(number - 1, {})
        reads = set().union(*(prompt.reads(number) for prompt in deciding))
        started: dict[str, dict[int, Heads]] = {}
        for name in ("own", "own text"):
            if name in reads:
                started[name] = self._start(number, layer, states, rest, call, name == "own text")
        if "unrotated" in reads:
            started["unrotated"] = self._unrotated_heads(number - 1, *self.entered.pop(number - 1))
        lost: dict[int, Tensor] = {}
        merged: list[tuple[int, Tensor, Tensor]] = []
        for prompt in deciding:
            row = prompt.row
            places = self._real(row).nonzero().squeeze(1)
            columns = self.live.alive[row, places]
            heads = {name: by_row[row] for name, by_row in started.items()}
            if previous is not None:
                heads["previous"] = self._heads(number - 1, previous, row)
            device = states.device
            decision = prompt.decide(
                number,
                states[row, places.to(device)],
                self.live.visual[row, columns].to(device),
                self.weight[row, columns].to(device),
                {name: one.to(device) for name, one in heads.items()},
                self.host.norm,
                self._rotary(row, columns, call.rotary),
                columns.to(device),
                self._passages(number - 1, passages, row, places)
                if prompt.follows(number)
                else None,
                self.decisions,
            )
            if decision is None:
                continue
            lost[row] = columns[decision.dropped.to(columns.device)]
            if decision.weight is not None:
                self.weight = self.weight.clone()
                self.weight[row, columns] = decision.weight.to(self.weight)
                self._weighed = True
            if decision.changed is not None:
                merged.append((row, places, decision.changed))
        if merged:
            states = states.clone()
            for row, places, changed in merged:
                states[row, places.to(states.device)] = changed.to(states.dtype)
        if lost:
            self.live.drop(lost)
        return states

    @property
    def weighs(self) -> bool:
        """Whether columns may stand for several tokens in some layer, now or in what is cached."""
        earlier = [] if self.cached is None else self.cached.log_weights
        return self.host.merges or any(logs is not None for logs in earlier)

    def log_weight(self, number: int) -> Tensor | None:
        """Return the logarithms of how many tokens the conversation's columns stand for.

        Returns
        -------
        Tensor of float32, shape (B, past + L), optional
            In layer ``number``; None if no method inside the language model changed them.
        """
        old = None if self.cached is None else self.cached.log_weights[number]
        new = self.weights.get(number)
        if old is None and new is None:
            return None
        if number not in self._log_weights:
            whole = self._log_weight.clone()
            if old is not None:
                old = old[:, : self.past].to(whole)
                whole[:, : old.shape[1]] = old
            if new is not None:
                whole[:, self.past :] = new.log()
            self._log_weights[number] = whole
        return self._log_weights[number]

    def _rotary(self, row: int, columns: Tensor, rotary: Any) -> tuple[Tensor, Tensor] | None:
        """Return the cosines and sines of a row's columns; None if the model passes none."""
        if not isinstance(rotary, tuple) or len(rotary) != 2 or rotary[0].ndim != 3:
            return None
        cosine, sine = (one[min(row, len(one) - 1), columns.to(one.device)] for one in rotary)
        return cosine, sine

    def _real(self, row: int) -> Tensor:
        """Return which of a row's ``alive`` columns are tokens of the prompt, bool ``(R,)``."""
        columns = self.live.alive[row]
        return (columns >= 0) & (columns < self.end) & self.live.valid[row, columns.clamp(min=0)]

    def _call_at_live_columns(self, call: CallArguments) -> CallArguments:
        return CallArguments({name: self._at_live_columns(value) for name, value in call.items()})

    def _at_live_columns(self, value: Any) -> Any:
        """Return an argument of a layer at the columns that it works on."""
        return self.arguments.at(value, self.live.current)

    def _keys(self, number: int, new: Tensor) -> Tensor:
        return self.arguments.keys(number, new, self.cache if self.host.attends[number] else None)

    def _mask(self, number: int, full: Any, keys: Tensor, new: Tensor) -> Any:
        if not self.host.attends[number]:
            whole = self.live.current is self.live.everything
            return full if whole else local_mask(full, self.live.current)
        if new is self.live.everything and self.cached is None:
            return full
        return self.arguments.mask(full, self.live.current, keys, self.host.flat)

    # ---- reading, freezing -------------------------------------------------------------------

    def _start(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: CallArguments,
        whole_text: bool,
    ) -> dict[int, Heads]:
        """Return the last queries and all keys of a layer that has not run yet, by row.

        The queries are those of the last token, or of all tokens from the first text after an image
        on.
        """
        without_cache = call.but(cache=None, caching=False, mask=None)
        alive = self.live.alive
        asking = self._asking_rows(whole_text)
        place = _pad_rows(asking, len(alive), alive.device)

        full = call.mask
        masked = isinstance(full, Tensor) and full.ndim == 4
        choosing = masked and chooses_keys(layer)
        here = {name: self._at_live_columns(value) for name, value in without_cache.items()}
        if choosing:
            if self.past:
                raise UnsupportedModelError(
                    f"layer {number} chooses the keys that it attends to (sparse attention), and "
                    "its choice among cached keys cannot be read before the layer runs; use a "
                    "method that reads the previous layer"
                )
            # the layer chooses among the keys that this mask shows, and masks the others itself
            visible = self.arguments.in_conversation(alive)
            here[CallArguments.name("mask")] = layer_mask(full, visible, visible, 0, flat=False)
        rest = tuple(map(self._at_live_columns, rest))
        capture = start_layer(layer, states, rest, here, None if choosing else place)
        assert capture.query is not None
        assert capture.key is not None
        columns = self._keys(number, alive)
        key = capture.key
        if self.past and self.cache is not None and number < len(self.cache.layers):
            key = torch.cat([self._cached_keys(self.cache, number, key).to(key.device), key], dim=2)
        mask = None
        if choosing:
            assert capture.mask is not None
            at = place.to(capture.mask.device)[:, None, :, None]
            mask = capture.mask.take_along_dim(at, dim=2)
        elif masked:
            last = self.arguments.in_conversation(alive.gather(1, place))
            mask = layer_mask(full, last, columns, self.past, flat=False)
        heads = {}
        for row, rows in asking.items():
            seen = self._prompt_keys(row, columns[row]).nonzero().squeeze(1)
            heads[row] = Heads(
                capture.query[row].index_select(1, rows.to(key.device)),
                key[row].index_select(1, seen),
                capture.scale,
                None if mask is None else mask[row, 0, : len(rows)][:, seen],
                capture.softcap,
                int(self._real(row).sum()) - len(rows),
            )
        return heads

    def _unrotated_heads(
        self, number: int, states: Tensor, rest: tuple[Any, ...], call: CallArguments
    ) -> dict[int, Heads]:
        """Return the last token's queries and the call's keys without rotary embeddings, by row.

        Layer ``number``, which has run, is started once more with what it was called with.
        """
        layer = self.host.layers[number]
        call = call.but(cache=None, caching=False, mask=None, rotary=no_rotation(call.rotary))
        asking = self._asking_rows(whole_text=False)
        alive = self.live.alive
        place = _pad_rows(asking, len(alive), alive.device)
        here = {name: self._at_live_columns(value) for name, value in call.items()}
        capture = start_layer(layer, states, tuple(map(self._at_live_columns, rest)), here, place)
        assert capture.query is not None
        assert capture.key is not None
        heads = {}
        for row, rows in asking.items():
            real = self._real(row).nonzero().squeeze(1).to(capture.key.device)
            heads[row] = Heads(
                capture.query[row].index_select(1, rows.to(capture.query.device)),
                capture.key[row].index_select(1, real),
                capture.scale,
                softcap=capture.softcap,
                first=len(real) - 1,
            )
        return heads

    def _asking_rows(self, whole_text: bool) -> dict[int, Tensor]:
        """Return by row which of ``alive`` ask: the last token, or all from the text on."""
        asking = {}
        for prompt in self.prompts:
            real = self._real(prompt.row).nonzero().squeeze(1)
            columns = self.live.alive[prompt.row, real]
            text = (~self.live.visual[prompt.row, columns]).nonzero().squeeze(1)
            after = text[prompt.text_before :]
            asking[prompt.row] = real[int(after[0]) :] if whole_text and len(after) else real[-1:]
        return asking

    def _passages(
        self,
        number: int,
        passages: Mapping[str, Passages],
        row: int,
        places: Tensor,
    ) -> tuple[Passage, Passage]:
        """Return what went through the attention and the MLP of a layer, at places of a row."""
        if len(passages) != 2:
            raise LftrError(
                f"layer {number} ran, but what went through its attention and its MLP could not be "
                f"read: its parts do not run as {versions()} is expected to run them"
            )
        attention, mlp = (passages[part].of_row(row, places) for part in ("attention", "mlp"))
        return attention, mlp

    def _cached_keys(self, cache: Cache, number: int, new: Tensor) -> Tensor:
        """Return the cached keys that a layer passes to its kernel together with ``new``."""
        layer = cache.layers[number]
        uncompressed = layer.keys.ndim == 4 and layer.keys.shape[1::2] == new.shape[1::2]
        if not uncompressed or (layer.is_sliding and layer.is_compileable):
            raise UnsupportedModelError(
                f"the keys in the cache's {type(layer).__name__} cannot be read before the "
                "layer runs; use a dynamic cache, or a method that reads the previous layer"
            )
        cached = self.cached or CachedColumns.everything(self.host.depth, self.past)
        entries = cached.entries(number)
        _, offset = layer_sizes(cache, number, new.shape[2])
        keys = layer.keys[:, :, :entries]
        return keys[:, :, keys.shape[2] - (entries - offset) :]

    def _heads(self, number: int, capture: Capture, row: int) -> Heads:
        """Return the queries and keys that layer ``number`` used in a row."""
        if capture.query is None:
            raise attention_not_recorded(attention_modules(self.host.layers[number])[0])
        assert capture.columns is not None
        return capture.of_row(row, self._real(row), self._prompt_keys(row, capture.columns[row]))

    def _prompt_keys(self, row: int, keys: Tensor) -> Tensor:
        """Return which of a row's keys, by their columns, are tokens of the prompt."""
        known = self.known[row, keys.clamp(min=0)]
        return (keys >= 0) & (keys < self.past + self.end) & known

    def _freeze(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: CallArguments,
    ) -> CallArguments:
        """Cache the keys and values of visual tokens; only text goes through the layer."""
        if chooses_keys(layer):
            raise UnsupportedModelError(
                f"layer {number} chooses the keys that it attends to (sparse attention), and "
                "cannot do so for frozen tokens alone: freeze them in other layers, or bypass them"
            )
        if not self.host.attends[number]:
            raise UnsupportedModelError(
                f"layer {number} has no attention that could read frozen tokens; freeze others"
            )
        cache: Cache = DynamicCache() if self.cache is None else self.cache
        if True in cache.is_sliding[number : number + 1]:
            raise UnsupportedModelError(
                f"layer {number} attends in a sliding window, out of which frozen tokens would "
                "fall; freeze others"
            )
        caching = self._call_at_live_columns(call).but(cache=cache, caching=True, mask=None)
        start_layer(layer, states, tuple(map(self._at_live_columns, rest)), caching)
        return call.but(cache=cache, caching=True)

    # ---- the record --------------------------------------------------------------------------

    def _record(self) -> CachedColumns:
        cached = self.cached or CachedColumns.everything(self.host.depth, self.past)
        total = self.past + self.live.length
        logs = [self.log_weight(number) for number in range(self.host.depth)]
        if not self._shorter():
            return CachedColumns(cached.kept, cached.prefix, total, logs)
        everything = self.arguments.in_conversation(self.live.everything)
        kept = [
            None
            if cached.kept[number] is None and columns is None
            else cached.columns(number, everything if columns is None else columns)
            for number, columns in enumerate(self.columns)
        ]
        return CachedColumns(kept, total, total, logs)

    def _write_report(self, report: Report) -> None:
        masses = torch.stack(self.masses).tolist()
        layers = zip(self.counts, self.host.states, masses, strict=True)
        report.layers = [
            LayerReport(number, count, state, self._columns_in(number), mass)
            for number, (count, state, mass) in enumerate(layers)
        ]
        shorter = (number for number, columns in enumerate(self.columns) if columns is not None)
        sliding = [number for number in shorter if self.host.slides[number]]
        if self.host.flat and sliding:
            report.note(
                f"layers {', '.join(map(str, sliding))} attend in a sliding window, which "
                "FlashAttention counts in tokens that are left: they see further back than with "
                "attn_implementation='sdpa'"
            )
        if self.host.unweighted and masses != self.counts:
            report.note(self.host.unweighted)
        report.survivors = {
            row: tuple((self.live.visual[row].cumsum(0)[columns] - 1).tolist())
            for row, columns in self.live.survivors.items()
        }
        for choice in self.decisions.values():
            for note in () if choice is None else choice.notes:
                report.note(note)
        report.decoder = self.host.model.config.get_text_config()
        removed = report.prompt - report.received  # before the language model
        whole = self.past + self.live.length + removed
        report.cache_bytes, report.full_cache_bytes = cache_sizes(self.cache, whole)

    def _columns_in(self, number: int) -> tuple[int, ...]:
        columns = self.columns[number]
        if columns is None:
            return tuple(self.live.valid[:, : self.end].sum(dim=1).tolist())
        real = (columns >= 0) & (columns < self.past + self.end)
        return tuple(real.sum(dim=1).tolist())


def _pad_rows(rows: Mapping[int, Tensor], batch: int, device: torch.device) -> Tensor:
    """Return rows of each prompt as one ``(B, R)``, the last one repeated where there are fewer."""
    longest = max(len(one) for one in rows.values())
    place = torch.zeros(batch, longest, dtype=torch.long, device=device)
    for row, one in rows.items():
        place[row, : len(one)] = one
        place[row, len(one) :] = one[-1]
    return place
