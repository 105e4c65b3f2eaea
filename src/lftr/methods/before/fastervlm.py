"""FasterVLM: keep the tokens to which the encoder attends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.signals import SALIENCY, saliency


@dataclass(frozen=True)
class FasterVLM(Method, name="fastervlm"):
    """Keep the tokens that receive the most attention from the encoder's CLS token.

    Attention is that of CLIP's last layer but one, averaged over heads.

    Notes
    -----
    Evidence: CLS attention; for encoders without a CLS token, the attention received from all
    tokens.
    """

    source = Source(
        "FasterVLM",
        arxiv="2412.01818v1",
        section="3.2",
        code="https://github.com/Theia-4869/FasterVLM",
        function="LlavaMetaForCausalLM.encode_images",
    )
    sees_features: ClassVar[bool] = False

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        scores, notes = saliency(tokens)
        return Selection.top(scores, keep, notes)
