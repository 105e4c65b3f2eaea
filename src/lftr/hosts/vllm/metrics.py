"""The figures of a server for its operator: counters at ``/metrics``, and a line in the log."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import CounterMetricFamily
from vllm.logger import init_logger

from .start_options import FAILURES

logger = init_logger("vllm.lftr")


class Counters:
    """Counters of the process that takes requests, which is the one that ``/metrics`` reads.

    With several API servers vLLM itself adds up what each has counted. ``lftr:requests_total``,
    ``lftr:items_total`` (images and videos), ``lftr:visual_tokens_total`` (as a server without lftr
    would have had) and ``lftr:kept_tokens_total`` are by method, and so are
    ``lftr:guided_items_total``, items in which the prompt's text guided the choice, and
    ``lftr:guided_again_total``, those of them that had come before under another text (see
    `Repeats`). ``lftr:refused_total`` counts answers of status 400 or 413.
    ``lftr:failed_items_total``, by method, comes from the workers, see `Failures`.
    """

    def __init__(self) -> None:
        by = ["method"]
        self.requests = Counter("lftr:requests", "Requests with images or videos.", by)
        self.items = Counter("lftr:items", "Images and videos of requests.", by)
        self.tokens = Counter("lftr:visual_tokens", "Visual tokens before reduction.", by)
        self.kept = Counter("lftr:kept_tokens", "Visual tokens after reduction.", by)
        self.guided = Counter("lftr:guided_items", "Items whose tokens a prompt's text guided.", by)
        self.again = Counter(
            "lftr:guided_again", "Guided items that had come before under another text.", by
        )
        self.refused = Counter("lftr:refused", "Requests refused by lftr, with status 400 or 413.")
        if FAILURES not in os.environ:  # the workers, which start after this, have it too
            os.environ[FAILURES] = _new_file()
        REGISTRY.register(_FailedItems())

    def begin(self, method: str) -> None:
        """Show a method's counters from the start, since rates miss a first count otherwise."""
        self.count(method, [], requests=0)
        self.guided.labels(method)
        self.again.labels(method)

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


class Repeats:
    """Knows which items come again under another text, so that they are encoded again.

    Parameters
    ----------
    most : int
        How many hashes are remembered, the latest ones.
    """

    def __init__(self, most: int = 20_000) -> None:
        self.most = most
        self.known: OrderedDict[str, None] = OrderedDict()

    def add(self, plain: str, guided: str) -> bool:
        """Note an item, by its hashes without and with its text; return whether it comes again."""
        again = plain in self.known and guided not in self.known
        for one in (plain, guided):
            self.known[one] = None
            self.known.move_to_end(one)
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        return again


class Failures:
    """Counts items on which a method failed, in a worker, and logs the error at most so often.

    Workers are processes of their own, whose counters ``/metrics`` does not show. They therefore
    add to a file, whose name they have from the process that takes requests; without it, as on
    another machine, failures are only logged.

    Parameters
    ----------
    seconds : float
        Time between two lines about a method, since a client could otherwise fill the log.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.logged: dict[str, float] = {}
        self.waiting: dict[str, int] = {}

    def add(self, method: str, setting: str, items: int) -> None:
        """Count items on which a method failed; called where its error is handled."""
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the worker
            _count(method, items)
        self.waiting[method] = self.waiting.get(method, 0) + items
        now = time.monotonic()
        if now - self.logged.get(method, -float("inf")) >= self.seconds:
            self.logged[method] = now
            logger.exception(
                "lftr: %s failed on %d items; evenly spaced tokens are kept instead",
                setting,
                self.waiting.pop(method),
            )


class _FailedItems:
    """What the workers have counted, whenever ``/metrics`` is read."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "lftr:failed_items",
            "Items on which a method failed, so that evenly spaced tokens were kept.",
            labels=["method"],
        )
        with contextlib.suppress(OSError, ValueError):  # the other figures are still shown
            path = Path(os.environ[FAILURES])
            path.touch()  # temporary files may be cleared while a server runs
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                counts = json.loads(file.read() or "{}")
            for method, items in counts.items():
                family.add_metric([method], items)
        yield family


def _count(method: str, items: int) -> None:
    """Add to the file of counts, if there is one."""
    path = os.environ.get(FAILURES)
    if path is None or not Path(path).exists():
        return
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counts = json.loads(file.read() or "{}")
        counts[method] = counts.get(method, 0) + items
        file.seek(0)
        file.write(json.dumps(counts))  # never shorter than before


def _new_file() -> str:
    handle, path = tempfile.mkstemp(prefix="lftr-failures-")
    os.close(handle)
    atexit.register(Path(path).unlink, missing_ok=True)
    return path


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
