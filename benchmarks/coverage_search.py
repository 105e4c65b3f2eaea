"""The search for our own rule, on the validation split of the bundled suite.

    python benchmarks/coverage_search.py [--n 800] [--json]

The test split is not looked at; ``benchmarks/methods_accuracy.py`` reports the choice on it once.
"""

from __future__ import annotations

from typing import Any

from _accuracy import run

from lftr.methods import Adaptive, Coverage, Lftr, Merge, Mix, get_method

ALL = 1e6
VARIANTS: dict[str, Any] = {
    **{
        f"coverage width {w} sharpness {s}": Coverage(width=w, sharpness=s)
        for w in (0.05, 0.1, 0.2, 0.4, 0.8)
        for s in (0.0, 1.0, 2.0)
    },
    "coverage 0.2/1 merged": Coverage(width=0.2, sharpness=1.0, leftovers="merge"),
    "coverage 0.2/0 merged": Coverage(width=0.2, sharpness=0.0, leftovers="merge"),
    "coverage 0.4/1 merged": Coverage(width=0.4, sharpness=1.0, leftovers="merge"),
    **{
        f"mmr {d} {left}": Lftr(diversity=d, candidates=ALL, leftovers=left)
        for d in (0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
        for left in ("drop", "merge")
    },
    "mmr 0.8 8K": Lftr(diversity=0.8, candidates=8.0, leftovers="drop"),
    "mmr 0.9 8K": Lftr(diversity=0.9, candidates=8.0, leftovers="drop"),
    "divprune": get_method("divprune"),
    "Merge(divprune, own 0.6)": Merge("divprune", own=0.6),
    "Merge(divprune, similarity)": Merge("divprune", weighting="similarity"),
    "scope alpha 0": get_method("scope", alpha=0.0),
    "scope alpha 0.5": get_method("scope", alpha=0.5),
    "Mix(divprune, fastervlm)": Mix("divprune", "fastervlm"),
    "Mix(divprune, pool)": Mix("divprune", "pool", share=0.75),
    "Adaptive(divprune)": Adaptive("divprune"),
}

if __name__ == "__main__":
    run(VARIANTS, "coverage_search", "python benchmarks/coverage_search.py", __doc__)
