"""What decisions cost, beside yardsticks of the same run: ``python benchmarks/peers.py``.

One image of 576 tokens, C = 1024, float32, one CPU thread (its processor time, which others on the
machine disturb least), all in turns. Yardsticks: all products of the features with themselves
(``X @ X.T``), the mean of the CLS attention over heads with its highest K (what ranking by
attention is at the least), and one layer of CLIP-L/336 (random weights; an encoder has 24).

Then what `Method.select` does around a rule, with a rule that returns a selection made before,
called many times in a row. Then one run each with an image of 16,384 tokens, of which 1,024 are
kept, beside ``X @ X.T`` and as many reads of the features (``X @ v``) as tokens are kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from methods import item
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

import lftr

COMMAND = "python benchmarks/peers.py"
TOKENS, WIDTH, KEEP = 576, 1024, (36, 64, 192)
LARGE, LARGE_KEEP = 16384, 1024
IN_A_ROW = 200
METHODS = [
    ("lftr", {}),
    ("lftr", {"space": "encoder"}),
    ("lftr", {"space": "encoder", "candidates": 1.0, "leftovers": "drop"}),
    ("coverage", {}),
    ("coverage", {"asked": 0.0}),
    *((name, {}) for name in ("cdpruner", "divprune", "dart", "fastervlm", "greedy-nms")),
    *((name, {}) for name in ("hiprune", "scope", "trim", "uniform", "vispruner")),
]
LARGE_METHODS = [
    *((name, {}) for name in ("lftr", "coverage", "cdpruner", "divprune", "greedy-nms")),
    *((name, {}) for name in ("scope", "vispruner")),
]


@dataclasses.dataclass(frozen=True)
class Ready(lftr.Method):
    """Returns a selection that was made before, so that what is timed is all around the rule."""

    selection: lftr.Selection
    sees_features = False

    @property
    def evidence(self) -> lftr.methods.base.Evidence:
        """The field that ranking by attention asks for, which is searched for NaN."""
        return (("cls_attention",),)

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        """Return the selection."""
        return self.selection


def selecting(
    method: lftr.Method, tokens: lftr.VisualTokens, keep: int
) -> Callable[[], lftr.Selection]:
    """Return a call that decides, from the evidence that the method asks for."""
    asked = {field for need in method.evidence for field in need} | {"features"}
    unasked = {field: None for field in lftr.values.evidence.FIELDS if field not in asked}
    some = dataclasses.replace(tokens, **unasked)
    return lambda: method.select(some, keep)


def decisions(
    methods: Sequence[tuple[str, dict[str, Any]]], tokens: lftr.VisualTokens, keep: int
) -> dict[str, Callable[[], Any]]:
    """Return the calls of some methods by their names with options."""
    calls = {}
    for name, options in methods:
        said = ", ".join(f"{key}={value!r}" for key, value in options.items())
        called = f"`{name}`" + (f" ({said})" if said else "")
        calls[called] = selecting(lftr.get_method(name, **options), tokens, keep)
    return calls


@torch.inference_mode()
def measure(rounds: int) -> dict[str, Any]:
    """Return the figures of every budget, and those of the large image."""
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
            **decisions(METHODS, tokens, keep),
        }
        times = paired(list(calls.values()), rounds, clock=time.thread_time)
        for name, seen in zip(calls, times, strict=True):
            rows.append({"keep": keep, "name": name, "ms": median(seen)})
            rows[-1]["over_gram"] = ratio(seen, times[0])
    ready = Ready(lftr.Selection(torch.arange(KEEP[0]).unsqueeze(0)))
    select = selecting(ready, tokens, KEEP[0])

    def in_a_row() -> None:
        for _ in range(IN_A_ROW):
            select()

    (spent,) = paired([in_a_row], rounds, clock=time.thread_time)
    around = median([one / IN_A_ROW for one in spent])
    return {"budgets": rows, "around": around, "large": large()}


def large() -> list[dict[str, Any]]:
    """Return the seconds of one run each with the large image."""
    tokens = item(1, LARGE, "cpu").item(0)
    x = tokens.features
    vector = x[0].clone()

    def reads() -> None:
        for _ in range(LARGE_KEEP):
            x @ vector

    calls = {"`X @ X.T`": lambda: x @ x.T, "K reads": reads}
    calls |= decisions(LARGE_METHODS, tokens, LARGE_KEEP)
    spent = [seen[0] / 1e3 for seen in paired(list(calls.values()), 1, 0, time.thread_time)]
    return [
        {"name": name, "s": s, "over_gram": s / spent[0], "over_reads": s / spent[1]}
        for name, s in zip(calls, spent, strict=True)
    ]


def report(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    parts = []
    for keep in KEEP:
        lines = [
            [
                row["name"],
                f"{row['ms'][0]:.3g} ({row['ms'][1]:.2g})",
                "{:.3g} ({:.3g}-{:.3g})".format(*row["over_gram"]),
            ]
            for row in figures["budgets"]
            if row["keep"] == keep
        ]
        parts.append(f"K = {keep}\n\n{table(['', 'ms (IQR)', 'over X @ X.T'], lines)}")
    around = "{:.2g} ms (IQR {:.1g})".format(*figures["around"])
    parts.append(f"`Method.select` around a rule: {around} a call, of {IN_A_ROW} in a row")
    lines = [
        [row["name"], *(f"{row[key]:.3g}" for key in ("s", "over_gram", "over_reads"))]
        for row in figures["large"]
    ]
    head = ["", "s", "over X @ X.T", "over K reads"]
    parts.append(f"N = {LARGE:,}, K = {LARGE_KEEP:,}, one run\n\n{table(head, lines)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    timed("peers", COMMAND, __doc__, 15, measure, report)
