"""Text evidence for the rows of a call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import ArgumentError
from ...evidence.text import prompt_embeddings
from .plan import Plan


def row_texts(
    model: Any, plan: Plan, evidence: frozenset[str], input_ids: Tensor, words: Tensor
) -> dict[str, list[Tensor]]:
    """Return the text evidence that is asked for, a tensor for each row.

    Parameters
    ----------
    evidence : frozenset of str
        What is to be gathered.
    input_ids : Tensor, shape (B, L)
        The prompt.
    words : Tensor of bool, shape (B, L)
        Columns that are neither visual nor padding.
    """
    found: dict[str, list[Tensor]] = {}
    if "text_token_embeds" in evidence:
        embed = model.get_input_embeddings()
        own = prompt_embeddings(embed, input_ids, words, _special_ids(model))
        if not all(len(row) for row in own):
            raise ArgumentError.of("input_ids", "a row without text", "text to be guided by")
        found["text_token_embeds"] = [row.detach() for row in own]
    if "text_embeds" in evidence and plan.tower is not None:
        found["text_embeds"] = [
            plan.tower.embed(_text(plan, row, ids[mask]))
            for row, (ids, mask) in enumerate(zip(input_ids, words, strict=True))
        ]
    return found


def _text(plan: Plan, row: int, ids: Tensor) -> str:
    text = plan.text
    if isinstance(text, str):
        return text
    if text is not None and row < len(text):
        return text[row]
    if text is None and plan.decode is not None:
        return plan.decode(ids)
    raise ArgumentError.of(
        "text", text, "the question (one, or one for each row), or processor=... to decode it"
    )


def _special_ids(model: Any) -> list[int]:
    """Return ids of begin, end and padding, from wherever the model states them."""
    found: set[int] = set()
    for source in (
        model.config,
        getattr(model.config, "text_config", None),
        model.generation_config,
    ):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(source, name, None)
            found.update(
                value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            )
    return sorted(token for token in found if token is not None)
