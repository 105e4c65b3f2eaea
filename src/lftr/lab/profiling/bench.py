"""The cost of every setting, with the full model and the physical limit, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...hosts.transformers.encoder.encode_cache import encode_once
from ..asking.settings import Setting
from .call import Call
from .limit import short_prompt, time_short
from .parts import time_decode, time_prefill
from .sizes import Sizes, count_sizes
from .timing import Spread, Times

PARTS = ("encoder", "method", "host", "prefill", "total")


@dataclass
class Row:
    """The measurements of one setting on one call.

    Attributes
    ----------
    call : Call
        The inputs.
    sizes : Sizes
        Tokens, memory, operations of the whole batch.
    short : dict, optional
        Arguments of the physical limit, see `limit.short_prompt`.
    times : Times
        The parts of every prefill, in the order of the rounds.
    decode : list of float
        Milliseconds for each generated token, of every round.
    limit : list of float
        Milliseconds of the plain language model on a prompt with as few visual tokens from the
        start, of every round; empty without ``short``.
    """

    call: Call
    setting: Setting
    sizes: Sizes
    short: dict[str, Any] | None = None
    times: Times = field(default_factory=Times)
    decode: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)

    def time(self) -> None:
        """Time one prefill, and the limit."""
        self.times.parts.append(time_prefill(self.call, self.setting))
        if self.short is not None:
            self.limit.append(time_short(self.call, self.short))

    @property
    def ms(self) -> Mapping[str, Spread]:
        """Encoder, method, host, prefill, their total, and each decoded token."""
        times = {name: Spread.of(self.times.of(name)) for name in PARTS}
        return times | {"decode": Spread.of(self.decode)}

    @property
    def over_limit(self) -> Spread | None:
        """Everything after the encoder, as a multiple of the limit of the same round."""
        if not self.limit:
            return None
        return Spread.of_ratios(self.times.of("after_encoder"), self.limit)

    def faster_than(self, other: Row) -> Mapping[str, Spread]:
        """Return the times of another row over this one's, as ratios within each round."""
        parts = {
            name: (other.times.of(name), self.times.of(name))
            for name in ("prefill", "after_encoder", "total")
        }
        parts["decode"] = (other.decode, self.decode)
        return {name: Spread.of_ratios(over, under) for name, (over, under) in parts.items()}


def bench(
    calls: Sequence[Call],
    settings: Sequence[Setting],
    *,
    rounds: int = 10,
    decode: int = 8,
    limit: bool = False,
    step: Callable[[int], None] = lambda rows: None,
) -> list[Row]:
    """Measure every setting on every call.

    Each round measures all of them in turn, so that a slow phase of the machine affects all alike,
    and ratios compare measurements close in time. Counting runs first and warms up.

    Parameters
    ----------
    rounds : int
        Number of measurements of each.
    decode : int
        Number of generated tokens after the first, for the time of one.
    limit : bool
        Whether to time the physical limit too.
    step : callable
        Called with 1 for each row of each round, counting included: ``rounds + 1`` times a row.
    """
    rows = []
    for call in calls:
        for setting in settings:
            short = short_prompt(call, setting) if limit else None
            Row(call, setting, sizes := count_sizes(call, setting), short).time()
            with encode_once(call.model):
                time_decode(call, setting, 1)
            rows.append(Row(call, setting, sizes, short))
            step(1)
    for _ in range(rounds):
        for row in rows:
            row.time()
            step(1)
        for call in calls:
            with encode_once(call.model):  # the encoder is no part of decoding
                for row in rows:
                    if row.call is call:
                        row.decode.append(time_decode(call, row.setting, decode))
    return rows
