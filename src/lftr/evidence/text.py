"""Text that guides a selection: the model's own embeddings, or a CLIP text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..values.errors import ArgumentError


@dataclass(frozen=True)
class TextTower:
    """The text side of a CLIP whose vision side is the model's encoder.

    LLaVA checkpoints leave it out, so a user who wants CLIP's text relevance (TRIM, CDPruner, LFTR
    with ``relevance="text"`` in CLIP's space) names it.

    Parameters
    ----------
    text_model : callable
        Maps ``input_ids`` and ``attention_mask`` to an output with ``text_embeds (M, P)``, such as
        `transformers.CLIPTextModelWithProjection`.
    tokenizer : callable
        The tokenizer that goes with it.
    visual_projection : nn.Module
        CLIP's projection of vision states to the shared space, ``D`` to ``P``.
    post_layernorm : nn.Module
        CLIP's layer norm before that projection.
    """

    text_model: Callable[..., Any]
    tokenizer: Callable[..., Any]
    visual_projection: nn.Module
    post_layernorm: nn.Module

    @classmethod
    def from_clip(cls, model: Any, tokenizer: Callable[..., Any]) -> TextTower:
        """Take the parts from a `transformers.CLIPModel`."""
        vision = model.vision_model
        return cls(_ClipText(model), tokenizer, model.visual_projection, vision.post_layernorm)

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """Return ``text`` in the shared space, a row for each stretch that fits the tower."""
        limit = getattr(self.tokenizer, "model_max_length", 77)
        encoded = self.tokenizer(
            text,
            truncation=True,
            max_length=min(int(limit), 77),
            return_overflowing_tokens=True,
            padding=True,
            return_tensors="pt",
        )
        device = self.visual_projection.weight.device
        inputs = {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}
        return self.text_model(**inputs).text_embeds  # type: ignore[no-any-return]

    @torch.no_grad()
    def project(self, encoder_features: Tensor) -> Tensor:
        """Return encoder features ``(N, D)`` in the shared space ``(N, P)``."""
        weight: Tensor = self.visual_projection.weight  # type: ignore[assignment]
        if encoder_features.shape[-1] != weight.shape[1]:
            raise ArgumentError.of(
                "text_tower",
                f"visual_projection of width {weight.shape[1]}",
                f"one of the encoder's width {encoder_features.shape[-1]}",
            )
        return self.visual_projection(  # type: ignore[no-any-return]
            self.post_layernorm(encoder_features.to(weight.dtype))
        )


class _ClipText(nn.Module):
    """The text side of a `transformers.CLIPModel`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.name_or_path = model.name_or_path
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def forward(self, **inputs: Tensor) -> Any:
        """Return the text model's output with ``text_embeds``."""
        output = self.text_model(**inputs)
        output.text_embeds = self.text_projection(output.pooler_output)
        return output


def prompt_embeddings(
    embeddings: nn.Module, input_ids: Tensor, text: Tensor, special: Sequence[int]
) -> list[Tensor]:
    """Return each row's own text embeddings ``(L, C)``: neither visual, nor padding, nor special.

    Parameters
    ----------
    embeddings : nn.Module
        The language model's input embeddings.
    input_ids : Tensor, shape (B, L)
        The prompt.
    text : Tensor of bool, shape (B, L)
        Columns that are neither visual nor padding.
    special : sequence of int
        Ids that carry no meaning (begin, end, padding).
    """
    plain = text
    for token in special:
        plain = plain & (input_ids != token)
    return [embeddings(row[mask]) for row, mask in zip(input_ids, plain, strict=True)]
