"""The figures of a server for its operator: counters at ``/metrics``, and a line in the log."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from prometheus_client import Counter
from vllm.logger import init_logger

logger = init_logger("vllm.lftr")


class Counters:
    """Counters of the process that takes requests, which is the one that ``/metrics`` reads.

    With several API servers vLLM itself adds up what each has counted. ``lftr:requests_total``,
    ``lftr:items_total`` (images and videos), ``lftr:visual_tokens_total`` (as a server without lftr
    would have had) and ``lftr:kept_tokens_total`` are by method; ``lftr:refused_total`` counts
    answers of status 400.
    """

    def __init__(self) -> None:
        by = ["method"]
        self.requests = Counter("lftr:requests", "Requests with images or videos.", by)
        self.items = Counter("lftr:items", "Images and videos of requests.", by)
        self.tokens = Counter("lftr:visual_tokens", "Visual tokens before reduction.", by)
        self.kept = Counter("lftr:kept_tokens", "Visual tokens after reduction.", by)
        self.refused = Counter("lftr:refused", "Requests refused for their lftr setting or their prompt.")

    def begin(self, method: str) -> None:
        """Show a method's counters from the start, since rates miss a first count otherwise."""
        self.count(method, [], requests=0)

    def count(self, method: str, sizes: Sequence[tuple[int, int]], requests: int = 1) -> None:
        """Count a request's items, each with its number of tokens before and after reduction."""
        self.requests.labels(method).inc(requests)
        self.items.labels(method).inc(len(sizes))
        self.tokens.labels(method).inc(sum(total for total, _ in sizes))
        self.kept.labels(method).inc(sum(kept for _, kept in sizes))

    @staticmethod
    @functools.cache
    def get() -> Counters:
        """Return the process's one set of counters."""
        return Counters()


class Pace:
    """Logs numbers of tokens and the time of methods: at once, then at most every ``seconds``.

    Parameters
    ----------
    seconds : float
        Time between two lines, as vLLM's own statistics have it.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.logged = -float("inf")
        self.items = self.tokens = self.kept = 0
        self.spent = 0.0

    def add(self, sizes: Sequence[tuple[int, int]], spent: float) -> None:
        """Add items whose tokens were chosen in ``spent`` seconds."""
        self.items += len(sizes)
        self.tokens += sum(total for total, _ in sizes)
        self.kept += sum(kept for _, kept in sizes)
        self.spent += spent
        now = time.monotonic()
        if now - self.logged < self.seconds:
            return
        logger.info(
            "lftr: %d items, %d of their %d tokens kept, the method took %.2f ms per item",
            self.items,
            self.kept,
            self.tokens,
            1e3 * self.spent / self.items,
        )
        self.logged, self.items, self.tokens, self.kept, self.spent = now, 0, 0, 0, 0.0
