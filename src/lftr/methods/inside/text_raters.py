"""SparseVLM's raters: the text tokens of the prompt that are related to the image."""

from __future__ import annotations

from torch import Tensor

from .base import LayerView


def raters(view: LayerView) -> Tensor:
    """Return the rows of the text tokens whose attention ranks the visual tokens.

    They are computed at the first view of a prompt and kept in its memory. The product of each
    visual token with all text tokens is normalised by a softmax over the text. The raters are the
    text tokens whose share, averaged over visual tokens, is above the mean; all of them if none is.
    """
    if "raters" not in view.memory:
        states = view.states.float()
        text = states[view.asking]
        first, last = view.visual[[0, -1]].tolist()
        products = states[first : last + 1] @ text.T  # without a copy of the visual rows
        share = products[view.visual - first].softmax(dim=1).mean(dim=0)
        above = share > share.mean()
        view.memory["raters"] = above if bool(above.any()) else ~above
    chosen: Tensor = view.asking[view.memory["raters"]]
    return chosen
