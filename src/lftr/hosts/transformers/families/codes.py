"""Families without a vision transformer: image tokens are quantised codes, or linear patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ...layout import Layout
from ..api import Model
from .general import General
from .layout import Inputs


class Fuyu(General):
    """Fuyu: linear patches; one output for all images; a text token follows each row of patches."""

    model_types: ClassVar[Sequence[str]] = ("fuyu",)
    pixels = ("pixel_values", "image_patches")  # the processor still uses the older name
    features_key = "last_hidden_state"
    tower = "vision_embed_tokens"
    run_is_line = True

    def fit(self, model: Model) -> None:
        """Do nothing, since the names above are already those of Fuyu."""

    def encoder(self, model: Model) -> Any:
        encode = super().encoder(model)

        def either(pixel_values: Any = None, image_patches: Any = None, **options: Any) -> Any:
            return encode(image_patches if pixel_values is None else pixel_values, **options)

        return either


class Chameleon(General):
    """Chameleon: one square of codes; its base model is its language model."""

    model_types: ClassVar[Sequence[str]] = ("chameleon",)
    tower = "vqmodel.encoder"


class Apertus(General):
    """Apertus 1.5: an image is rows of codes; text tokens separate the rows."""

    model_types: ClassVar[Sequence[str]] = ("apertus1p5",)
    tower = "vision_tokenizer.encoder"

    def quantiser(self, model: Model) -> Any:
        """Return the configuration of the module that turns pixels into codes."""
        return model.config.vision_config

    def codes(self, model: Model, inputs: Inputs) -> list[tuple[int, int]]:
        """Return the number of rows and columns of codes of every image."""
        factor = 2 ** (len(self.quantiser(model).channel_multiplier) - 1)
        sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
        return [(height // factor, width // factor) for height, width in sizes]

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout(((1, high, wide),)) for high, wide in self.codes(model, inputs)]


class Emu3(Apertus):
    """Emu3: each row of codes ends with a separator, which is a placeholder too."""

    model_types: ClassVar[Sequence[str]] = ("emu3",)
    tower = "vqmodel.encoder"

    def quantiser(self, model: Model) -> Any:
        return model.config.vq_config

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [
            Layout(((1, high, wide),), torch.arange(1, size + 1) % (wide + 1) == 0)
            for (high, wide), size in zip(self.codes(model, inputs), sizes, strict=True)
        ]
