"""What decisions cost, beside yardsticks of the same run: ``python benchmarks/peers.py``.

One image of 576 tokens, C = 1024, float32, one CPU thread (its processor time, which others on the
machine disturb least), all in turns. Yardsticks: all products of the features with themselves
(``X @ X.T``), the mean of the CLS attention over heads with its highest K (what ranking by
attention is at the least), and one layer of CLIP-L/336 (random weights; an encoder has 24).
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from methods import item
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

import lftr

COMMAND = "python benchmarks/peers.py"
TOKENS, WIDTH, KEEP = 576, 1024, (36, 64, 192)
METHODS = [
    ("lftr", {}),
    ("lftr", {"space": "encoder"}),
    ("lftr", {"space": "encoder", "candidates": 1.0, "leftovers": "drop"}),
    ("coverage", {}),
    ("coverage", {"asked": 0.0}),
    *((name, {}) for name in ("cdpruner", "divprune", "dart", "fastervlm", "greedy-nms")),
    *((name, {}) for name in ("hiprune", "scope", "trim", "uniform", "vispruner")),
]


@torch.inference_mode()
def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the figures of every budget."""
    tokens = item(1, TOKENS, "cpu").item(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4096,
        num_attention_heads=16,
        attn_implementation="sdpa",
    )
    layer, states = CLIPEncoderLayer(config).eval(), torch.randn(1, TOKENS + 1, WIDTH)
    x, attention = tokens.features, tokens.cls_attention
    rows = []
    for keep in KEEP:
        calls = {
            "`X @ X.T`": lambda: x @ x.T,
            "highest K of the mean attention": lambda k=keep: (
                attention.mean(0).topk(k).indices.sort()
            ),
            "one layer of CLIP-L": lambda: layer(states, None),
        }
        for name, options in METHODS:
            method = lftr.get_method(name, **options)
            asked = {field for need in method.evidence for field in need} | {"features"}
            unasked = {field: None for field in lftr.values.evidence.FIELDS if field not in asked}
            some = dataclasses.replace(tokens, **unasked)
            said = ", ".join(f"{key}={value!r}" for key, value in options.items())
            called = f"`{name}`" + (f" ({said})" if said else "")
            calls[called] = lambda m=method, t=some, k=keep: m.select(t, k)
        times = paired(list(calls.values()), rounds, clock=time.thread_time)
        for name, seen in zip(calls, times, strict=True):
            rows.append({"keep": keep, "name": name, "ms": median(seen)})
            rows[-1]["over_gram"] = ratio(seen, times[0])
    return rows


def report(figures: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    parts = []
    for keep in KEEP:
        lines = [
            [
                row["name"],
                f"{row['ms'][0]:.3g} ({row['ms'][1]:.2g})",
                "{:.3g} ({:.3g}-{:.3g})".format(*row["over_gram"]),
            ]
            for row in figures
            if row["keep"] == keep
        ]
        parts.append(f"K = {keep}\n\n{table(['', 'ms (IQR)', 'over X @ X.T'], lines)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    timed("peers", COMMAND, __doc__, 15, measure, report)
