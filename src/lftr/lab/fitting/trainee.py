"""The method that reduces a model while a part is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...methods.base import Evidence, Method
from ...values.selection import Selection
from ...values.tokens import VisualTokens


@dataclass
class Trainee(Method, spelled=False):
    """Shows the tokens of a batch, or passes on decisions about them that were made outside.

    Decisions are made outside of the model's call because `Method.select` has no gradient, and
    because a method must not see the answer, which follows the question while a part is fitted.

    Parameters
    ----------
    needs : Evidence
        The evidence to gather.

    Attributes
    ----------
    tokens : list of VisualTokens
        The items of the last call, in the order of the prompts.
    choices : list of Selection
        Decisions about the items of the next call; if empty, all tokens stay.
    """

    needs: Evidence
    tokens: list[VisualTokens] = field(default_factory=list)
    choices: list[Selection] = field(default_factory=list)

    @property
    def evidence(self) -> Evidence:
        """The evidence to gather."""
        return self.needs

    def count(self, tokens: VisualTokens, keep: object) -> int:
        """Return how many slots an item of this size has in ``choices``."""
        sizes = zip(self.tokens, self.choices, strict=False)
        return next((c.count for one, c in sizes if one.count == tokens.count), tokens.count)

    def select_all(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[Selection]:
        """Return ``choices``, or show the items and keep all of their tokens."""
        if self.choices:
            return self.choices
        self.tokens = list(items)
        return [Selection.everything(item.count) for item in items]
