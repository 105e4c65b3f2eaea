"""DART inside the language model: keep tokens that differ from a few pivots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ..operations.pivots import largest, least_alike
from .base import LayerView, Reads
from .one_cut import OneCut
from .schedules import Schedule, Step


@dataclass(frozen=True)
class DartInside(OneCut, name="dart-inside"):
    """Keep a few pivots and, for each of them, the tokens whose states are least similar to it.

    Pivots are the tokens whose keys in the previous layer have the largest L1 norm, some of the
    image and some of the text after it. Pivots of the text help to choose, but do not count as kept
    tokens.

    Parameters
    ----------
    schedule : Schedule
        By default 128 of 576 tokens from layer 2 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.
    pivots : int
        Number of image pivots, at least 1; they are kept.
    text_pivots : int
        Number of text pivots, at least 0.

    Notes
    -----
    As in the port, keys are those of all heads of the layer before, and states are normalised by
    the language model's final normalisation.
    Differs from the original: K is exact (there ``pivots + all pivots * quota`` tokens are kept;
    here the remainder goes to the first pivots, one token each). Pivots choose in descending order
    of their norm, those of the image first (there in the order of a Python set). `dart` is the same
    rule before the language model.
    """

    source = Source(
        "DART",
        arxiv="2502.11494",
        venue="EMNLP 2025",
        section="4",
        code="https://github.com/ModelTC/LightCompress",
        function="get_retained_image_token",
        note="by a port",
    )
    schedule: Schedule = Step(layer=2, keep=128 / 576)
    pivots: Annotated[int, Range(1)] = 4
    text_pivots: Annotated[int, Range(0)] = 4
    reads: ClassVar[Reads] = "previous"

    def select(self, view: LayerView, keep: int) -> Selection:
        heads = view.read
        keys = heads.keys[:, heads.offset :].transpose(0, 1).flatten(1)
        pivots = largest(keys[None, view.visual], min(self.pivots, keep))
        others = view.text[largest(keys[None, view.text], self.text_pivots)[0]]
        x = view.norm(view.states[view.visual])
        text_states = view.norm(view.states[others])
        return Selection(least_alike(x[None], pivots, text_states[None], keep)[0])
