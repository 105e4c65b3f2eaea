"""Models that the oldest transformers which lftr takes does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import (
    NEWLINE,
    VOCAB,
    Corner,
    Image,
    Traits,
    ZooEntry,
    edge,
    flat,
    patch_at,
    pixels,
)
from .grids import Mistral3
from .qwen import GRIDS, SPECIAL, TEXT_CONFIG, StampedEntry
from .runs import INKLING_TEXT, STATIC, pixtral
from .tiles import IMAGE, TILES, Idefics3, tiles
from .views import LocalViews


class Recent(ZooEntry):
    """An entry whose classes are looked up by name, when they are there."""

    architecture: str
    """Name of the model's classes, without what follows: `LfmVl` of `LfmVlConfig`."""

    @property
    def model_class(self) -> type[PreTrainedModel]:  # type: ignore[override]
        found: type[PreTrainedModel] = getattr(
            transformers, f"{self.architecture}ForConditionalGeneration"
        )
        return found

    def made(self, **settings: Any) -> PreTrainedConfig:
        """The architecture's configuration."""
        config: PreTrainedConfig = getattr(transformers, f"{self.architecture}Config")(**settings)
        return config

    @classmethod
    def available(cls) -> bool:
        return hasattr(transformers, f"{cls.architecture}Config")


class MistralLarge4(Recent, Mistral3):
    """Latent attention over keys that an indexer chooses; every fourth layer has no positions.

    The indexer would choose more keys than these prompts have. A smaller choice has ties: scores
    pass a ReLU, and which of several zeros is chosen differs between a batch and its rows.
    """

    name = "mistral_large4"
    architecture = "MistralLarge4"
    traits = replace(
        Mistral3.traits,
        sealed="an indexer in each layer",
        upstream={"batch_forward": "attention is scaled by positions, which count the padding"},
    )

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "index_head_dim": 16,
            "index_n_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        }
        return self.made(
            vision_config=pixtral(),
            text_config=text,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )


