"""Model types of AutoModelForImageTextToText that lftr does not host, with the reason."""

from __future__ import annotations

_ENCODER_DECODER = (
    "an encoder reads the image and a decoder attends to it, so no visual tokens stand in the "
    "language model's prompt"
)
_NO_PLACEHOLDERS = "its image has no placeholders in the prompt that could be left out"

REFUSED: dict[str, str] = {
    "blip": _ENCODER_DECODER,
    "evolla": "it reads proteins, not images",
    "florence2": _ENCODER_DECODER,
    "git": _NO_PLACEHOLDERS,
    "idefics": "cross-attention between its layers reads the image; its prompt holds none of it",
    "kosmos-2": "its forward takes no encoder outputs, and its image embeddings are made inside",
    "kosmos-2.5": "its forward takes no encoder outputs, and its image embeddings are made inside",
    "mistral4": "it reads text alone",
    "pi0": "it answers with actions of a robot, not with text",
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "vision-encoder-decoder": _ENCODER_DECODER,
}
