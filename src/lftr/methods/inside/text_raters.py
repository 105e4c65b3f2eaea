"""SparseVLM's raters: the words of the prompt that speak of the image."""

from __future__ import annotations

from torch import Tensor

from .base import LayerView


def raters(view: LayerView) -> Tensor:
    """Return the rows of the text that may rate visual tokens.

    Found at the first view of a prompt, and remembered: text that takes more than the mean share of
    a softmax, over the text, of its product with each visual token. Where no word is above the
    mean, all are.
    """
    if "raters" not in view.memory:
        states = view.states.float()
        text = states[view.asking]
        share = (states[view.visual] @ text.T).softmax(dim=1).mean(dim=0)
        above = share > share.mean()
        view.memory["raters"] = above if bool(above.any()) else ~above
    chosen: Tensor = view.asking[view.memory["raters"]]
    return chosen
