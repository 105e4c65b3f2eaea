"""FastVLM and PerceptionLM with their own towers, which are timm's; the zoo has others' in place.

Skipped where timm is not installed. What the zoo's towers stand in for is what is compared: the
shapes of their output, and that no attention of theirs can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel, TimmWrapperConfig
from zoo.square import FastVlm
from zoo.tiles import PerceptionLM

import lftr
from lftr.values.errors import MissingEvidenceError

from .support import FAMILIES, Image, Prompt, ZooEntry, assert_true, reduced, seen

pytest.importorskip("timm")


class Encoder(PerceptionLM):
    """The Perception Encoder, as narrow as the zoo's."""

    def config(self) -> PreTrainedConfig:
        config: Any = super().config()
        sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 4}
        config.vision_config = TimmWrapperConfig(
            architecture="vit_pe_core_tiny_patch16_384",
            do_pooling=False,
            model_args=sizes | {"ref_feat_shape": (8, 8)},
        )
        return config  # type: ignore[no-any-return]


class FastVit(FastVlm):
    """FastViT, a thirty-second of the side: 4x4 tokens of 128x128 pixels."""

    def config(self) -> PreTrainedConfig:
        config: Any = super().config()
        config.vision_config = TimmWrapperConfig(
            architecture="fastvit_mci0",
            do_pooling=False,
            hidden_size=64,
            model_args={
                "layers": (1, 1, 1, 1),
                "embed_dims": (16, 16, 32, 32),
                "mlp_ratios": (2, 2, 2, 2),
            },
        )
        return config  # type: ignore[no-any-return]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        small = super().visual_inputs(model, rows)["pixel_values"]
        return {"pixel_values": torch.nn.functional.interpolate(small, (128, 128))}


@pytest.fixture(params=[Encoder(), FastVit()], ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family with its tower from timm."""
    value: ZooEntry = request.param
    return value


def test_the_truth(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    with reduced(prompt.model) as run:
        output = prompt.generate()
    assert_true(prompt, run, output)


def test_methods_are_shown_what_the_zoo_says(entry: ZooEntry) -> None:
    prompt, stand_in = Prompt(entry), Prompt(FAMILIES[entry.name])
    for one in (prompt, stand_in):
        with pytest.raises(MissingEvidenceError, match="attention"):
            lftr.reduce(one.model, "vispruner", keep=0.5)
    features, other = (
        one.entry.features(one.model, one.inputs()).last_hidden_state for one in (prompt, stand_in)
    )
    assert features.ndim == other.ndim
    width = features.shape[-1] if features.ndim == 3 else features.shape[1]  # of maps
    for tokens in seen(prompt, "encoder_features"):
        assert tokens.encoder_features.shape == (tokens.count, width)
