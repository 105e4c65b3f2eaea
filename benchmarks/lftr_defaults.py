"""How the defaults of LFTR were chosen, on the validation split of the bundled suite.

    python benchmarks/lftr_defaults.py [--n 800] [--json]

One option at a time around the default, at 4x, 8x and 16x, beside the literal reading of the paper
and the controls. The choice is by the mean relative accuracy over the three ratios.
The test split is not looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _accuracy import run

from lftr.methods import Lftr, get_method

DEFAULT = Lftr()
VARIANTS: dict[str, Any] = {
    "default": DEFAULT,
    "literal (near, drop, rank)": Lftr(direction="near", diversity=0.0, leftovers="drop"),
    "far, drop, rank": Lftr(direction="far", diversity=0.0, leftovers="drop"),
    "far, merge, rank": Lftr(direction="far", diversity=0.0, leftovers="merge"),
    "near": replace(DEFAULT, direction="near"),
    "descriptor cls": replace(DEFAULT, descriptor="cls"),
    "descriptor cls-attention": replace(DEFAULT, descriptor="cls-attention", direction="near"),
    "text +": replace(DEFAULT, relevance="text"),
    "text -": replace(DEFAULT, relevance="text", text_sign="negative"),
    "both +": replace(DEFAULT, relevance="both"),
    "both -": replace(DEFAULT, relevance="both", text_sign="negative"),
    "drop": replace(DEFAULT, leftovers="drop"),
    **{f"diversity {d}": replace(DEFAULT, diversity=d) for d in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)},
    **{f"candidates {c}": replace(DEFAULT, candidates=c) for c in (2.0, 3.0, 4.0, 8.0, 1000.0)},
    **{
        f"drop, diversity {d}, all candidates": replace(
            DEFAULT, leftovers="drop", diversity=d, candidates=1000.0
        )
        for d in (0.5, 0.75, 1.0)
    },
    "random": get_method("random"),
    "uniform": get_method("uniform"),
    "pool": get_method("pool"),
    "downsample": get_method("downsample"),
}

if __name__ == "__main__":
    run(VARIANTS, "lftr_defaults", "python benchmarks/lftr_defaults.py", __doc__)
