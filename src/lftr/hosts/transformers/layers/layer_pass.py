"""One forward through the decoder: which rows are left in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ....evidence.attention import attention_modules, unread
from ....methods.inside.base import Heads
from ....values.errors import LftrError, UnsupportedModelError
from ....values.report import LayerReport, Report
from ..api import Cache, Call, versions
from ..cache_record import Held, cache_bytes, hold, layer_sizes
from .heads import Capture, chooses_keys, start_layer
from .layer_arguments import Along
from .layer_decisions import Decisions, Prompt
from .live_columns import Rows
from .masks import layer_mask, local_mask

if TYPE_CHECKING:
    from .host import LayerHost


class Descent:
    """The rows of one forward, layer by layer.

    Parameters
    ----------
    visual : Tensor of bool, shape (B, L)
        Columns of this call that are visual tokens.
    known : Tensor of bool, shape (B, past + L)
        Columns of the whole conversation that are no padding.
    log_weight : Tensor of float32, shape (B, past + L)
        The logarithms of how many tokens these columns stand for, before any layer.
    past : int
        Columns before this call.
    held : Held, optional
        What the cache's layers hold of them.
    end : int, optional
        Where the prompt ends among the columns; what follows are guesses of assisted decoding.
    decisions : dict, optional
        Those of an earlier call on the same prompt, to go by again; filled where it is empty.
    """

    def __init__(
        self,
        host: LayerHost,
        visual: Tensor,
        known: Tensor,
        log_weight: Tensor,
        past: int,
        held: Held | None,
        end: int | None,
        decisions: Decisions | None,
    ) -> None:
        self.host = host
        self.known = known
        valid = known[:, past:]
        self.rows = Rows(visual & valid, valid)
        self.past = past
        self.held = held
        self.end = visual.shape[1] if end is None or end <= 0 else min(end, visual.shape[1])
        self.decisions = {} if decisions is None else decisions
        self.again = bool(decisions)
        self.along = Along(self.rows.everything, past, held, host.depth)
        self.cache: Cache | None = None
        self.columns: list[Tensor | None] = [None] * host.depth  # what each layer caches; None: all
        self.keys: dict[int, Tensor] = {}  # the columns behind the keys of each layer
        self.weight = log_weight[:, past:].exp()  # how many tokens the call's columns stand for
        self.weights: dict[int, Tensor] = {}  # the same in each layer, once a method changed it
        self._weighed = False
        self._log_weight = log_weight
        self._log_weights: dict[int, Tensor] = {}
        self.captures: dict[int, Capture] = {}
        self.prompts = [
            Prompt(row, host.methods, count, host.depth, host.first)
            for row, count in enumerate(self.rows.counts)
            if count
        ]
        self.counts: list[int] = []  # visual tokens left in each layer so far
        self.left = False  # whether the last layer has run

    def read_in_passing(self) -> list[int]:
        """Return the layers whose queries and keys are to be read while they run."""
        return sorted({i - 1 for p in self.prompts for i in p.layers_read("previous") if i > 0})

    def enter(
        self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what layer ``number`` is called with."""
        call = Call(kwargs)
        states = args[0] if args else call.states
        rest = args[1:]
        call = call.without(Call.name("states"))
        self.cache = call.cache
        states = self._decide(number, layer, self.rows.move(states, self.rows.alive), rest, call)
        if self._weighed:
            self.weights[number] = self.weight
        self.counts.append(self.rows.left)
        state = self.host.states[number] if self.rows.left else "active"
        states = self.rows.move(states, self.rows.alive)
        new = self.rows.alive
        if state != "active":
            text, _, both = self.rows.apart()
            new = both if state == "frozen" else text
        keys = self.keys[number] = self._keys(number, new)  # counted before the cache grows
        if state == "frozen":
            states = self.rows.move(states, self.rows.apart()[1])
            call = self._freeze(number, layer, states, rest, call)
        if state != "active":
            states = self.rows.move(states, self.rows.apart()[0])
        if new is not self.rows.everything:
            self.columns[number] = self.along.columns(new)
        out = self._narrowed_call(call)
        if number in self.captures:
            self.captures[number].columns = keys
        out = out.but(mask=self._mask(number, call.mask, keys, new))
        return (states, *(self._narrowed(value) for value in rest)), out

    def check_end(self) -> None:
        """Check that every layer was entered and the rows were put back.

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
        """Return the last layer's output with all rows in their places, and keep the record."""
        self.left = True
        whole = self.rows.move(states, self.rows.everything)
        if self.cache is not None and (self.held is not None or self._shorter()):
            hold(self.cache, self._record())
        if self.prompts and not self.again:
            self._tell(report)
        return whole

    def _shorter(self) -> bool:
        return any(columns is not None for columns in self.columns)

    def _decide(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: Call,
    ) -> Tensor:
        """Ask the methods; return the states with what they merged, and renew ``alive``."""
        asked = [prompt for prompt in self.prompts if prompt.asked(number)]
        if not asked:
            return states
        passed = self.captures.pop(number - 1, None)
        own: dict[int, Heads] = {}
        if any("own" in prompt.reads(number) for prompt in asked):
            own = self._start(number, layer, states, rest, call)
        lost: dict[int, Tensor] = {}
        merged: list[tuple[int, Tensor, Tensor]] = []
        for prompt in asked:
            row = prompt.row
            places = self._real(row).nonzero().squeeze(1)
            columns = self.rows.alive[row, places]
            heads = {} if row not in own else {"own": own[row]}
            if passed is not None:
                heads["previous"] = self._heads(number - 1, passed, row)
            device = states.device
            verdict = prompt.decide(
                number,
                states[row, places.to(device)],
                self.rows.visual[row, columns].to(device),
                self.weight[row, columns].to(device),
                {name: one.to(device) for name, one in heads.items()},
                self.host.norm,
                self._rotary(row, columns, call.rotary),
                columns.to(device),
                self.decisions,
            )
            if verdict is None:
                continue
            lost[row] = columns[verdict.dropped.to(columns.device)]
            if verdict.weight is not None:
                self.weight = self.weight.clone()
                self.weight[row, columns] = verdict.weight.to(self.weight)
                self._weighed = True
            if verdict.changed is not None:
                merged.append((row, places, verdict.changed))
        if merged:
            states = states.clone()
            for row, places, changed in merged:
                states[row, places.to(states.device)] = changed.to(states.dtype)
        if lost:
            self.rows.drop(lost)
        return states

    def log_weight(self, number: int) -> Tensor | None:
        """Return `LayerHost.log_weight`."""
        old = None if self.held is None else self.held.log_weights[number]
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

    def _rotary(self, row: int, columns: Tensor, given: Any) -> tuple[Tensor, Tensor] | None:
        """Return the cosines and sines of a row's columns, of models that turn queries by them."""
        if not isinstance(given, tuple) or len(given) != 2 or given[0].ndim != 3:
            return None
        cosine, sine = (one[min(row, len(one) - 1), columns.to(one.device)] for one in given)
        return cosine, sine

    def _real(self, row: int) -> Tensor:
        """Return which of a row's living columns are tokens of the prompt, bool ``(R,)``."""
        columns = self.rows.alive[row]
        return (columns >= 0) & (columns < self.end) & self.rows.valid[row, columns.clamp(min=0)]

    def _narrowed_call(self, call: Call) -> Call:
        return Call({name: self._narrowed(value) for name, value in call.items()})

    def _narrowed(self, value: Any) -> Any:
        """Return an argument of a layer at the rows that it is to work on."""
        return self.along.at(value, self.rows.current)

    def _keys(self, number: int, new: Tensor) -> Tensor:
        return self.along.keys(number, new, self.cache if self.host.attends[number] else None)

    def _mask(self, number: int, full: Any, keys: Tensor, new: Tensor) -> Any:
        if not self.host.attends[number]:
            whole = self.rows.current is self.rows.everything
            return full if whole else local_mask(full, self.rows.current)
        if new is self.rows.everything and self.held is None:
            return full
        return self.along.mask(full, self.rows.current, keys, self.host.flat)

    # ---- reading, freezing -------------------------------------------------------------------

    def _start(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: Call,
    ) -> dict[int, Heads]:
        """Read the last tokens' queries and all keys of a layer that has not run yet, by row."""
        given = call.but(cache=None, caching=False, mask=None)
        real = {prompt.row: self._real(prompt.row) for prompt in self.prompts}
        alive = self.rows.alive
        place = torch.zeros(len(alive), 1, dtype=torch.long, device=alive.device)
        for row, mine in real.items():
            place[row] = mine.nonzero()[-1]

        full = call.mask
        masked = isinstance(full, Tensor) and full.ndim == 4
        choosing = masked and chooses_keys(layer)
        here = {name: self._narrowed(value) for name, value in given.items()}
        if choosing:
            if self.past:
                raise UnsupportedModelError(
                    f"layer {number} chooses the keys that it attends to (sparse attention), and "
                    "its choice among cached keys cannot be read before the layer runs; use a "
                    "method that reads the previous layer"
                )
            # the layer chooses among the keys that this mask shows, and masks the others itself
            shown = self.along.columns(alive)
            here[Call.name("mask")] = layer_mask(full, shown, shown, 0, flat=False)
        rest = tuple(map(self._narrowed, rest))
        told = start_layer(layer, states, rest, here, None if choosing else place)
        assert told.query is not None
        assert told.key is not None
        columns = self._keys(number, alive)
        key = told.key
        if self.past and self.cache is not None and number < len(self.cache.layers):
            key = torch.cat([self._cached_keys(self.cache, number, key).to(key.device), key], dim=2)
        mask = None
        if choosing:
            assert told.mask is not None
            at = place.to(told.mask.device)[:, None, :, None]
            mask = told.mask.take_along_dim(at, dim=2)
        elif masked:
            last = self.along.columns(alive.gather(1, place))
            mask = layer_mask(full, last, columns, self.past, flat=False)
        found = {}
        for row, mine in real.items():
            seen = self._seen(row, columns[row]).nonzero().squeeze(1)
            found[row] = Heads(
                told.query[row].index_select(1, place[row].to(key.device)),
                key[row].index_select(1, seen),
                told.scale,
                None if mask is None else mask[row, 0][:, seen],
                told.softcap,
                int(mine.sum()) - 1,
            )
        return found

    def _cached_keys(self, cache: Cache, number: int, new: Tensor) -> Tensor:
        """Return the keys that a layer has cached and will show to the kernel with ``new``."""
        layer = cache.layers[number]
        own = layer.keys.ndim == 4 and layer.keys.shape[1::2] == new.shape[1::2]  # not compressed
        if not own or (layer.is_sliding and layer.is_compileable):
            raise UnsupportedModelError(
                f"the keys in the cache's {type(layer).__name__} cannot be read before the "
                "layer runs; use a dynamic cache, or a method that reads the previous layer"
            )
        held = self.held or Held.everything(self.host.depth, self.past)
        entries = held.entries(number)
        _, offset = layer_sizes(cache, number, new.shape[2])
        keys = layer.keys[:, :, :entries]
        return keys[:, :, keys.shape[2] - (entries - offset) :]

    def _heads(self, number: int, capture: Capture, row: int) -> Heads:
        """Return the queries and keys that layer ``number`` used in a row."""
        if capture.query is None:
            raise unread(attention_modules(self.host.layers[number])[0])
        assert capture.columns is not None
        return capture.of_row(row, self._real(row), self._seen(row, capture.columns[row]))

    def _seen(self, row: int, keys: Tensor) -> Tensor:
        """Return which of a row's keys, by their columns, are tokens of the prompt."""
        known = self.known[row, keys.clamp(min=0)]
        return (keys >= 0) & (keys < self.past + self.end) & known

    def _freeze(
        self,
        number: int,
        layer: nn.Module,
        states: Tensor,
        rest: tuple[Any, ...],
        call: Call,
    ) -> Call:
        """Cache the keys and values of visual tokens as they are; text alone goes on."""
        if chooses_keys(layer):
            raise UnsupportedModelError(
                f"layer {number} chooses the keys that it attends to (sparse attention), and "
                "cannot do so for frozen tokens alone: freeze them in other layers, or bypass them"
            )
        if not self.host.attends[number]:
            raise UnsupportedModelError(
                f"layer {number} has no attention that could read frozen tokens; freeze others"
            )
        cache = DynamicCache() if self.cache is None else self.cache
        if True in getattr(self.cache, "is_sliding", [])[number : number + 1]:
            raise UnsupportedModelError(
                f"layer {number} attends in a sliding window, out of which frozen tokens would "
                "fall; freeze others"
            )
        given = self._narrowed_call(call).but(cache=cache, caching=True, mask=None)
        start_layer(layer, states, tuple(map(self._narrowed, rest)), given)
        return call.but(cache=cache, caching=True)

    # ---- the record --------------------------------------------------------------------------

    def _record(self) -> Held:
        held = self.held or Held.everything(self.host.depth, self.past)
        total = self.past + self.rows.length
        logs = [self.log_weight(number) for number in range(self.host.depth)]
        if not self._shorter():
            return Held(held.begun, held.prefix, total, logs)
        everything = self.along.columns(self.rows.everything)
        begun = [
            None
            if held.begun[number] is None and columns is None
            else held.columns(number, everything if columns is None else columns)
            for number, columns in enumerate(self.columns)
        ]
        return Held(begun, total, total, logs)

    def _tell(self, report: Report) -> None:
        report.layers = [
            LayerReport(number, count, state, self._columns_in(number))
            for number, (count, state) in enumerate(zip(self.counts, self.host.states, strict=True))
        ]
        report.survivors = {
            row: tuple((self.rows.visual[row].cumsum(0)[columns] - 1).tolist())
            for row, columns in self.rows.survivors.items()
        }
        report.decoder = self.host.model.config.get_text_config()
        total = self.past + self.rows.length
        report.cache_bytes, report.full_cache_bytes = cache_bytes(self.cache, total)

    def _columns_in(self, number: int) -> tuple[int, ...]:
        columns = self.columns[number]
        if columns is None:
            return tuple(self.rows.valid[:, : self.end].sum(dim=1).tolist())
        real = (columns >= 0) & (columns < self.past + self.end)
        return tuple(real.sum(dim=1).tolist())
