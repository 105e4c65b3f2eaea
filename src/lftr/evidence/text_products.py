"""Products of a text's queries with the keys of tokens, from an attention that has seen both."""

from __future__ import annotations

import torch
from torch import Tensor

from ..values.errors import UnsupportedModelError

_ROUNDING = 0.05  # relative; of a matrix product whose rows are computed in another order


def in_one_sequence(text: Tensor, tokens: Tensor) -> Tensor:
    """Return the sequence ``(L + N + 1, C)`` whose queries and keys `mean_products` takes.

    The first text token is in it twice: if its queries differ, they depend on more than the token.

    Parameters
    ----------
    text : Tensor, shape (L, C)
        Embeddings of the text.
    tokens : Tensor, shape (N, C)
        The visual tokens.
    """
    return torch.cat([text, tokens.to(text), text[:1]])


def mean_products(
    queries: Tensor, keys: Tensor, sizes: tuple[int, int], scale: float, attention: object
) -> Tensor:
    """Return the products of keys with the mean query of the text, for each head.

    Parameters
    ----------
    queries, keys : Tensor, shapes (heads, L + N + 1, d) and (groups, L + N + 1, d)
        Of the sequence of `in_one_sequence`.
    sizes : tuple of int
        How many text tokens L and visual tokens N it has.
    scale : float
        The factor that the attention applies to its products.
    attention : object
        The attention that they come from, for the message of an error.

    Returns
    -------
    Tensor of float32, shape (heads, N)

    Raises
    ------
    UnsupportedModelError
        If the queries or keys depend on where a token stands.
    """
    queries, keys = queries.float(), keys.float()
    for each in (queries, keys):
        if each.shape[1] != sum(sizes) + 1 or _differ(each[:, 0], each[:, -1]):
            raise UnsupportedModelError(
                f"the queries and keys of {type(attention).__name__} depend on where a token "
                "stands, also at position 0, so products without positions cannot be read; choose "
                "a method that does not need text_products"
            )
    middle = queries[:, : sizes[0]].mean(dim=1).unflatten(0, (len(keys), -1))
    products: Tensor = middle @ keys[:, sizes[0] : -1].mT
    return products.flatten(0, 1).mul_(scale)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two rows of heads differ by more than rounding."""
    return bool((one - other).norm() > _ROUNDING * one.norm())
