"""Text evidence for the rows of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....evidence.guidance import Guidance
from ....evidence.text import prompt_embeddings
from ....values.errors import ArgumentError
from ....values.evidence import fields_from
from ..api import CallArguments, Model

_MARKS = [
    f"{what}_{end}_token_id" for what in ("vision", "image", "video") for end in ("start", "end")
]
_SPECIAL = ["bos_token_id", "eos_token_id", "pad_token_id", *_MARKS]


def row_texts(
    model: Model, guidance: Guidance, evidence: frozenset[str], input_ids: Tensor, words: Tensor
) -> dict[str, list[Tensor]]:
    """Return the requested text evidence, one tensor for each row.

    With the embeddings of the text also where evidence is read from the language model, which is
    given them.

    Parameters
    ----------
    evidence : frozenset of str
        The fields that are requested.
    input_ids : Tensor, shape (B, L)
        The prompt.
    words : Tensor of bool, shape (B, L)
        Columns that are neither visual tokens nor padding.

    Raises
    ------
    ArgumentError
        If there is no text, not one for each row, or this model cannot embed it.
    """
    text = guidance.text
    if text is not None and not isinstance(text, str) and len(text) != len(input_ids):
        raise ArgumentError.of("text", text, f"one question, or {len(input_ids)}, one for each row")
    texts: dict[str, list[Tensor]] = {}
    if evidence & fields_from("prompt", "language"):
        embed = model.get_input_embeddings()
        if text is None:
            embeds = prompt_embeddings(
                embed, input_ids, words, mark_ids(model.config, model.generation_config)
            )
        else:
            rows = [_ids(guidance, _text(guidance, row, ids)) for row, ids in enumerate(input_ids)]
            embeds = [embed(row.to(input_ids.device)) for row in rows]
        if not all(len(row) for row in embeds):
            name = CallArguments.name("ids") if text is None else "text"
            raise ArgumentError.of(name, "a row without text", "text to be guided by")
        texts["text_token_embeds"] = [row.detach() for row in embeds]
    if "text_embeds" in evidence and guidance.text_tower is not None:
        texts["text_embeds"] = [
            guidance.text_tower.embed(_text(guidance, row, ids[mask]))
            for row, (ids, mask) in enumerate(zip(input_ids, words, strict=True))
        ]
    return texts


def _text(guidance: Guidance, row: int, ids: Tensor) -> str:
    text = guidance.text
    if isinstance(text, str):
        return text
    if text is not None:
        return text[row]
    if guidance.tokenizer is not None:
        return str(guidance.tokenizer.decode(ids, skip_special_tokens=True))
    allowed = "the question (one, or one for each row), or a processor in guidance= to decode it"
    raise ArgumentError.of("text", text, allowed)


def _ids(guidance: Guidance, text: str) -> Tensor:
    if not callable(guidance.tokenizer):
        raise ArgumentError.of(
            "text",
            text,
            "a text with a text_tower (CLIP's text side) or a processor (to embed it by this "
            "model) in guidance=; without text, the prompt itself guides",
        )
    ids = guidance.tokenizer(text, add_special_tokens=False)[CallArguments.name("ids")]
    return torch.tensor(ids, dtype=torch.long)


def mark_ids(config: Any, generation_config: Any) -> list[int]:
    """Return the ids of begin, end, padding and of the marks around images that a model has."""
    special: set[int] = set()
    for source in (config, getattr(config, "text_config", None), generation_config):
        for name in _SPECIAL:
            value = getattr(source, name, None)
            special.update(
                value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            )
    return sorted(token for token in special if token is not None)
