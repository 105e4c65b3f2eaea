"""Text evidence for the rows of a call."""

from __future__ import annotations

import torch
from torch import Tensor

from ....evidence.text import prompt_embeddings
from ....values.errors import ArgumentError
from ...items import Plan
from ..api import Call, Model

_MARKS = [
    f"{what}_{end}_token_id" for what in ("vision", "image", "video") for end in ("start", "end")
]
_SPECIAL = ["bos_token_id", "eos_token_id", "pad_token_id", *_MARKS]


def row_texts(
    model: Model, plan: Plan, evidence: frozenset[str], input_ids: Tensor, words: Tensor
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

    Raises
    ------
    ArgumentError
        If ``text`` is not one for each row, cannot be read by this model, or nobody gave any.
    """
    text = plan.text
    if text is not None and not isinstance(text, str) and len(text) != len(input_ids):
        raise ArgumentError.of("text", text, f"one question, or {len(input_ids)}, one for each row")
    found: dict[str, list[Tensor]] = {}
    if "text_token_embeds" in evidence:
        embed = model.get_input_embeddings()
        if text is None:
            own = prompt_embeddings(embed, input_ids, words, _special_ids(model))
        else:
            rows = [_ids(plan, _text(plan, row, ids)) for row, ids in enumerate(input_ids)]
            own = [embed(row.to(input_ids.device)) for row in rows]
        if not all(len(row) for row in own):
            name = Call.name("ids") if text is None else "text"
            raise ArgumentError.of(name, "a row without text", "text to be guided by")
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
    if text is not None:
        return text[row]
    if plan.tokenizer is not None:
        return str(plan.tokenizer.decode(ids, skip_special_tokens=True))
    raise ArgumentError.of(
        "text", text, "the question (one, or one for each row), or processor=... to decode it"
    )


def _ids(plan: Plan, text: str) -> Tensor:
    if not callable(plan.tokenizer):
        raise ArgumentError.of(
            "text",
            text,
            "a text with text_tower=... (CLIP's text side) or processor=... (to embed it by this "
            "model); without text=, the prompt itself guides",
        )
    ids = plan.tokenizer(text, add_special_tokens=False)[Call.name("ids")]
    return torch.tensor(ids, dtype=torch.long)


def _special_ids(model: Model) -> list[int]:
    """Return ids of begin, end, padding and of marks around pictures, wherever a model has them."""
    found: set[int] = set()
    for source in (
        model.config,
        getattr(model.config, "text_config", None),
        model.generation_config,
    ):
        for name in _SPECIAL:
            value = getattr(source, name, None)
            found.update(
                value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            )
    return sorted(token for token in found if token is not None)
