"""Small towers in place of timm's, which the tests do without.

`tests/hosts/test_timm.py` runs timm's where it is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig


class PatchesConfig(PreTrainedConfig):
    """Configuration of `Patches`."""

    model_type = "lftr_zoo_patches"
    hidden_size: int = 32
    patch_size: int = 4
    model_args: dict[str, Any] | None = None


class Patches(PreTrainedModel):
    """A ViT with a class token whose attention is its own, as that of timm's towers is.

    The checkpoints' own, the Perception Encoder, comes from timm, which the tests do without
    (`test_timm.py` runs it where it is installed).
    """

    config_class = PatchesConfig
    _supports_sdpa = True

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 65, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=True) for _ in range(2)
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        states = self.embed(pixel_values).flatten(2).mT
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1)
        states = states + self.places[:, : states.shape[1]]
        for block in self.blocks:
            states = block(states)
        return BaseModelOutputWithPooling(last_hidden_state=states)


AutoConfig.register(PatchesConfig.model_type, PatchesConfig, exist_ok=True)
AutoModel.register(PatchesConfig, Patches, exist_ok=True)


class MapsConfig(PreTrainedConfig):
    """Configuration of `Maps`."""

    model_type = "lftr_zoo_maps"
    hidden_size: int = 32
    stride: int = 4


class Maps(PreTrainedModel):
    """A convolutional tower that gives maps `(n, C, h, w)`, as FastVLM's does.

    The checkpoints' own, FastViTHD, comes from timm, which the tests do without
    (`test_timm.py` runs it where it is installed).
    """

    config_class = MapsConfig
    _supports_sdpa = True

    def __init__(self, config: MapsConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.stem = torch.nn.Conv2d(3, width, config.stride, config.stride)
        self.mixer = torch.nn.Conv2d(width, width, 3, padding=1)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        maps = torch.nn.functional.gelu(self.stem(pixel_values))
        return BaseModelOutputWithPooling(last_hidden_state=maps + self.mixer(maps))


AutoConfig.register(MapsConfig.model_type, MapsConfig, exist_ok=True)
AutoModel.register(MapsConfig, Maps, exist_ok=True)


class ConvTowerConfig(Gemma3nVisionConfig):
    """Settings of `ConvTower`."""

    model_type = "lftr_zoo_conv_tower"


class ConvTower(PreTrainedModel):
    """Stands in for Gemma 3n's tower, MobileNetV5 of timm, which the tests do without.

    As that one it gives channels first: `last_hidden_state` is `(images, channels, rows, columns)`.
    """

    config_class = ConvTowerConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: ConvTowerConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, kernel_size=8, stride=8)
        self.mix = nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=3, padding=1)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, do_pooling: bool = False, **options: Any
    ) -> BaseModelOutputWithPooling:
        patches = self.patches(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=patches + self.mix(patches).tanh())


AutoModel.register(ConvTowerConfig, ConvTower, exist_ok=True)
