"""How LFTR's former default was chosen, on the bundled validation split, without weights of slots.

    python benchmarks/lftr_defaults.py [--n 800] [--json]

One option at a time around that default, at 4x, 8x and 16x, beside the literal reading of the
paper and the controls, by the mean relative accuracy over the three ratios. vLLM still uses it with
``--weights none``. Since slots have weights, the defaults of ``space``, ``candidates`` and
``leftovers`` are others, chosen by ``benchmarks/weights.py``. The test split is not looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _accuracy import run

from lftr.methods import Lftr, get_method

ALL = float("inf")
DEFAULT = Lftr(space="encoder", candidates=1.0, leftovers="drop")
RANKED = replace(DEFAULT, diversity=0.0, candidates=ALL)
VARIANTS: dict[str, Any] = {
    "former default": DEFAULT,
    "literal: near the frame, ranked": replace(RANKED, direction="near"),
    "far from the frame, ranked": RANKED,
    "far from the frame, ranked, merged": replace(RANKED, leftovers="merge"),
    "leftovers merged": replace(DEFAULT, leftovers="merge"),
    "among relevant": replace(DEFAULT, among="relevant"),
    **{f"candidates {c}": replace(DEFAULT, candidates=c) for c in (0.75, 1.5, 2.0, ALL)},
    "all candidates, merged": replace(DEFAULT, candidates=ALL, leftovers="merge"),
    **{f"diversity {d}": replace(DEFAULT, diversity=d) for d in (0.0, 0.5, 0.9)},
    "diversity 0.9, near the frame": replace(DEFAULT, diversity=0.9, direction="near"),
    "diversity 0.9, descriptor cls": replace(DEFAULT, diversity=0.9, descriptor="cls"),
    "diversity 0.9, cls-attention": replace(DEFAULT, diversity=0.9, descriptor="cls-attention"),
    "diversity 0.9, text +": replace(DEFAULT, diversity=0.9, relevance="text"),
    "diversity 0.9, text -": replace(
        DEFAULT, diversity=0.9, relevance="text", text_sign="negative"
    ),
    "diversity 0.9, both +": replace(DEFAULT, diversity=0.9, relevance="both"),
    "random": get_method("random"),
    "uniform": get_method("uniform"),
    "pool": get_method("pool"),
    "downsample": get_method("downsample"),
}

if __name__ == "__main__":
    run(VARIANTS, "lftr_defaults", "python benchmarks/lftr_defaults.py", __doc__)
