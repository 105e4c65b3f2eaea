"""Models that cut a large image into crops and show the whole image beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    Qwen3Config,
    Siglip2VisionConfig,
    Step3p7Config,
    Step3p7ForConditionalGeneration,
)

from .base import VOCAB, Corner, Image, Kind, Traits, ZooEntry, flat, patch_at, pixels
from .llava import LlavaNext, siglip
from .qwen import GRIDS, TEXT_CONFIG
from .tiles import END, IMAGE, START, TILES, InternVL


class QianfanOcr(InternVL):
    """InternVL's tiles, a tower of the same parts with dropout paths, Qwen3 text."""

    name = "qianfan_ocr"
    model_class = QianfanOCRForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        }
        return QianfanOCRConfig(
            vision_config=vision,
            text_config=Qwen3Config(**TEXT_CONFIG, head_dim=16),
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )


LOCAL: dict[Kind, tuple[int, int]] = {
    "small": (0, 0),
    "square": (2, 2),
    "wide": (1, 2),
    "tall": (3, 1),
}
"""Rows and columns of local crops; the whole image is always shown, after them."""


class LocalViews(ZooEntry):
    """A global view, and crops that are smaller than it."""

    view, crop = 64, 48
    """Sides in pixels. A token stands for 16x16 of them."""

    def local(self, image: Image) -> int:
        rows, columns = LOCAL[image.kind]
        return rows * columns

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images, side, crop = flat(rows), self.view, self.crop
        numbers = [self.local(image) for image in images]
        found: dict[str, Any] = {
            "pixel_values": torch.stack([pixels(image, 3, side, side) for image in images]),
            "num_local_patches": numbers,
        }
        if any(numbers):
            crops = [
                pixels(image, number, 3, crop, crop, part="crops")
                for image, number in zip(images, numbers, strict=True)
            ]
            found["pixel_values_local"] = torch.cat(crops)
        return found

    def shown(self, inputs: Mapping[str, Any], clips: bool) -> str:
        """Crops come before the image."""
        return "pixel_values_local" if "pixel_values_local" in inputs else "pixel_values"


