"""Scores and features of tokens from the evidence, with a note where a substitute was used."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ...values.evidence import FIELDS
from ...values.tokens import VisualTokens
from .scaling import mean_cosine

SALIENCY = ("cls_attention", "attention_received")
TEXT = ("text_embeds", "text_token_embeds")
ENCODER = ("encoder_features", "features")
KEYS = ("keys", "features")
FRAMES = ("frame_features", "features")

Notes = tuple[str, ...]
TextSign = Literal["published", "positive", "negative"]


def stand_in(used: str, wanted: str, how: str = "") -> Notes:
    """Return a note that the field ``used`` replaces ``wanted``; none if they are the same.

    ``how`` says what was made of ``used``, if it was not taken as it is.
    """
    if used == wanted:
        return ()
    first, second = FIELDS[wanted], FIELDS[used]
    return (
        f"the method prefers {first.meaning} ({wanted}), which this call does not have, and chose "
        f"by {how}{second.meaning} ({used}): a valid choice, which may differ from the published "
        f"one. {wanted} is provided by {first.provider}",
    )


def encoder_features(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return the encoder's features ``(B, N, D)``, or those after the projector."""
    used, value = tokens.evidence(*ENCODER)
    return value, stand_in(used, ENCODER[0])


def keys(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return the encoder's keys ``(B, N, E)``, or the features."""
    used, value = tokens.evidence(*KEYS)
    return value, stand_in(used, KEYS[0])


def frame_descriptors(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return one descriptor ``(B, T, F)`` for each frame of a stack of clips.

    If there are no descriptors, or not one for each frame, the mean of the frame's features.
    """
    frames = tokens.blocks[0][0]
    used, value = tokens.evidence(*FRAMES)
    if used == FRAMES[0] and value.shape[1] == frames:
        return value.float(), ()
    means = tokens.features.unflatten(1, (frames, -1)).float().mean(dim=2)
    return means, stand_in("features", FRAMES[0], "the mean of a frame's ")


def saliency(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return the attention ``(B, N)`` of the encoder to each token, averaged over heads.

    The attention of the CLS token; for encoders without one, that of all tokens.
    """
    used, value = tokens.evidence(*SALIENCY, "attention")
    value = value.float()
    if used == "cls_attention":
        value = value.mean(dim=1)
    elif used == "attention":
        value = value.mean(dim=(1, 2))
    return value, stand_in(used, SALIENCY[0])


def text_relevance(tokens: VisualTokens, sign: TextSign) -> tuple[Tensor, Notes]:
    """Return the relevance ``(B, N)`` of each token to the text, higher for more relevant.

    With a CLIP text tower, from the cosine with the text, averaged over its segments; without one,
    from the cosine of the tokens with the mean of the prompt's embeddings in the language model.

    Parameters
    ----------
    sign : {"published", "positive", "negative"}
        Whether tokens near the text count ("positive") or those far from it. As published, the
        cosine is negated in CLIP, where patches that show what a text says are often less similar
        to it than others, and not negated without CLIP.
    """
    text, seen = tokens.text_embeds, tokens.visual_projected
    if text is not None and seen is not None:
        return text_factor(sign, clip=True) * mean_cosine(seen, text), ()
    if text is not None and tokens.text_token_embeds is None:
        tokens.evidence("visual_projected")
    used, text = tokens.evidence(*reversed(TEXT))
    middle = text.float().mean(dim=1, keepdim=True)
    cosine = text_factor(sign, clip=False) * mean_cosine(tokens.features, middle)
    return cosine, stand_in(used, TEXT[0])


def text_factor(sign: TextSign, *, clip: bool) -> float:
    """Return 1.0 if tokens near the text count as relevant, -1.0 if those far from it do."""
    return -1.0 if sign == "negative" or (sign == "published" and clip) else 1.0


def received(tokens: VisualTokens) -> Tensor:
    """Return the attention ``(B, N)`` that each token receives from all, averaged over heads."""
    used, value = tokens.evidence("attention_received", "attention")
    return value.float() if used == "attention_received" else value.float().mean(dim=(1, 2))
