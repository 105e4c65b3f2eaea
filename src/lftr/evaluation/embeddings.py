"""How far reduction moves embeddings, and whether an index built on them finds the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import ArgumentError
from ..hosts.transformers.memory import encode_once
from ..reduce import reduce
from .answering import Asked, inputs_for
from .settings import Setting


def cosine(full: Tensor, reduced: Tensor) -> Tensor:
    """Return the cosine between each embedding and its reduced self.

    Parameters
    ----------
    full, reduced : Tensor
        ``(N, D)``, row by row of the same item.

    Returns
    -------
    Tensor
        ``(N,)``, float32, in [-1, 1].

    Raises
    ------
    ArgumentError
        If the shapes differ.
    """
    _check(full, reduced)
    return torch.cosine_similarity(full.float(), reduced.float(), dim=1)


def recall_agreement(
    full: Tensor, reduced: Tensor, k: int = 10, queries: Tensor | None = None
) -> Tensor:
    """Return, query by query, the share of the full index's top ``k`` that the reduced one finds.

    Parameters
    ----------
    full, reduced : Tensor
        ``(N, D)``, an index of the same items; compared by cosine.
    k : int
        How many are looked up, fewer than there are items to find.
    queries : Tensor, optional
        ``(Q, D)``, looked up in both. Without, every item looks for its neighbours in its own
        index, itself left out.

    Returns
    -------
    Tensor
        ``(Q,)`` or ``(N,)``, from 0 to 1.

    Raises
    ------
    ArgumentError
        If the shapes differ or ``k`` is out of range.
    """
    _check(full, reduced)
    most = len(full) - (queries is None)
    if not 1 <= k <= most:
        raise ArgumentError.of("k", k, f"a whole number from 1 to {most}")
    whole, own = _nearest(full, queries, k), _nearest(reduced, queries, k)
    return (whole[:, :, None] == own[:, None, :]).any(2).float().mean(1)


def _nearest(index: Tensor, queries: Tensor | None, k: int) -> Tensor:
    items = normalize(index.float(), dim=1)
    if queries is None:
        alike = (items @ items.mT).fill_diagonal_(-torch.inf)
    else:
        alike = normalize(queries.float(), dim=1) @ items.mT
    return alike.topk(k, dim=1).indices


def _check(full: Tensor, reduced: Tensor) -> None:
    if full.ndim != 2 or full.shape != reduced.shape:
        raise ArgumentError.of("reduced", tuple(reduced.shape), f"as full, {tuple(full.shape)}")


@torch.inference_mode()
def embed_all(
    model: Any,
    processor: Any,
    asked: Sequence[Asked],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    batch: int = 8,
) -> list[Tensor]:
    """Embed every prompt under every setting: the last layer's state of the prompt's last token.

    That is what embedding models made of multimodal LLMs pool (VLM2Vec, GME).

    Returns
    -------
    list of Tensor
        One ``(len(asked), D)`` for each setting, float32, on the CPU.
    """
    found: list[list[Tensor]] = [[] for _ in settings]
    for start in range(0, len(asked), batch):
        members = asked[start : start + batch]
        questions = [one.question for one in members]
        inputs = inputs_for(model, processor, members)
        with encode_once(model):
            for setting, rows in zip(settings, found, strict=True):
                guided = reduce(
                    model,
                    setting.method,
                    keep=setting.keep,
                    positions=setting.positions,
                    text=questions,
                    processor=processor,
                    text_tower=text_tower,
                )
                with guided:
                    output = model(**inputs, output_hidden_states=True, logits_to_keep=1)
                rows.append(output.hidden_states[-1][:, -1].float().cpu())
    return [torch.cat(rows) for rows in found]
