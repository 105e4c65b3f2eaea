"""What a reduction costs and saves: time part by part, memory, operations."""

from __future__ import annotations

from ...values.flops import CONVENTIONS, counted, prefill_flops
from .bench import Row, bench
from .call import Call
from .memory import peak_memory
from .parts import Parts, time_decode, time_prefill
from .sizes import Sizes, count_sizes
from .timing import Spread, Times, time_settings

__all__ = [
    "CONVENTIONS",
    "Call",
    "Parts",
    "Row",
    "Sizes",
    "Spread",
    "Times",
    "bench",
    "count_sizes",
    "counted",
    "peak_memory",
    "prefill_flops",
    "time_decode",
    "time_prefill",
    "time_settings",
]
