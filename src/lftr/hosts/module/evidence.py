"""What a caller can add to the tokens of a module, so that more methods can choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...values.errors import ArgumentError
from ...values.evidence import fields_from


@dataclass(frozen=True, eq=False)
class ModuleEvidence:
    """Evidence about the tokens of a module, for methods that need more than features.

    Parameters
    ----------
    encoder : nn.Module, optional
        The vision encoder that runs before the module, or inside it. From its attention layers come
        ``cls_attention``, ``attention_received``, ``attention_received_shallow``, ``keys``,
        ``values`` and ``cls_value_similarity``, and ``encoder_features`` are what the module is
        given. Its attention modules have ``qkv`` or
        ``q_proj``, ``k_proj`` and ``v_proj``, then ``proj`` or ``out_proj``, as those of EVA, CLIP,
        SigLIP, InternViT and timm.
    layer : int
        The attention layer that is read, as an index: -1 is the last one. LLaVA uses the output of
        the layer before it, -2.
    cls_token : bool
        Whether the encoder's first token is a CLS token, as in EVA, CLIP and InternViT. SigLIP has
        none.
    text : Tensor or sequence of Tensor, shape (L, C)
        Embeddings of the question, of the width that the tokens have: one tensor for all rows, or
        one for each. They become ``text_token_embeds``.

    Raises
    ------
    ArgumentError
        If an argument has another type or shape.
    """

    encoder: nn.Module | None = None
    layer: int = -1
    cls_token: bool = True
    text: Tensor | Sequence[Tensor] | None = None

    def __post_init__(self) -> None:
        if self.encoder is not None and not isinstance(self.encoder, nn.Module):
            raise ArgumentError.of("encoder", type(self.encoder).__name__, "a torch.nn.Module")
        for one in self.texts or ():
            if not isinstance(one, Tensor) or one.ndim != 2:
                shape = getattr(one, "shape", type(one).__name__)
                raise ArgumentError.of("text", shape, "a tensor (L, C), or one for each row")

    @property
    def texts(self) -> list[Tensor] | None:
        """The embeddings for each row; a single entry is for all rows."""
        if self.text is None:
            return None
        return [self.text] if isinstance(self.text, Tensor) else list(self.text)

    @property
    def fields(self) -> frozenset[str]:
        """The fields of `lftr.VisualTokens` that this evidence provides."""
        fields: set[str] = set()
        if self.encoder is not None:
            fields |= (
                fields_from("attention", "cls") if self.cls_token else fields_from("attention")
            )
        if self.text is not None:
            fields |= fields_from("prompt")
        return frozenset(fields)

    def text_of(self, row: int, rows: int) -> Tensor:
        """Return the embeddings for one of ``rows`` rows."""
        texts = self.texts or []
        if len(texts) not in (1, rows):
            allowed = f"one tensor, or one for each of {rows} rows"
            raise ArgumentError.of("text", f"{len(texts)} tensors", allowed)
        return texts[row % len(texts)]