class Step3p7(LocalViews):
    """Crops first, each between tokens of its own, a newline after a row of them; then the image.

    The tower ends in two convolutions of stride 2; query heads differ between kinds of layers.
    """

    name = "step3p7"
    traits = Traits(
        container="list", ragged=True, tiles=True, gap_tokens=True, passes=2, reads="features"
    )
    model_class = Step3p7ForConditionalGeneration
    feature_arguments = ("pixel_values", "pixel_values_local", "num_local_patches")
    crop_start, crop_end, crop_newline = VOCAB - 4, VOCAB - 5, VOCAB - 6

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": self.view,
            "patch_size": 4,
            "mlp_ratio": 2.0,
        }
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["full_attention"] + ["sliding_attention"] * 3,
            "num_sliding_attention_heads": 6,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "share_expert_dim": 32,
        }
        return Step3p7Config(
            text_config=text, vision_config=vision, image_token_id=IMAGE, tie_word_embeddings=False
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 9 * self.local(image) + 16

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        token = self.image_token_id(model)
        rows, columns = LOCAL[image.kind]
        ids: list[int] = []
        for row in range(rows):
            ids += [self.crop_start, *[token] * 9, self.crop_end] * columns
            ids += [self.crop_newline] if row < rows - 1 else []
        return [*ids, START, *[token] * 16, END]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        found = super().visual_inputs(model, rows)
        return found | {"num_local_patches": torch.tensor(found["num_local_patches"])}


class Granite4Vision(LlavaNext):
    """LLaVA-NeXT's crops of 6x6 patches, 3x3 tokens of each by Q-Formers over 2x2 windows.

    No embedding: five planes of features, added before the decoder layers that they name.
    """

    name = "granite4_vision"
    traits = Traits(
        container="planes",
        ragged=True,
        tiles=True,
        deepstack=5,
        upstream={
            "chunked_prefill": "no pooler_output to cut into chunks",
            "expansion": "interleaves the images of a row: A A B B, not A B A B",
        },
    )
    model_class = Granite4VisionForConditionalGeneration
    crop = 24
    pinpoints = ((24, 48), (48, 24), (48, 48), (72, 24), (24, 72))

    def config(self) -> PreTrainedConfig:
        vision = siglip(self.crop)
        vision.hidden_size = 64
        text = TEXT_CONFIG | {"num_hidden_layers": 6, "attention_multiplier": 0.25}
        return Granite4VisionConfig(
            vision_config=vision,
            text_config=text,
            qformer_config={
                "hidden_size": 64,
                "encoder_hidden_size": 64,
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "intermediate_size": 48,
                "cross_attention_frequency": 1,
                "use_qformer_text_input": False,
            },
            image_token_index=IMAGE,
            image_grid_pinpoints=list(map(list, self.pinpoints)),
            vision_feature_select_strategy="full",
            downsample_rate="1/2",
            deepstack_layer_map=[[1, 0]],
            spatial_vision_layer=-1,
            spatial_target_layers=[1, 2, 3, 4],
        )

    def processor(self, model: PreTrainedModel) -> Any:
        from transformers.models.granite4_vision.processing_granite4_vision import (
            Granite4VisionProcessor,
        )

        processor: Any = object.__new__(Granite4VisionProcessor)
        processor.patch_size = 4
        processor.num_additional_image_tokens = 0
        processor.vision_feature_select_strategy = "full"
        processor.downsample_rate = model.config.downsample_rate
        processor.image_processor = model.config
        return processor

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return super().counts(model, image, alone) + 1


class Lfm2Vl(ZooEntry):
    """Square tiles of 4x4 patches, then the whole image on a grid of its own; a tag before each.

    Two layers of three are convolutions over neighbouring columns.
    """

    name = "lfm2_vl"
    traits = Traits(
        container="list", unit="part", ragged=True, tiles=True, gap_tokens=True, stateful=True
    )
    model_class = Lfm2VlForConditionalGeneration
    feature_arguments = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    tags, thumbnail = VOCAB - 20, VOCAB - 4
    """`<|img_row_1_col_1|>`, four columns a row, and `<|img_thumbnail|>`."""
    max_patches = 144
    """The processor pads every view to this many patches."""

    def config(self) -> PreTrainedConfig:
        vision = Siglip2VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_patches=64,
            patch_size=4,
            vision_use_head=False,
        )
        text = Lfm2Config(**TEXT_CONFIG, layer_types=["conv", "conv", "full_attention", "conv"])
        text.tie_word_embeddings = False
        return Lfm2VlConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            projector_hidden_size=48,
            tie_word_embeddings=False,
        )

    def views(self, image: Image) -> list[tuple[int, int]]:
        """Rows and columns of patches of every view of an image."""
        rows, columns = TILES[image.kind]
        whole = GRIDS[image.kind][1:]
        return [(4, 4)] * (rows * columns if rows * columns > 1 else 0) + [whole]

    def sizes(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        return [height * width // 4 for height, width in self.views(image)]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return sum(self.sizes(model, image, alone))

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        token = self.image_token_id(model)
        rows, columns = TILES[image.kind]
        *tiles, (height, width) = self.views(image)
        ids: list[int] = [START]
        if tiles:
            for row in range(rows):
                for column in range(columns):
                    ids += [self.tags + 4 * row + column, *[token] * 4]
            ids.append(self.thumbnail)
        return [*ids, *[token] * (height * width // 4), END]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        views = [(image, *view) for image in flat(rows) for view in enumerate(self.views(image))]
        values = torch.zeros(len(views), self.max_patches, 3 * 4 * 4)
        mask = torch.zeros(len(views), self.max_patches, dtype=torch.int32)
        for index, (image, part, (height, width)) in enumerate(views):
            values[index, : height * width] = pixels(image, height * width, 3 * 4 * 4, part=part)
            mask[index, : height * width] = 1
        shapes = torch.tensor([view for _, _, view in views])
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        values[0, patch_at(corner, (1, *inputs["spatial_shapes"][0]))] += 3.0
