"""Families that cut an image into square tiles and shrink each tile's patches to fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..api import Model
from .base import Family
from .layout import Inputs, block_mean, square_side


class Shuffled(Family):
    """Common part: every tile is a square whose patches shrink in blocks."""

    def block(self, model: Model, side: int) -> int:
        """Patches along the side of a token, for a tile of ``side`` patches."""
        raise TypeError(f"{type(self).__name__} must define block(model, side)")

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = square_side(patches)
        return block_mean(patches, side, side, self.block(model, side)).flatten(0, 1)


class InternVL(Shuffled):
    """InternVL: the tiles of an image stand in one run of placeholders and are one item."""

    model_types: ClassVar[Sequence[str]] = ("internvl",)
    projector_sees_tokens = True
    run_is_item = True

    def block(self, model: Model, side: int) -> int:
        return round(1 / float(model.config.downsample_ratio))


class QianfanOcr(InternVL):
    """Qianfan-OCR, with the tiles of InternVL."""

    model_types: ClassVar[Sequence[str]] = ("qianfan_ocr",)


class Gemma3(Shuffled):
    """Gemma 3: SigLIP patches averaged to a fixed square; crops (pan and scan) are items."""

    model_types: ClassVar[Sequence[str]] = ("gemma3", "shieldgemma2")

    def block(self, model: Model, side: int) -> int:
        return int(side // int(model.config.mm_tokens_per_image**0.5))


class AyaVision(Shuffled):
    """Aya Vision and Cohere2 Vision: pixel shuffle merges patches; one token separates tiles."""

    model_types: ClassVar[Sequence[str]] = ("aya_vision", "cohere2_vision")
    tiles_apart = 1

    def block(self, model: Model, side: int) -> int:
        return int(model.config.downsample_factor)


class Idefics(Shuffled):
    """Idefics3 and SmolVLM: the encoder's output has one entry per sample.

    Text with row and column precedes each tile. The whole image comes last, after a special token
    and up to two line breaks.
    """

    model_types: ClassVar[Sequence[str]] = ("idefics3", "smolvlm")
    tower = "vision_model"
    projector = "connector"
    tiles_apart = 4
    marks_last_tile = True

    def language_model(self, model: Model) -> nn.Module:
        return self.module(model, "text_model")

    def block(self, model: Model, side: int) -> int:
        return int(model.config.scale_factor)

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        side = inputs["pixel_values"].shape[-1] // model.config.vision_config.patch_size
        tile = (side // model.config.scale_factor) ** 2
        return [tile] * (sum(len(sample) for sample in features) // tile)


class GraniteDocling(Idefics):
    """Granite Docling: the connector has a coarse and a fine path for the tiles of a page."""

    model_types: ClassVar[Sequence[str]] = ("granite_docling",)
    projector = "vision_model.connector"

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        config = model.config.vision_config
        side = config.image_size // config.patch_size // self._shrinks(model, inputs)
        return [side * side] * (sum(len(sample) for sample in features) // side**2)

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = square_side(patches)
        return block_mean(patches, side, side, self._shrinks(model, inputs)).flatten(0, 1)

    def deepstack_layers(self, model: Model) -> int:
        return len(model.config.vision_config.deepstack_visual_indexes)

    def _shrinks(self, model: Model, inputs: Inputs) -> int:
        """Return the patches along the side of a token."""
        coarse = int(model.config.vision_config.scale_factor)
        return coarse if inputs.get("tile_fine_mask") is None else coarse // 2


class Llama4(Shuffled):
    """Llama 4: generate passes on features from before the projector; CLS comes last.

    Reduction therefore acts on the encoder's tokens, and merging methods merge those; the projector
    is linear, so that this is the same.
    """

    model_types: ClassVar[Sequence[str]] = ("llama4",)
    features_key = "last_hidden_state"
    tiles_apart = 2  # the token at the end of a row, and the one before the whole image
    marks_last_tile = True
    tower = "vision_model"
    projector = "vision_model.vision_adapter"

    def as_received(self, model: Model, features: Tensor) -> Tensor:
        return model.base_model.multi_modal_projector(features)  # type: ignore[no-any-return]

    def block(self, model: Model, side: int) -> int:
        return round(1 / float(model.config.vision_config.pixel_shuffle_ratio))

    def cls_place(self, model: Model) -> int | None:
        return -1
