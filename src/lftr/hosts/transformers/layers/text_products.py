"""Products of the text's queries with the keys of visual tokens, in the first decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_not_recorded, recording
from ....evidence.text_products import in_one_sequence, mean_products
from ..api import CallArguments
from .heads import Capture, Stopped


@torch.no_grad()
def text_products(decoder: nn.Module, attention: nn.Module, text: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean product of the text's queries with the key of each token, without positions.

    The language model runs up to its first attention, with all tokens at position 0, where rotary
    embeddings rotate nothing.

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
    states = in_one_sequence(text, tokens).unsqueeze(0)
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
    sizes = len(text), len(tokens)
    return mean_products(capture.query[0], capture.key[0], sizes, capture.scale, attention)
