"""VScan before the language model: attended tokens of every window, then of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.flows import mean_flow, nearest
from ..operations.signals import SALIENCY, saliency, stand_in
from ..operations.windows import spread_top, windows

SHALLOW = ("attention_received_shallow", "attention_received")


@dataclass(frozen=True)
class VScan(Method, name="vscan"):
    """Keep tokens by middle attention in every window and by late attention; merge the others.

    The local scan chooses ``int(keep * local)`` tokens in the order of the attention of a middle
    layer, from each window at most its equal share, rounded up. The global scan chooses the others
    by the attention of a late layer. Every token that is dropped is averaged into the kept token
    that it is most like, by the cosine of features.

    Parameters
    ----------
    local : float
        Share in [0, 1] of the tokens that the local scan chooses; a half as published.
    window : int
        Rows and columns of a window; 6 as published, for 24 rows and columns. Windows that are cut
        by the border belong to their neighbour.

    Notes
    -----
    Evidence: CLS attention, or the attention received; the attention received in a middle layer;
    features.
    Differs from the original: the local scan reads the attention that tokens receive from all in a
    middle layer (there from the CLS token in the sixth of 24). Any count is possible: windows are
    filled in the order of attention, as the program does for Qwen2.5-VL (that for LLaVA keeps fewer
    tokens where the windows do not divide the count). The second cut, in a middle layer of the
    language model, is not included.
    """

    source = Source(
        "VScan",
        arxiv="2505.22654",
        venue="TMLR 2026",
        code="https://github.com/Tencent/SelfEvolvingAgent",
        function="LlavaMetaForCausalLM.encode_images",
        note="the part before the language model",
    )
    local: Annotated[float, Range(0.0, 1.0)] = 0.5
    window: Annotated[int, Range(1)] = 6

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, SHALLOW)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        late, notes = saliency(tokens)
        used, middle = tokens.evidence(*SHALLOW)
        notes += stand_in(used, SHALLOW[0])
        count = int(keep * self.local)
        near = spread_top(middle.float(), windows(tokens.blocks, self.window), count)
        late = late.scatter(1, near, -torch.inf)
        far = late.argsort(dim=1, descending=True, stable=True)[:, : keep - count]
        index = torch.cat([near, far], dim=1).sort(dim=1).values
        return Selection(index, mean_flow(nearest(tokens.features, index)[0], keep), notes)
