"""What the benchmarks share: paired timing, medians and spread, where and on what."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers


def paired(
    functions: Sequence[Callable[[], Any]],
    rounds: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time functions in turns, so that a slow moment of the machine hits all alike.

    Returns
    -------
    list of list of float
        Milliseconds of each round, for each function.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(warm + rounds):
        for function, seen in zip(functions, times, strict=True):
            _wait()
            start = clock()
            function()
            _wait()
            if turn >= warm:
                seen.append((clock() - start) * 1e3)
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles of the ratios of paired times."""
    values = [a / b for a, b in zip(over, under, strict=True)]
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), low, high


def median(times: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range."""
    low, _, high = statistics.quantiles(times, n=4)
    return statistics.median(times), high - low


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def results(name: str) -> Path:
    """Return where the figures of that name are written."""
    return Path(__file__).parent / "results" / f"{name}.json"


def save(name: str, command: str, figures: Any) -> Path:
    """Write figures beside the scripts, with the command and the machine that made them."""
    path = results(name)
    path.parent.mkdir(exist_ok=True)
    content = {"command": command, "machine": machine(), "figures": figures}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def where(content: Mapping[str, Any]) -> str:
    """Say on what the figures of a results file were made; after several runs, the last of them."""
    on, several = content["machine"], "; " in content["command"]
    return (
        f"{'the last run ' * several}on {on['cpu']}, {on['cores']} cores, torch {on['torch']}, "
        f"transformers {on['transformers']}"
    )


def timed(
    name: str,
    command: str,
    about: str | None,
    rounds: int,
    measure: Callable[[int], Any],
    report: Callable[[Any], str],
) -> None:
    """Measure on one thread, ``--rounds`` times; print the report (or JSON), write figures down."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.rounds)
    save(name, f"{command} --rounds {options.rounds}", figures)
    if options.json:
        print(json.dumps({"machine": machine(), "figures": figures}))
        return
    print(report(figures))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
