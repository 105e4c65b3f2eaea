"""A method of one's own: a dataclass with one function, usable wherever a name is.

Run: python examples/own_method.py
"""

from dataclasses import dataclass
from typing import Annotated

import torch

import lftr


@dataclass(frozen=True)
class Colourful(lftr.Method, name="colourful"):
    """Keep the tokens that lie farthest from the mean of their image, edges counted less.

    Parameters
    ----------
    edge : float
        How much a token on the rim counts, in [0, 1].
    """

    edge: Annotated[float, lftr.Range(0.0, 1.0)] = 0.5

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        """See a stack of images, ``(B, N, C)``, and return ``keep`` tokens of each."""
        distance = (tokens.features - tokens.features.mean(dim=1, keepdim=True)).norm(dim=-1)
        _, rows, columns = tokens.blocks[0]
        _, row, column = tokens.coordinates.unbind(dim=1)
        rim = (row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1)
        return lftr.Selection.top(distance * torch.where(rim, self.edge, 1.0), keep)


# pure, without any model
tokens = lftr.VisualTokens(torch.randn(576, 64), grid=(1, 24, 24))
selection = lftr.get_method("colourful", edge=0.2).select(tokens, keep=1 / 16)
print(selection.index.tolist())

# and on one, by its name; `lftr.methods.Merge("colourful")` would merge what it drops
model, processor = lftr.bundled.load()
print(lftr.reduce(model, "colourful", tokens=36))
