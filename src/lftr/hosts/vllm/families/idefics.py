"""Idefics3 and SmolVLM: tiles, with text that names row and column, then the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.smolvlm import (
    SmolVLMForConditionalGeneration,
    SmolVLMProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageProcessorItems, ImageSize

from ..model.encoder_inputs import EncoderInputs
from ..model.gaps import Gapped
from ..request.mrope_checks import Counting
from ..request.processing import WholeItems, split
from ..request.question import with_images
from ..request.request_setting import KEY
from .square_tiles import SquareTiles

IDS = f"{KEY}_image_ids"
"""The field with the ids of a whole image in a prompt, text and placeholders."""


class Idefics3Info(WholeItems, Idefics3ProcessingInfo):
    """Sizes of Idefics3's images."""

    def get_max_image_tokens(self) -> int:
        """Return the number of tokens of an image of the most tiles, text between them included.

        The output for a reduced image holds embeddings of its text too.
        """
        processor = self.get_hf_processor()
        edge = processor.image_processor.size["longest_edge"]
        return len(self.image_ids(ImageSize(edge, edge), {}))

    def image_ids(self, size: ImageSize, mm_kwargs: Mapping[str, Any]) -> list[int]:
        """Return the ids of an image in a prompt, text and placeholders."""
        text = self.get_image_repl(
            image_width=size.width,
            image_height=size.height,
            processor=self.get_hf_processor(**mm_kwargs),
            mm_kwargs=mm_kwargs,
        )
        ids: list[int] = self.get_tokenizer().encode(text, add_special_tokens=False)
        return ids


class SmolVLMInfo(Idefics3Info, SmolVLMProcessingInfo):
    """Sizes of SmolVLM's images."""


class IdeficsProcessor(Counting, Idefics3MultiModalProcessor):
    """Requests to Idefics3 and SmolVLM."""

    one_run = True

    def item_fields(self, content: Any) -> dict[str, Tensor]:
        """Return the ids of the whole image, which tell the model the text between tiles."""
        return {IDS: torch.tensor(content.full)}

    def with_item_marks(self, inputs: Any) -> Sequence[int]:
        """Return a prompt's ids with the text around images, without that between their tiles.

        The text before an image depends on its tiles.
        """
        token = self.info.get_hf_config().image_token_id
        kwargs, _ = split(inputs.hf_processor_mm_kwargs)
        items = inputs.mm_data_items.get_items("image", ImageProcessorItems)
        images = (self.info.image_ids(items.get_image_size(i), kwargs) for i in range(len(items)))

        def around(image: list[int]) -> list[int]:
            last = len(image) - 1 - image[::-1].index(token)
            return [*image[: image.index(token)], token, *image[last + 1 :]]

        return with_images(inputs.prompt, token, map(around, images))


class IdeficsTiles(SquareTiles):
    """Tiles as Idefics3's processor returns them."""

    count_field = "num_patches"
    tile_fields = ("pixel_values", "pixel_attention_mask")
    item_fields = (IDS,)

    @property
    def tile_size(self) -> int:
        """The number that vLLM computes from the configuration."""
        return int(self.model.model.image_seq_len)


class Marked(Gapped):
    """Mixed into models with text between the tiles of an image."""

    tower = "vision_model"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": IdeficsTiles}

    @property
    def base_model(self) -> Any:
        """The owner of encoder and decoder."""
        return self.model

    def placed(
        self, features: Sequence[Tensor], anchors: Sequence[Tensor], inputs: EncoderInputs
    ) -> list[Tensor]:
        """Return each item's run of placeholders, with text between chosen tokens."""
        items = zip(features, anchors, inputs.inputs[IDS], strict=True)
        runs, places = zip(*(self._run(*item) for item in items), strict=True)
        return super().placed(runs, places, inputs)

    def _run(self, tokens: Tensor, index: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what vLLM puts at an image's placeholders, and their distances from the first.

        Parameters
        ----------
        tokens : Tensor, shape (K, C)
            The chosen tokens.
        index : Tensor of int64, shape (K,)
            Their indices in the image.
        ids : Tensor of int64, shape (L,)
            The ids of the whole image in a prompt.
        """
        ids = ids.to(tokens.device)
        visual = ids == self.config.image_token_id
        slots = visual.nonzero().squeeze(1)
        if len(index) == len(slots):  # its text stays in the prompt
            return tokens, slots - slots[0]
        stays = ~visual
        stays[slots[index.to(slots.device)]] = True
        texts = self.texts.embed(ids[stays])
        run = torch.nn.functional.pad(texts, (0, tokens.shape[1] - texts.shape[1])).to(tokens)
        run[visual[stays]] = tokens
        return run, stays.nonzero().squeeze(1)

    def lost(self, item: Any, count: int) -> int:
        """Return how many tokens an image has lost; its text is part of it in either prompt."""
        return len(item.data[IDS].data) - int(item.mm_position.length)


@MULTIMODAL_REGISTRY.register_processor(
    IdeficsProcessor, info=Idefics3Info, dummy_inputs=Idefics3DummyInputsBuilder
)
class LftrIdefics3ForConditionalGeneration(Marked, Idefics3ForConditionalGeneration):
    """Idefics3, reduced."""


@MULTIMODAL_REGISTRY.register_processor(
    IdeficsProcessor, info=SmolVLMInfo, dummy_inputs=Idefics3DummyInputsBuilder
)
class LftrSmolVLMForConditionalGeneration(Marked, SmolVLMForConditionalGeneration):
    """SmolVLM, reduced."""
