"""HAWK: keep the tokens whose keys match the question's queries in the first decoder layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from ...options.checks import Range
from ...values.errors import ArgumentError
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method


@dataclass(frozen=True)
class HAWK(Method, name="hawk"):
    """Keep the tokens whose keys match the text's queries in the language model's first layer.

    In each head, the products of a token's key with the queries of the text, without positions, are
    averaged over the text and divided by their length over all tokens. A token's score is the
    weighted sum over the heads.

    Parameters
    ----------
    weights : tuple of float, at least 0
        The weight of each head of the layer. Without any, all heads count the same.

    Raises
    ------
    ArgumentError
        If there is not one weight for each head.

    Notes
    -----
    Evidence: products of queries and keys in the language model's first layer. The text is that of
    the prompt, or that of ``guidance=``.
    The original has weights for Qwen2.5-VL-7B, found by leaving out one head after the other; they
    are not included here.
    Differs from the original: each image or clip is scored and cut alone (there all visual tokens
    of the prompt together); without ``guidance=`` all text of the prompt counts (there what stands
    between the last image and the end of the question); products are summed in float32.
    """

    source = Source(
        "HAWK",
        arxiv="2604.07812",
        venue="CVPR 2026",
        code="https://github.com/peppery77/HAWK",
        function="compute_hawk_scores",
    )
    sees_features: ClassVar[bool] = False
    weights: tuple[Annotated[float, Range(0.0)], ...] = ()

    @property
    def evidence(self) -> Evidence:
        return (("text_products",),)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        _, products = tokens.evidence("text_products")
        heads = torch.nn.functional.normalize(products.float(), dim=2)
        weights = self.weights or (1.0 / heads.shape[1],) * heads.shape[1]
        if len(weights) != heads.shape[1]:
            raise ArgumentError.of("weights", self.weights, f"{heads.shape[1]}, one for each head")
        return Selection.top((heads * heads.new_tensor(weights)[:, None]).sum(dim=1), keep)
