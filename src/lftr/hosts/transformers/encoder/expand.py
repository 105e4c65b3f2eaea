"""Repeat encoder outputs for beams and returned sequences, row by row of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....values.errors import UnsupportedModelError
from ..api import Model
from ..families import Family, Medium
from .media_input import contained


def expand_encoder_outputs(
    model: Model, family: Family, input_ids: Tensor, outputs: dict[str, Any], size: int
) -> dict[str, Any]:
    """Repeat each row's visual tokens ``size`` times, as ``input_ids`` are about to be.

    transformers' own version splits by cumulative lengths of the items, which fails for ragged
    tensors, mixes the rows of some families (GLM-4V), and misses features that are not pooled
    (Llama 4). This one counts each row's placeholders and repeats the row's features.
    """
    if size == 1:
        return outputs
    expanded = {
        medium.name: _repeat_features(
            medium, outputs[medium.name], medium.placeholders(model, input_ids), size
        )
        for medium in family.media
        if outputs.get(medium.name) is not None
    }
    return outputs | expanded


def _repeat_features(medium: Medium, output: Any, visual: Tensor, size: int) -> Any:
    counts = visual.sum(dim=1).tolist()

    def repeat(values: Any) -> Any:
        parts = [values] if isinstance(values, Tensor) else list(values)
        flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        if len(flat) != sum(counts):
            raise UnsupportedModelError(
                f"num_beams and num_return_sequences with {medium.sent}: transformers repeats all "
                "features of a clip, but the prompt has fewer placeholders; process the clip with "
                "use_token_compression=False"
            )
        rows = torch.cat([row for row in flat.split(counts) for _ in range(size)])
        return contained(rows, values)

    return medium.with_planes(output, [repeat(values) for values in medium.planes(output)])
