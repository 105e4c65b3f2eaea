"""Inkling: layers that see neighbouring columns and distances, and no positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .base import VOCAB, Image, Traits, flat, pixels
from .layouts import GRIDS, Grid, GridEntry, PackedEntry
from .parts import DENSE_THEN_SPARSE, IMAGE, language, routed, tower
from .reasons import WINDOW

LAYERS: dict[str, Any] = {
    name: value for name, value in language(**routed()).items() if name != "intermediate_size"
} | {
    "head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 40,
    "d_rel": 4,
    "rel_extent": 64,
    "layer_types": ["hybrid_sliding"] * 3 + ["hybrid"],
    "route_scale": 2.0,
}
"""Every layer has four convolutions over neighbouring columns, and a bias by distance in place
of rotary positions."""


class Inkling(GridEntry):
    """Each patch is a token, encoded alone by an MLP; nothing in the inputs says how many patches
    an image has."""

    name = "inkling"
    traits = Traits(
        container="tensor",
        unit="token",
        reads="patches",
        ragged=True,
        stateful=True,
        sealed="neighbouring columns",
        unplaced=True,
        upstream=WINDOW,
    )
    architecture = "InklingForConditionalGeneration"
    wrap = ((VOCAB - 2,), ())

    def config(self) -> PreTrainedConfig:
        text = {
            "intermediate_size": 48,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 1.0,
            "mlp_layer_types": DENSE_THEN_SPARSE,
        }
        return self.made(
            text_config=LAYERS | text,
            vision_config={"patch_size": 4, "num_hidden_layers": 4, "hidden_size": 32},
            audio_config={"n_mel_bins": 4, "mel_vocab_size": 8},
            image_token_id=IMAGE,
            image_bos_token_id=VOCAB - 2,
            audio_token_id=VOCAB - 3,
            audio_bos_token_id=VOCAB - 4,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """The processor writes every patch twice: the encoder takes pairs of frames."""
        patches = [pixels(image, self.counts(model, image), 1, 4, 4, 3) for image in flat(rows)]
        return {"pixel_values": torch.cat(patches).repeat(1, 2, 1, 1, 1)}


class Inkling2(PackedEntry):
    """One class token for each image in the tower; every layer reads what blocks of layers before
    it made."""

    name = "inkling2"
    architecture = "Inkling2ForConditionalGeneration"
    group = 1
    since = (5, 23)
    traits = Traits(
        container="tuple",
        ragged=True,
        stateful=True,
        sealed="neighbouring columns",
        unplaced=True,
        upstream=WINDOW,
    )
    wrap = ((), ())
    bos = True
    typed = False
    patch = (8, 8, 3)
    merge = 1
    text: dict[str, Any] = LAYERS | {
        "unpadded_vocab_size": VOCAB,
        "n_layers_per_attn_res_block": 2,
    }

    def config(self) -> PreTrainedConfig:
        vision = tower(
            posemb_grid_size=8,
            projection_hidden_dim=48,
            text_hidden_size=48,
            rope_parameters={"rope_type": "axial", "rope_theta": 1e4},
            model_type="inkling2_vision",
        )
        return self.made(text_config=self.text, vision_config=vision, image_token_id=IMAGE)

    def attention(self, implementation: str) -> str:
        """The only attention that the architecture has on a CPU."""
        return "eager"

    def grid(self, image: Image) -> Grid:
        """In tokens, each of them one large patch."""
        _, height, width = GRIDS[image.kind]
        return 1, height // 2, width // 2


class Inkling2Loop(Inkling2):
    """Runs its two middle layers twice, with a cache for each pass."""

    name = "inkling2_loop"
    architecture = "Inkling2LoopForConditionalGeneration"
    since = (5, 24)
    text = Inkling2.text | {
        "num_hidden_layers": 6,
        "layer_types": ["hybrid_sliding", "hybrid"] * 3,
        "loop_layer_index_start": 2,
        "loop_layer_index_end": 4,
        "loop_num_passes": 2,
        "loop_gate_rank": 8,
    }
