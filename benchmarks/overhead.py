"""What the checks of every forward cost, and what ``lftr --help`` costs.

    python benchmarks/overhead.py [--rounds 50] [--json]

The checks compare arguments and lengths in every forward of a reduced model; they are timed inside
an answer of the bundled model, a prompt and the tokens after it apart. The help is timed by the
processor time of a fresh process, modules' bytecode being cached.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from typing import Any

from _measure import median, table, timed

import lftr
from lftr.hosts.transformers import checks, hooks

COMMAND = "python benchmarks/overhead.py"
NEW = 8


class Stopwatch:
    """Adds up the time that some functions take, forward by forward."""

    def __init__(self) -> None:
        self.forwards: list[float] = []

    def watch(self, place: Any, name: str, begins: bool = False) -> None:
        """Put a function in front of ``place.name`` that notes how long it takes."""
        original = getattr(place, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if begins:
                self.forwards.append(0.0)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                if self.forwards:
                    self.forwards[-1] += time.perf_counter() - start

        setattr(place, name, watched)


def checked(rounds: int) -> dict[str, Any]:
    """Time the checks of each forward of ``rounds`` answers, in microseconds."""
    model, processor = lftr.bundled.load()
    example = lftr.suites.load("scenes", n=1)[0]
    content = [{"type": "image", "image": example.image}, {"type": "text", "text": "Which shape?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    clock = Stopwatch()
    clock.watch(hooks, "check_passed_on", begins=True)  # the first of a forward inside generate
    clock.watch(checks.Forward, "of")
    clock.watch(checks.Forward, "check_inner")
    clock.watch(checks.Forward, "check_end")
    found: dict[str, list[float]] = {"prompt": [], "next token": []}
    with lftr.reduce(model, "lftr", keep=1 / 16):
        for _ in range(rounds + 2):
            clock.forwards.clear()
            model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
            assert len(clock.forwards) == NEW
            found["prompt"].append(clock.forwards[0] * 1e6)
            found["next token"] += [one * 1e6 for one in clock.forwards[1:]]
    return {name: median(times[2:]) for name, times in found.items()}


def helped(rounds: int) -> tuple[float, float]:
    """Time ``lftr --help`` by the processor time of its process, in seconds."""
    times = []
    for _ in range(rounds + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "lftr", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times[1:])


def measure(rounds: int) -> dict[str, Any]:
    """Measure both."""
    return {"help_s": helped(rounds), "checks_us": checked(rounds)}


def report(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    rows = [
        [f"checks of one forward, {name}", f"{middle:.0f} µs ({spread:.0f})"]
        for name, (middle, spread) in figures["checks_us"].items()
    ]
    middle, spread = figures["help_s"]
    rows.append(["`lftr --help`, processor time", f"{middle:.2f} s ({spread:.2f})"])
    return table(["what", "median (interquartile range)"], rows)


if __name__ == "__main__":
    timed("overhead", COMMAND, __doc__, 50, measure, report)
