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
    "cls",  # an attention layer of the encoder, for its CLS token
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
    meaning : str
        What it holds, in words for notes and lists.
    origin : {"features", "projector", ...}
        What hosts read it from.
    provider : str
        Which models, or which arguments, provide it; for error messages.
    """

    shape: str
    meaning: str
    origin: Origin
    provider: str


_ATTENTIVE = "encoders with attention layers; in lftr.reduce_module, lftr.ModuleEvidence(encoder=)"
_CLASSIFYING = (
    "encoders with a CLS token (CLIP, EVA-CLIP, InternViT); in lftr.reduce_module, "
    "lftr.ModuleEvidence(encoder=)"
)
_NO_HOST = "only the caller, no host reads it"

FIELDS = {
    "features": Field("NC", "features after the projector", "features", "any model"),
    "encoder_features": Field(
        "ND", "the encoder's features", "projector", "any encoder that lftr hosts"
    ),
    "cls_attention": Field(
        "HN",
        "attention of the encoder's CLS token",
        "cls",
        _CLASSIFYING,
    ),
    "attention_received": Field(
        "N", "attention that tokens receive in the encoder", "attention", _ATTENTIVE
    ),
    "attention_received_shallow": Field(
        "N",
        "attention that tokens receive in a middle layer of the encoder",
        "attention",
        _ATTENTIVE,
    ),
    "attention": Field("HNN", "the encoder's full attention", "caller", _NO_HOST),
    "keys": Field("NE", "the encoder's keys", "attention", _ATTENTIVE),
    "queries": Field("NE", "the encoder's queries", "caller", _NO_HOST),
    "values": Field("NE", "the encoder's values", "attention", _ATTENTIVE),
    "cls_value_similarity": Field(
        "N", "similarity of tokens' values to those of the CLS token", "cls", _CLASSIFYING
    ),
    "visual_projected": Field(
        "NP",
        "tokens in CLIP's space",
        "tower",
        "CLIP towers, with a text tower in lftr.reduce(guidance=)",
    ),
    "text_embeds": Field(
        "MP",
        "the text in CLIP's space",
        "tower",
        "a CLIP text tower and a text in lftr.reduce(guidance=), on the command line --text-tower",
    ),
    "text_token_embeds": Field(
        "LC",
        "the text's embeddings in the language model",
        "prompt",
        "any model, from the prompt's own embeddings; in lftr.reduce_module, "
        "lftr.ModuleEvidence(text=)",
    ),
    "text_products": Field(
        "HN",
        "the text's products with tokens in the first decoder layer",
        "language",
        "models whose first decoder layer has attention, in lftr.reduce",
    ),
    "frame_features": Field(
        "TF",
        "one descriptor for each frame",
        "frames",
        "encoders with a CLS token, or models that take videos",
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
    error = MissingEvidenceError(f"this method needs {' or '.join(names)}{who} ({where})")
    error.fields = tuple(names)
    return error
