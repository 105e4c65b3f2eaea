"""What weights of slots cost: prefill and decoding with them over without, and the decision.

    python benchmarks/weights_cost.py [--rounds 15] [--json]

A LLaVA of LLaVA-1.5-7B's layer widths with two decoder layers (random weights), 40 tokens of text
and an image whose 576 tokens are merged into 36 or 144 slots, always by the same decision; one CPU
thread. One row goes through extra channels of queries and keys (SDPA makes its own causal mask), a
padded batch through the mask that it has anyway. The last rows are LFTR alone at 576 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from prefill import prompt, real_width

import lftr
from lftr.hosts.transformers.encoder.encode_cache import encode_once

COMMAND = "python benchmarks/weights_cost.py"
STEPS = 6


@dataclass(frozen=True)
class Neighbours(lftr.Method):
    """Merges runs of neighbours: a decision that costs next to nothing."""

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        """Return equal runs of neighbours."""
        batch = len(tokens.features)
        slot = (torch.arange(tokens.count) * keep) // tokens.count
        number = torch.bincount(slot, minlength=keep)
        index = number.cumsum(0) - number
        source = torch.arange(tokens.count)
        parts = (source, slot, 1.0 / number[slot])
        flow = lftr.Flow(*(part.expand(batch, -1) for part in parts))
        return lftr.Selection(index.expand(batch, -1), flow)


def padded(inputs: dict[str, Any], pad: int) -> dict[str, Any]:
    """Return a batch of two rows, the second with ``pad`` columns of padding on the left."""
    ids = torch.cat([inputs["input_ids"]] * 2)
    mask = torch.ones_like(ids)
    ids = torch.nn.functional.pad(ids, (pad, 0), value=0)
    mask = torch.nn.functional.pad(mask, (pad, 0))
    ids[0, :pad], mask[0, :pad] = 5, 1
    pixels = torch.cat([inputs["pixel_values"]] * 2)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@torch.inference_mode()
def against_none(model: Any, inputs: dict[str, Any], keep: float, rounds: int) -> dict[str, Any]:
    """Time prefill and decoding with weights and without, in turns."""
    settings = {"do_sample": False, "min_new_tokens": STEPS, "max_new_tokens": STEPS}

    def run(weights: str, decode: bool) -> Any:
        with lftr.reduce(model, Neighbours(), keep=keep, weights=weights):
            if decode:
                return model.generate(**inputs, **settings)
            return model(**inputs, logits_to_keep=1)

    calls = [(w, d) for d in (False, True) for w in ("size", "none")]
    with encode_once(model):
        times = paired([lambda one=one: run(*one) for one in calls], rounds)
    steps = [[g - p for g, p in zip(times[2 + i], times[i], strict=True)] for i in (0, 1)]
    return {
        "rows": len(inputs["input_ids"]),
        "kept": lftr.values.budget.resolve(keep, 576),
        "prefill_ms": median(times[1]),
        "prefill": ratio(times[0], times[1]),
        "decode": ratio(steps[0], steps[1]),
    }


@torch.inference_mode()
def decision(rounds: int) -> list[dict[str, Any]]:
    """Time LFTR's decision, and merging by it."""
    generator = torch.Generator().manual_seed(0)
    features, seen = (torch.randn(576, 1024, generator=generator) for _ in range(2))
    tokens = lftr.VisualTokens(features, grid=(1, 24, 24), encoder_features=seen)
    found = []
    for rounds_of, space in ((0, "both"), (3, "both"), (0, "encoder")):
        method = lftr.get_method("lftr", rounds=rounds_of, space=space)
        chosen = method.select(tokens, 36)
        calls = [lambda m=method: m.select(tokens, 36), lambda c=chosen: c.apply(features)]
        times = paired([*calls, lambda: features @ features.T], rounds * 2)
        found.append(
            {
                "rounds": rounds_of,
                "space": space,
                "select_ms": median(times[0]),
                "apply_ms": median(times[1]),
                "over_gram": ratio(times[0], times[2]),
            }
        )
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    model = real_width()
    model.generation_config.eos_token_id = None
    one = prompt(model)
    batches = [one, padded(one, 7)]
    rows = [against_none(model, b, keep, rounds) for b in batches for keep in (1 / 16, 1 / 4)]
    return {"rows": rows, "decision": decision(rounds)}


def report(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        [
            str(one["rows"]),
            str(one["kept"]),
            f"{one['prefill_ms'][0]:.1f}",
            *(f"{one[n][0]:.3f} ({one[n][1]:.3f}-{one[n][2]:.3f})" for n in ("prefill", "decode")),
        ]
        for one in figures["rows"]
    ]
    head = ["rows", "slots", "prefill ms", "prefill, weights over none", "decoding"]
    more = [
        [
            one["space"],
            str(one["rounds"]),
            f"{one['select_ms'][0]:.2f} ({one['select_ms'][1]:.2f})",
            f"{one['apply_ms'][0]:.2f}",
            f"{one['over_gram'][0]:.2f}",
        ]
        for one in figures["decision"]
    ]
    own = ["space", "rounds of k-means", "select ms (IQR)", "apply ms", "select over X @ X.T"]
    return f"{table(head, lines)}\n\n{table(own, more)}"


if __name__ == "__main__":
    timed("weights_cost", COMMAND, __doc__, 15, measure, report)
