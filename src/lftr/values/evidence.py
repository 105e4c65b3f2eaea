"""The fields of evidence about tokens: shapes, what they are read from, who provides them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .errors import MissingEvidenceError

Origin = Literal[
    "features",  # the tokens themselves
    "projector",  # the input of the projector
    "attention",  # an attention layer of the encoder
    "cls",  # the attention of the encoder's CLS token
    "frames",  # the encoder's CLS outputs, or the means of the projector's inputs
    "tower",  # a CLIP text tower
    "prompt",  # the embeddings of the text
    "language",  # the first layer of the language model
    "caller",  # no host reads it
]


@dataclass(frozen=True)
class Field:
    """A field of `lftr.VisualTokens` that a method can ask for.

    Parameters
    ----------
    shape : str
        A letter for each dimension, N for tokens; equal letters must agree, see `VisualTokens`.
    origin : {"features", "projector", ...}
        What hosts read it from.
    provider : str
        Which models, or which arguments, provide it; for error messages.
    """

    shape: str
    origin: Origin
    provider: str


_ATTENTIVE = "encoders with attention layers; in lftr.reduce_module, lftr.ModuleEvidence(encoder=)"
_NO_HOST = "only the caller, no host reads it"

FIELDS = {
    "features": Field("NC", "features", "any model"),
    "encoder_features": Field("ND", "projector", "any encoder that lftr hosts"),
    "cls_attention": Field(
        "HN",
        "cls",
        "encoders with a CLS token (CLIP, EVA-CLIP, InternViT); in lftr.reduce_module, "
        "lftr.ModuleEvidence(encoder=)",
    ),
    "attention_received": Field("N", "attention", _ATTENTIVE),
    "attention_received_shallow": Field("N", "attention", _ATTENTIVE),
    "attention": Field("HNN", "caller", _NO_HOST),
    "keys": Field("NE", "attention", _ATTENTIVE),
    "queries": Field("NE", "caller", _NO_HOST),
    "visual_projected": Field(
        "NP", "tower", "CLIP towers, with a text tower in lftr.reduce(guidance=)"
    ),
    "text_embeds": Field("MP", "tower", "a CLIP text tower and a text in lftr.reduce(guidance=)"),
    "text_token_embeds": Field(
        "LC",
        "prompt",
        "any model, from the prompt's own embeddings; in lftr.reduce_module, "
        "lftr.ModuleEvidence(text=)",
    ),
    "text_products": Field(
        "HN", "language", "models whose first decoder layer has attention, in lftr.reduce"
    ),
    "frame_features": Field(
        "TF", "frames", "encoders with a CLS token, or models that take videos"
    ),
}


def fields_from(*origins: Origin) -> frozenset[str]:
    """Return the names of the fields that are read from any of ``origins``."""
    return frozenset(name for name, field in FIELDS.items() if field.origin in origins)


def from_rows(name: str, rows: Tensor) -> Tensor:
    """Return a field in its own shape, from one row for each token ``(N, channels)``."""
    shape = FIELDS[name].shape
    if shape == "N":
        return rows.squeeze(-1)
    return rows.mT if shape.endswith("N") else rows


def missing_evidence(names: Iterable[str], provider: str = "") -> MissingEvidenceError:
    """Return the error for a method that needs one of several fields, of which none is there.

    Parameters
    ----------
    names : iterable of str
        The fields.
    provider : str
        The model or module that cannot provide them; empty if the tokens came from the caller.
    """
    names = list(names)
    who = f", which {provider} cannot provide as it is" if provider else ""
    where = "; ".join(
        f"{name}: {FIELDS[name].provider if name in FIELDS else 'the caller'}" for name in names
    )
    return MissingEvidenceError(f"this method needs {' or '.join(names)}{who} ({where})")