class UnlimitedOcr(Recent, LocalViews):
    """Crops as one grid, then the image, a newline after every row of tokens; a separator last.

    SAM's tower feeds CLIP's. Text sees the first prompt whole and a window of what follows it,
    which conversations here do not fill: beyond it they would differ from one long prompt.
    """

    name = "unlimited_ocr"
    architecture = "UnlimitedOcr"
    traits = Traits(
        container="list",
        ragged=True,
        tiles=True,
        passes=2,
        reads="features",
        sealed="by the prompt's length",
    )
    feature_arguments = ("pixel_values", "pixel_values_local", "num_local_patches", "patches_grid")

    def config(self) -> PreTrainedConfig:
        sam = {
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": self.view,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
            "downsample_channels": [24, 32],
        }
        encoder = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        }
        text = TEXT_CONFIG | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "sliding_window": 128,
        }
        return self.made(
            vision_config={"sam_config": sam, "encoder_config": encoder},
            text_config=text,
            image_token_id=IMAGE,
        )

    def grid(self, image: Image) -> tuple[int, int]:
        rows, columns = TILES[image.kind]
        return columns, rows

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        columns, rows = self.grid(image)
        local = (3 * rows) * (3 * columns + 1) if self.local(image) else 0
        return local + 4 * (4 + 1) + 1

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        grids = [self.grid(image) for image in flat(rows)]
        return super().visual_inputs(model, rows) | {"patches_grid": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Crops are joined to one picture."""
        _, down, right = corner
        columns, rows = inputs["patches_grid"][0]
        crop = values[patch_at((0, down, right), (1, rows, columns))]
        crop[:, edge(down, 4), edge(right, 4)] += 3.0


class GraniteDocling(Recent, Idefics3):
    """Idefics3's tiles and tags, no thumbnail of an image of one tile; two DeepStack planes."""

    name = "granite_docling"
    architecture = "GraniteDocling"
    traits = Traits(
        container="tuple", unit="row", ragged=True, tiles=True, gap_tokens=True, deepstack=2
    )

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "out_hidden_size": 48,
            "scale_factor": 2,
            "deepstack_visual_indexes": [0, 1],
        }
        text = TEXT_CONFIG | {
            "tie_word_embeddings": False,
            "embedding_multiplier": 2.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        }
        return self.made(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            pad_token_id=0,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        if tiles(image) > 1:
            return super().image_ids(model, image, alone)
        return [self.fake, self.places, *[self.image_token_id(model)] * 16, NEWLINE]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        found = super().visual_inputs(model, rows)
        return found | {"pixel_attention_mask": found["pixel_attention_mask"][:, :, 0, 0].bool()}


class Lfm3Vl(Recent, StampedEntry):
    """Qwen3-VL's patches and clips on 1-D positions; convolutions in the tower and in the text."""

    name = "lfm3_vl"
    architecture = "Lfm3Vl"
    traits = Traits(container="tuple", ragged=True, stateful=True)
    wrap = ((), ())
    bos = True

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "layer_types": ["conv", "full_attention", "full_attention"],
            "patch_size": 4,
        }
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv"],
            "tie_word_embeddings": False,
        }
        return self.made(
            vision_config=vision,
            text_config=text,
            projector_hidden_size=48,
            tie_word_embeddings=False,
            **SPECIAL,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {}


class Inkling2(Recent):
    """One class token for each image in the tower; every layer reads what blocks of layers before
    it made."""

    name = "inkling2"
    architecture = "Inkling2"
    traits = Traits(
        container="tuple",
        ragged=True,
        stateful=True,
        sealed="neighbouring columns",
        unplaced=True,
        upstream=STATIC,
    )
    feature_arguments = ("pixel_values", "image_grid_thw")
    text: dict[str, Any] = INKLING_TEXT | {
        "unpadded_vocab_size": VOCAB,
        "n_layers_per_attn_res_block": 2,
    }

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
            "posemb_grid_size": 8,
            "projection_hidden_dim": 48,
            "text_hidden_size": 48,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 1e4},
        }
        return self.made(
            text_config=self.text, vision_config=self.vision(vision), image_token_id=IMAGE
        )

    def vision(self, settings: dict[str, Any]) -> Any:
        return settings

    def build(self, seed: int = 0, attn_implementation: str = "sdpa") -> PreTrainedModel:
        """Always with eager attention, the only one that the architecture has on a CPU."""
        return super().build(seed, "eager")

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, height, width = GRIDS[image.kind]
        return height * width // 4

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        grids = torch.tensor([GRIDS[image.kind] for image in images]) // torch.tensor([1, 2, 2])
        patches = [pixels(image, self.counts(model, image), 8, 8, 3) for image in images]
        return {"pixel_values": torch.cat(patches), "image_grid_thw": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        values[patch_at(corner, inputs["image_grid_thw"][0])] += 3.0


class Inkling2Loop(Inkling2):
    """Runs its two middle layers twice, with a cache for each pass."""

    name = "inkling2_loop"
    architecture = "Inkling2Loop"
    text = INKLING_TEXT | {
        "num_hidden_layers": 6,
        "layer_types": ["hybrid_sliding", "hybrid"] * 3,
        "unpadded_vocab_size": VOCAB,
        "n_layers_per_attn_res_block": 2,
        "loop_layer_index_start": 2,
        "loop_layer_index_end": 4,
        "loop_num_passes": 2,
        "loop_gate_rank": 8,
    }

    def vision(self, settings: dict[str, Any]) -> Any:
        return {"model_type": "inkling2_vision"} | settings


RECENT: tuple[Recent, ...] = tuple(
    entry()
    for entry in (
        MistralLarge4,
        UnlimitedOcr,
        GraniteDocling,
        Lfm3Vl,
        Inkling2,
        Inkling2Loop,
    )
    if entry.available()
)
