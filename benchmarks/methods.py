"""Time every method by itself: ``python benchmarks/methods.py --json out.json``.

One CPU thread (its processor time, which others on the machine disturb least), or with ``--device
cuda`` a GPU, timed by its events. A run is the decision, from the evidence that the method asks
for, and its application to the features. Beside each median stand three yardsticks of the same
run: all products of the features with themselves (``X @ X.T``), K reads of the features
(``X @ v``), and a forward pass of a CLIP-L/336 encoder, estimated as 24 times one layer of its real
width with random weights; an item of more than 576 tokens counts as that many more tiles. The
originals' own times,
of another run on another machine, are in ``benchmarks/data/original_timings.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import machine as processor
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

import lftr

WIDTH = 1024
LAYERS = 24
SIZES = [(1, 576, k) for k in (64, 128, 192)] + [(32, 576, k) for k in (64, 128, 192)]
LARGE = [(1, 4096, 256), (1, 16384, 1024)]
# names in the originals' file where they differ, and a function from K to the entry
ENTRIES = {"aim": "aim_merge", "prumerge-plus": "prumerge_plus"}


def features(batch: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return tokens as encoders give them: a common mean, smooth regions, and noise."""
    side = int(count**0.5)
    coarse = torch.randn(batch, WIDTH, side // 4, side // 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    x = smooth.flatten(2).mT + 0.7 * torch.randn(1, 1, WIDTH, generator=generator)
    x = x + 0.5 * torch.randn(batch, count, WIDTH, generator=generator)
    return x.contiguous()  # as a projector hands them on


def item(batch: int, count: int, device: str) -> lftr.VisualTokens:
    """Return a stack of items with every evidence that a host can gather."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    side = int(count**0.5)
    x = features(batch, count, generator)
    fields = {
        "features": x,
        "encoder_features": x + 0.1 * normal(batch, count, WIDTH),
        "cls_attention": normal(batch, 16, count).softmax(-1),
        "attention_received": normal(batch, count).softmax(-1),
        "attention_received_shallow": normal(batch, count).softmax(-1),
        "keys": normal(batch, count, 64),
        "queries": normal(batch, count, 64),
        "visual_projected": normal(batch, count, 768),
        "text_embeds": normal(batch, 1, 768),
        "text_token_embeds": normal(batch, 32, WIDTH),
        "frame_features": normal(batch, 1, WIDTH),
    }
    return lftr.VisualTokens(
        grid=(1, side, side), **{name: value.to(device) for name, value in fields.items()}
    )


def clock(run: Callable[[], object], device: str, seconds: float, least: int = 3) -> list[float]:
    """Return the milliseconds of runs, after one warm-up, for about ``seconds``."""
    started = time.perf_counter()
    run()
    spent = time.perf_counter() - started
    times: list[float] = []
    while len(times) < (least if spent < 10 else 1) or (
        sum(times) < seconds * 1e3 and len(times) < 500
    ):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            begin_s = time.thread_time()
            run()
            times.append((time.thread_time() - begin_s) * 1e3)
    return times


def yardsticks(
    tokens: lftr.VisualTokens, keep: int, device: str, seconds: float
) -> dict[str, float]:
    """Return the medians of the yardsticks, in milliseconds."""
    x = tokens.features
    vectors = x[:, :1].mT.contiguous()
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, attn_implementation="sdpa"
    )
    layer = CLIPEncoderLayer(config).to(device).eval()
    states = torch.randn(len(x), 577, 1024, device=device)
    tiles = x.shape[1] / 576
    median = statistics.median
    return {
        "X @ X.T": median(clock(lambda: torch.bmm(x, x.mT), device, seconds)),
        "K reads": keep * median(clock(lambda: torch.bmm(x, vectors), device, seconds)),
        "encoder": tiles * LAYERS * median(clock(lambda: layer(states, None), device, seconds)),
    }


def original(name: str, batch: int, count: int, keep: int) -> float | None:
    """Return the median of the original program at this size, in milliseconds, where known."""
    if (batch, count) != (1, 576):
        return None
    data = json.loads((Path(__file__).parent / "data" / "original_timings.json").read_text())
    entries = data["results"].get(ENTRIES.get(name, name), {})
    found = entries.get(f"K{keep}") or entries.get("adaptive")
    return found["median_ms"] if found else None


def measure(name: str, tokens: lftr.VisualTokens, keep: int, device: str, seconds: float) -> Any:
    """Return the times of one method, or what it says where it cannot decide."""
    method = lftr.get_method(name)
    asked = {field for need in method.evidence for field in need} | {"features"}
    unasked = {field: None for field in lftr.values.evidence.FIELDS if field not in asked}
    tokens = dataclasses.replace(tokens, **unasked)
    try:
        return clock(lambda: method.select(tokens, keep).apply(tokens.features), device, seconds)
    except lftr.LftrError as error:
        return str(error)


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--methods", nargs="*", default=lftr.list_methods("before"))
    parser.add_argument("--large", action="store_true", help="also N = 4,096 and 16,384")
    parser.add_argument("--sizes", nargs="*", help="items x tokens x kept tokens: 1x576x64")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor()
    print(f"{machine or platform.machine()}, torch {torch.__version__}, one thread, float32\n")
    sizes = SIZES + (LARGE if options.large else [])
    if options.sizes:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
    rows = []
    for batch, count, keep in sizes:
        tokens = item(batch, count, options.device)
        yard = yardsticks(tokens, keep, options.device, options.seconds)
        told = ", ".join(f"{name} {value:.3g} ms" for name, value in yard.items())
        print(f"\n### B = {batch}, N = {count}, K = {keep} ({told})\n")
        print("| method | ms | spread | / X @ X.T | / K reads | / original | of the encoder |")
        print("|---|---|---|---|---|---|---|")
        for name in options.methods:
            times = measure(name, tokens, keep, options.device, options.seconds)
            if isinstance(times, str):
                print(f"| {name} | {times} | | | | | |")
                continue
            row = {"method": name, "B": batch, "N": count, "K": keep, **yard}
            row["ms"] = statistics.median(times)
            row["spread"] = [min(times), max(times)]
            row["original_ms"] = original(name, batch, count, keep)
            rows.append(row)
            print(line(row), flush=True)
    if options.json:
        where = machine if options.device == "cuda" else f"{processor()['cpu']}, one thread"
        old = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
        kept = [row for row in old if row["machine"] != where]  # of a GPU, or the other way round
        new = [{**row, "machine": where} for row in rows]
        told = f"python {' '.join(sys.argv)}; rows of a GPU are of an earlier run"
        content = {"made_by": told, "rows": kept + new}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    """Return a row of the table; more than 5 % of the encoder is flagged."""
    share = row["ms"] / row["encoder"]
    theirs = row["original_ms"]
    cells = [
        row["method"],
        f"{row['ms']:.3g}",
        "{:.3g} to {:.3g}".format(*row["spread"]),
        f"{row['ms'] / row['X @ X.T']:.2f}",
        f"{row['ms'] / row['K reads']:.2f}",
        f"{row['ms'] / theirs:.2f}" if theirs else "",
        f"{share:.2%}" + (" **over 5 %**" if share > 0.05 else ""),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
