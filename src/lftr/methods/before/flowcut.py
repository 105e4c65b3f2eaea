"""FlowCut after the encoder: keep the tokens from which most information flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.information_flow import INFORMATION_FLOW, information_flow


@dataclass(frozen=True)
class FlowCut(Method, name="flowcut"):
    """Keep the tokens from which most information flows to the CLS token, by attention and values.

    The score of a token is its share of the CLS token's attention plus its share of the similarity
    of values with the CLS token, times the sum of the absolute values of its value vector.

    Notes
    -----
    Evidence: CLS attention, values, and the similarity of values with the CLS token; for encoders
    without a CLS token, the attention received from all tokens in place of both.
    Differs from the original: acts once, after the encoder, on the scores of one layer. The
    original accumulates scores over the encoder's layers and drops tokens in every second one, as
    `lftr.EncoderFlowCut` does. Its versions for LLaVA-NeXT and Qwen2-VL drop some more inside the
    language model.
    """

    source = Source(
        "FlowCut",
        arxiv="2505.19536",
        venue="NeurIPS 2025",
        code="https://github.com/TungChintao/FlowCut",
        function="compute_score",
        note="once, after the encoder",
    )
    sees_features: ClassVar[bool] = False

    @property
    def evidence(self) -> Evidence:
        return INFORMATION_FLOW

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        scores, notes = information_flow(tokens)
        return Selection.top(scores, keep, notes)
