"""The search for our own rule, on the validation split of the bundled suite.

    python benchmarks/coverage_search.py [--n 320] [--json]
    python benchmarks/coverage_search.py --test [--n 320]

One part of the rule changed or left out at a time, beside the strongest of the other methods. The
test split is not looked at, save by the second command, which was run once the rule was fixed: it
sets the rule beside the others, with the paired difference to each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from _accuracy import run

from lftr.methods import Coverage, Lftr, Merge, Mix, Then, get_method
from lftr.methods.base import Evidence, Method
from lftr.methods.before.coverage import GUIDED
from lftr.values.selection import Selection
from lftr.values.tokens import VisualTokens

ALL = float("inf")
ALONE = Coverage(asked=0.0)


@dataclass(frozen=True)
class OwnWords(Method):
    """A method guided by the prompt's own embeddings, as where there is no text tower."""

    inner: Method

    @property
    def evidence(self) -> Evidence:
        """As if this host could give no other text."""
        return (("encoder_features",), ("text_token_embeds",))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose as the method inside."""
        return self.inner.choose(tokens, keep)


OTHERS: dict[str, Any] = {
    "lftr": Lftr(),
    "divprune": get_method("divprune"),
    "Merge(divprune)": Merge("divprune"),
    "Then(divprune, tome)": Then("divprune", "tome"),
    "visual-grouping": get_method("visual-grouping"),
    "prumerge-plus": get_method("prumerge-plus"),
}
VARIANTS: dict[str, Any] = {
    "coverage": Coverage(),
    **{f"coverage, asked {share}": Coverage(asked=share) for share in (0.0, 0.25, 0.75)},
    "text alone": GUIDED,
    "coverage, then the text": Mix(ALONE, GUIDED),
    "more candidates for the text, then coverage": Mix(replace(GUIDED, candidates=1.5), ALONE),
    "coverage, all candidates": Coverage(candidates=ALL),
    "coverage, asked 0.0, all candidates": Coverage(asked=0.0, candidates=ALL),
    "coverage, rest merged": Coverage(leftovers="merge"),
    "Merge(coverage)": Merge("coverage"),
    "coverage, width 0.1": Coverage(width=0.1),
    "lftr, then coverage": Mix("lftr", ALONE),
    "coverage, guided by the prompt's own embeddings": OwnWords(Mix(GUIDED, ALONE)),
    **OTHERS,
}

if __name__ == "__main__":
    final = {"coverage": VARIANTS["coverage"], "coverage, asked 0.0": ALONE} | OTHERS
    run(VARIANTS, "coverage_search", "python benchmarks/coverage_search.py", __doc__, final)
