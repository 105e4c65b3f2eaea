"""How far reduction moves embeddings, and whether their nearest neighbours stay the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...hosts.transformers.encoder.encode_cache import encode_once
from ...values.errors import ArgumentError, LftrError
from ..asking.answering import inputs_for
from ..asking.items import QuestionLike
from ..asking.settings import Setting


def cosine(full: Tensor, reduced: Tensor) -> Tensor:
    """Return the cosine between each embedding and its reduced version.

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
        Number of nearest neighbours, smaller than the number of other items.
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
    right, got = _nearest(full, queries, k), _nearest(reduced, queries, k)
    return (right[:, :, None] == got[:, None, :]).any(2).float().mean(1)


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


def embed_all(
    model: Any,
    processor: Any,
    asked: Sequence[QuestionLike],
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
    parts: list[list[Tensor]] = [[] for _ in settings]
    for start in range(0, len(asked), batch):
        members = asked[start : start + batch]
        embedded = embed_batch(model, processor, members, settings, text_tower=text_tower)
        for rows, one in zip(parts, embedded, strict=True):
            rows.append(one.states)
    return [torch.cat(rows) for rows in parts]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of prompts under one setting.

    Attributes
    ----------
    states : Tensor
        ``(B, D)``, float32, on the CPU.
    kept : tuple of float
        Number of visual tokens of each prompt in a decoder layer, mean over the layers.
    """

    states: Tensor
    kept: tuple[float, ...]

    @classmethod
    def joined(cls, parts: Sequence[Embedded]) -> Embedded:
        """Concatenate several parts, in order."""
        kept = tuple(value for part in parts for value in part.kept)
        return cls(torch.cat([part.states for part in parts]), kept)


@torch.inference_mode()
def embed_batch(
    model: Any,
    processor: Any,
    asked: Sequence[QuestionLike],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
) -> Iterator[Embedded]:
    """Embed a batch of prompts under each setting; their images are encoded once.

    Raises
    ------
    LftrError
        If the model does not support a setting, which the message names.
    """
    inputs = inputs_for(model, processor, asked)
    with encode_once(model):
        for setting in settings:
            try:
                guided = setting.reduce(model, asked, processor=processor, text_tower=text_tower)
                with guided as reduction:
                    output = model(**inputs, output_hidden_states=True, logits_to_keep=1)
            except LftrError as error:
                raise setting.named(error) from None
            states = output.hidden_states[-1][:, -1].float().cpu().contiguous()
            kept = tuple(reduction.report.kept_by(row) for row in range(len(asked)))
            yield Embedded(states, kept)
