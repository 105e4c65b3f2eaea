"""The search for our own rule, on the validation split of the bundled suite.

    python benchmarks/coverage_search.py [--n 800] [--json]

The test split is not looked at; ``benchmarks/methods_accuracy.py`` reports the choice on it once.
"""

from __future__ import annotations

from typing import Any

from _accuracy import run

from lftr.methods import Adaptive, Coverage, Lftr, Merge, Mix, get_method

ALL = float("inf")
VARIANTS: dict[str, Any] = {
    **{
        f"coverage width {w} sharpness {s}": Coverage(width=w, sharpness=s)
        for w in (0.1, 0.3, 0.8)
        for s in (0.0, 0.25, 1.0)
    },
    "coverage": Coverage(),
    "coverage, all candidates": Coverage(candidates=ALL),
    "coverage, merged": Coverage(leftovers="merge"),
    "lftr": Lftr(),
    "lftr, merged": Lftr(leftovers="merge"),
    "lftr, all candidates": Lftr(candidates=ALL),
    "Mix(coverage, lftr)": Mix("coverage", "lftr"),
    "Mix(lftr, fastervlm)": Mix("lftr", "fastervlm", share=0.8),
    "Mix(lftr, pool)": Mix("lftr", "pool", share=0.75),
    "Merge(divprune)": Merge("divprune"),
    "Adaptive(divprune)": Adaptive("divprune"),
    "divprune": get_method("divprune"),
    "scope alpha 0.5": get_method("scope", alpha=0.5),
    "visual-grouping": get_method("visual-grouping"),
}

if __name__ == "__main__":
    run(VARIANTS, "coverage_search", "python benchmarks/coverage_search.py", __doc__)
