"""Models whose crops and whole image differ in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Lfm2Config, PreTrainedConfig, PreTrainedModel, Siglip2VisionConfig

from .base import VOCAB, Corner, Image, Traits, ZooEntry, edge, flat, patch_at, pixels
from .layouts import GRIDS, TILES, ViewsEntry
from .parts import CLOSE, DENSE_THEN_SPARSE, IMAGE, OPEN, language, routed, sam, tower


class Step3p7(ViewsEntry):
    """Crops first, each between tokens of its own, a newline after a row of them; then the image.

    The tower ends in two convolutions of stride 2; query heads differ between kinds of layers.
    """

    name = "step3p7"
    traits = Traits(
        container="list", ragged=True, tiles=True, gap_tokens=True, passes=2, reads="features"
    )
    architecture = "Step3p7ForConditionalGeneration"
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
        text = language(
            head_dim=16,
            sliding_window=40,
            layer_types=["full_attention"] + ["sliding_attention"] * 3,
            num_sliding_attention_heads=6,
            mlp_layer_types=DENSE_THEN_SPARSE,
            share_expert_dim=32,
            **routed(),
        )
        return self.made(
            text_config=text, vision_config=vision, image_token_id=IMAGE, tie_word_embeddings=False
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 9 * self.local(image) + 16

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        token = self.image_token_id(model)
        rows, columns = TILES[image.kind]
        ids: list[int] = []
        for row in range(rows if self.local(image) else 0):
            ids += [self.crop_newline] if row else []
            ids += [self.crop_start, *[token] * 9, self.crop_end] * columns
        return [*ids, OPEN, *[token] * 16, CLOSE]


class DeepseekOcr2(ViewsEntry):
    """SAM, then a decoder in which 16 queries follow the 16 patches of a view.

    Crops come first, the whole image after them, a learned separator last, all in one run. The
    checkpoints have 144 queries for a crop and 256 for the whole image.
    """

    name = "deepseek_ocr2"
    traits = Traits(container="list", ragged=True, tiles=True, passes=2, reads="features")
    architecture = "DeepseekOcr2ForConditionalGeneration"
    view, crop = 32, 32

    def config(self) -> PreTrainedConfig:
        encoder = tower(num_hidden_layers=2, num_key_value_heads=2)
        text = language(
            num_hidden_layers=3,
            num_key_value_heads=4,
            n_shared_experts=1,
            mlp_layer_types=["dense", "sparse", "sparse"],
            **routed(),
        )
        vision = {"sam_config": sam(downsample_channels=[24, 32]), "encoder_config": encoder}
        return self.made(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        for name in ("query_768_resolution", "query_1024_resolution"):
            queries = nn.Embedding.from_pretrained(torch.empty(16, 32))
            setattr(model.base_model.vision_tower, name, queries)
        super().redraw(model, seed)

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * (self.local(image) + 1) + 1


class UnlimitedOcr(ViewsEntry):
    """Crops as one grid, then the image, a newline after every row of tokens; a separator last.

    SAM's tower feeds CLIP's. Text sees the first prompt whole and a window of what follows it,
    which conversations here do not fill: beyond it they would differ from one long prompt.
    """

    name = "unlimited_ocr"
    architecture = "UnlimitedOcrForConditionalGeneration"
    since = (5, 20)
    traits = Traits(
        container="list",
        ragged=True,
        tiles=True,
        passes=2,
        reads="features",
        sealed="by the prompt's length",
    )
    feature_arguments = (*ViewsEntry.feature_arguments, "patches_grid")

    def config(self) -> PreTrainedConfig:
        patches = sam(
            num_hidden_layers=2,
            image_size=self.view,
            patch_size=4,
            window_size=4,
            downsample_channels=[24, 32],
        )
        encoder = tower(num_hidden_layers=2, image_size=16)
        text = language(
            num_key_value_heads=4,
            n_shared_experts=1,
            sliding_window=128,
            **routed(),
        )
        return self.made(
            vision_config={"sam_config": patches, "encoder_config": encoder},
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
        found = super().visual_inputs(model, rows)
        grids = [self.grid(image) for image in flat(rows)]
        numbers = found["num_local_patches"].tolist()
        return found | {"num_local_patches": numbers, "patches_grid": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Crops are joined to one picture."""
        _, down, right = corner
        columns, rows = inputs["patches_grid"][0]
        crop = values[patch_at((0, down, right), (1, rows, columns))]
        crop[:, edge(down, 4), edge(right, 4)] += 3.0


class Lfm2Vl(ZooEntry):
    """Square tiles of 4x4 patches, then the whole image on a grid of its own; a tag before each.

    Two layers of three are convolutions over neighbouring columns.
    """

    name = "lfm2_vl"
    traits = Traits(
        container="list", unit="part", ragged=True, tiles=True, gap_tokens=True, stateful=True
    )
    architecture = "Lfm2VlForConditionalGeneration"
    feature_arguments = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    tags, thumbnail = VOCAB - 20, VOCAB - 4
    """`<|img_row_1_col_1|>`, four columns a row, and `<|img_thumbnail|>`."""
    max_patches = 144
    """The processor pads every view to this many patches."""

    def config(self) -> PreTrainedConfig:
        text = Lfm2Config(**language(layer_types=["conv", "conv", "full_attention", "conv"]))
        text.tie_word_embeddings = False
        return self.made(
            vision_config=Siglip2VisionConfig(**tower(num_patches=64, vision_use_head=False)),
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
        ids: list[int] = [OPEN]
        if tiles:
            for row in range(rows):
                for column in range(columns):
                    ids += [self.tags + 4 * row + column, *[token] * 4]
            ids.append(self.thumbnail)
        return [*ids, *[token] * (height * width // 4), CLOSE]

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
