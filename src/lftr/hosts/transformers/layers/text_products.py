"""Products of the text's queries with the keys of visual tokens, in the first decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_not_recorded, recording
from ....values.errors import UnsupportedModelError
from ..api import CallArguments
from .heads import Capture, Stopped

_ROUNDING = 0.05  # relative; of a matrix product whose rows are computed in another order


@torch.no_grad()
def text_products(decoder: nn.Module, attention: nn.Module, text: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean product of the text's queries with the key of each token, without positions.

    The language model runs up to its first attention, with all tokens at position 0, where rotary
    embeddings rotate nothing. One text token is passed twice: if its queries differ, they depend on
    more than the token.

    Parameters
    ----------
    decoder : nn.Module
        The part of the language model that holds its layers.
    attention : nn.Module
        The attention of its first layer.
    text : Tensor, shape (L, C)
        Embeddings of the text.
    tokens : Tensor, shape (N, C)
        The visual tokens.

    Returns
    -------
    Tensor, shape (heads, N)
        Float32, with the factor that the attention applies to its products.

    Raises
    ------
    UnsupportedModelError
        If the queries and keys cannot be read, or depend on the tokens' order.
    """
    states = torch.cat([text, tokens.to(text), text[:1]]).unsqueeze(0)
    ones = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
    call = CallArguments().but(
        embeds=states, mask=ones, positions=torch.zeros_like(ones), caching=False
    )
    # not through the module itself, whose hooks are for the forward of the prompt
    forward: Callable[..., Any] = decoder.forward
    capture = Capture(stop=True)
    try:
        with recording(attention, capture):
            forward(**call)
    except Stopped:
        pass
    else:
        raise attention_not_recorded(attention)
    assert capture.query is not None
    assert capture.key is not None
    queries, keys = capture.query[0].float(), capture.key[0].float()
    for each in (queries, keys):
        if each.shape[1] != states.shape[1] or _differ(each[:, 0], each[:, -1]):
            raise UnsupportedModelError(
                f"the queries and keys of {type(attention).__name__} depend on where a token "
                "stands, also at position 0, so products without positions cannot be read; choose "
                "a method that does not need text_products"
            )
    middle = queries[:, : len(text)].mean(dim=1).unflatten(0, (len(keys), -1))
    products: Tensor = middle @ keys[:, len(text) : -1].mT
    return products.flatten(0, 1).mul_(capture.scale)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two rows of heads differ by more than rounding."""
    return bool((one - other).norm() > _ROUNDING * one.norm())
