"""Time every method for videos by itself: ``python benchmarks/video_methods.py``.

32 frames of 14 x 14 tokens, C = 1024, one CPU thread (its processor time): the decision, from the
evidence that the method asks for, and its application to the features. Beside it the median of the
original program's function on an input of that size, of another run on such a machine, and for LFTR
the bound of 20 ms that it was written for. Then the memory that a decision takes over what it is
given, for up to 512 frames. Writes ``benchmarks/results/video_methods.json``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _measure import save, table
from methods import clock

import lftr
from lftr.methods import Method, get_method
from lftr.methods.video.base import ClipMethod

GRID = (32, 14, 14)
WIDTH = 1024
WORDS = 32  # tokens of the prompt's text
LONG = (64, 128, 256, 512)  # frames
LONG_WIDTH = 256
BOUND = {"lftr": 20.0}
# the originals' median milliseconds at 32 x 196 tokens, C = 1024, one thread, by share of tokens
# kept; measured on an AMD EPYC with torch 2.13 (aim: its two folds; free-video-llm: pools and crop)
ORIGINAL: dict[str, dict[float, float]] = {
    "evs": {0.1: 46.546, 0.25: 41.696, 0.5: 42.797},
    "vidcom2": {0.1: 59.831, 0.25: 60.821},
    "dycoke": {0.35: 8.938, 0.76: 11.166},
    "holitom": {0.1: 88.442, 0.25: 83.119},
    "fastvid": {0.1: 197.484, 0.25: 182.441},
    "aim-video": {0.25: 62.474},
    "free-video-llm": {0.1: 45.94},
}
SHARES = (1 / 16, 0.1, 0.25)


def clip(frames: int, width: int) -> lftr.VisualTokens:
    """Return a clip of scenes that last eight frames, parts of which change, with all evidence."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    rows, columns = GRID[1:]
    size = rows * columns
    x = torch.empty(frames, size, width)
    scene = normal(size, width)
    for t in range(frames):
        if t % 8 == 0:
            scene = normal(size, width) + 0.7 * normal(1, width)
        new = torch.rand(size, 1, generator=draw) < 0.15
        scene = torch.where(new, normal(size, width), scene)
        x[t] = scene + 0.3 * normal(size, width)
    total = frames * size
    features = x.flatten(0, 1)
    projected = normal(total, 3 * width // 4)
    return lftr.VisualTokens(
        features,
        grid=(frames, rows, columns),
        encoder_features=features + 0.1 * normal(total, width),
        cls_attention=normal(16, total).softmax(-1),
        attention_received=normal(total).softmax(-1),
        visual_projected=projected,
        text_embeds=projected[:1] + normal(1, 3 * width // 4),
        text_token_embeds=normal(WORDS, width),
        frame_features=x.mean(dim=1),
    )


def asked(method: Method, tokens: lftr.VisualTokens) -> lftr.VisualTokens:
    """Return the tokens with the evidence that a host would gather for the method."""
    names = {tokens.evidence(*need)[0] for need in method.evidence} | {"features"}
    found = {name: getattr(tokens, name) for name in names}
    return lftr.VisualTokens(grid=tokens.grid, **found)


def names() -> list[str]:
    """Return LFTR and every method made for videos."""
    return ["lftr", *(n for n in lftr.list_methods("before") if _for_videos(n))]


def _for_videos(name: str) -> bool:
    return isinstance(get_method(name), ClipMethod)


def times(seconds: float) -> list[dict[str, Any]]:
    """Return each method's times at every share, and at the original's own."""
    tokens = clip(GRID[0], WIDTH)
    rows = []
    for name in names():
        method = get_method(name)
        theirs = ORIGINAL.get(name, {})
        seen = asked(method, tokens)
        for share in sorted({*SHARES, *theirs}):
            ms = clock(lambda: method.select(seen, share).apply(seen.features), "cpu", seconds)  # noqa: B023
            row = {"method": name, "share": share, "K": method.count(seen, share)}
            row |= {"min_ms": min(ms), "median_ms": statistics.median(ms), "runs": len(ms)}
            row |= {"original_ms": theirs.get(share), "bound_ms": BOUND.get(name)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def memory(lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Return the memory of each method for clips of so many frames (Linux)."""
    rows = []
    for frames in lengths:
        tokens = clip(frames, LONG_WIDTH)
        for name in names():
            row = {"method": name, "frames": frames, "mib": peak(get_method(name), tokens)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def peak(method: Method, tokens: lftr.VisualTokens) -> float:
    """Return the MiB that a decision at 16x takes over what it is given.

    By the highest resident size of the process, which the kernel is told to watch anew.
    """
    seen = asked(method, tokens)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")
    start = _status("VmRSS")
    method.select(seen, 1 / 16)
    return _status("VmHWM") - start


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def tables(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = []
    for row in figures["times"]:
        theirs, bound = row["original_ms"], row["bound_ms"]
        rows.append(
            [
                f"`{row['method']}`",
                f"{row['share']:.1%}",
                str(row["K"]),
                f"{row['median_ms']:.1f}",
                f"{row['min_ms']:.1f}",
                f"{theirs:.1f} ({row['median_ms'] / theirs:.2f})" if theirs else "",
                f"{bound:.0f}" if bound else "",
            ]
        )
    head = ["method", "kept", "K", "median ms", "least ms", "original ms (ratio)", "bound ms"]
    used: dict[str, list[str]] = {}
    for row in figures["memory"]:
        used.setdefault(row["method"], []).append(f"{row['mib']:.0f}")
    lengths = dict.fromkeys(row["frames"] for row in figures["memory"])
    columns = ["method", *(f"{frames} frames" for frames in lengths)]
    lines = [[f"`{name}`", *cells] for name, cells in used.items()]
    return f"{table(head, rows)}\n\n{table(columns, lines)}"


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=LONG, help="clips whose memory is measured"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    figures = {"times": times(options.seconds), "memory": memory(options.frames)}
    save("video_methods", "python benchmarks/video_methods.py", figures)
    print(tables(figures))


if __name__ == "__main__":
    sys.exit(main())
