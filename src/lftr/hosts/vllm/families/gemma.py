"""Gemma 3: a square of tokens for each image, and for each crop of it (pan and scan)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models.gemma3_mm import (
    Gemma3DummyInputsBuilder,
    Gemma3ForConditionalGeneration,
    Gemma3MultiModalProcessor,
    Gemma3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageProcessorItems

from ..model.encoder_inputs import EncoderInputs
from ..model.gaps import Gapped, places_of
from ..request.mrope_checks import Counting
from ..request.processing import Shortened, WholeItems, split
from ..request.question import with_images
from ..request.request_setting import RequestSetting, field_of, question_field_of
from .llava import NEWER_NAMES

SQUARES = "num_patches"
"""The argument with the number of squares of each image: the whole, and its crops."""


class Gemma3Info(WholeItems, Gemma3ProcessingInfo):
    """Sizes of Gemma 3's images."""

    def get_max_image_tokens(self) -> int:
        """Return the number of tokens of an image with the most crops."""
        size = self.get_image_size_with_most_features()
        return int(
            self.get_num_image_tokens(
                image_width=size.width,
                image_height=size.height,
                processor=self.get_hf_processor(),
                mm_kwargs={},
            )
        )


class Gemma3Processor(Counting, Gemma3MultiModalProcessor):
    """Requests to Gemma 3."""

    def shortened(
        self, content: Any, setting: RequestSetting, medium: str, processed: Mapping[str, Any]
    ) -> Shortened:
        """Return the shorter placeholders of an image: as many of each of its squares.

        Text parts the squares, so that each is an item of its own to methods, as on transformers.
        """
        ids = torch.tensor(content.full)
        visual = content.is_embed(content.full)
        size = int(self.info.get_hf_config().mm_tokens_per_image)
        kept, squares = setting.count(size), int(visual.sum()) // size
        stays = ~visual | ((visual.cumsum(0) - 1) % size < kept)
        placeholders = Shortened(
            ids[stays].tolist(), content.is_embed, squares * size, squares * kept, setting.name
        )
        return replace(placeholders, reach=self.reach(placeholders, medium, processed))

    def with_item_marks(self, inputs: Any) -> Sequence[int]:
        """Return a prompt's ids with the text around images, and between the squares of one.

        Of line breaks, those of a prompt and of its images may become one token.
        """
        kwargs, _ = split(inputs.hf_processor_mm_kwargs)
        processor = self.info.get_hf_processor(**kwargs)
        (mark,) = self.info.get_tokenizer().convert_tokens_to_ids([processor.boi_token])
        token = self.info.get_hf_config().image_token_index
        items = inputs.mm_data_items.get_items("image", ImageProcessorItems)
        images = (
            self.info.get_image_repl(
                image_width=size.width,
                image_height=size.height,
                processor=processor,
                mm_kwargs=kwargs,
            ).full
            for size in map(items.get_image_size, range(len(items)))
        )

        def around(image: list[int]) -> list[int]:
            first = image.index(token)
            return [one for place, one in enumerate(image) if one != token or place == first]

        ids = with_images(inputs.prompt, mark, map(around, images))
        joined: list[int] = self._apply_token_matches(ids, {})[0]
        return joined


class Crops(EncoderInputs):
    """Images and their crops, each a square of as many tokens."""

    @property
    def sizes(self) -> list[int]:
        """The number of the configuration, for each square."""
        return [int(self.model.config.mm_tokens_per_image)] * len(self.inputs["pixel_values"])


@MULTIMODAL_REGISTRY.register_processor(
    Gemma3Processor, info=Gemma3Info, dummy_inputs=Gemma3DummyInputsBuilder
)
class LftrGemma3ForConditionalGeneration(Gapped, Gemma3ForConditionalGeneration):
    """Gemma 3, reduced."""

    tower = "vision_tower"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": Crops}
    hf_to_vllm_mapper = Gemma3ForConditionalGeneration.hf_to_vllm_mapper | NEWER_NAMES

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode images, each of their squares as an item of its own."""
        counts = kwargs[SQUARES].tolist()
        kwargs[SQUARES] = torch.ones(sum(counts), dtype=torch.int64)
        for name in (field_of("image"), question_field_of("image")):
            if kwargs.get(name) is not None:
                pairs = zip(kwargs[name], counts, strict=True)
                kwargs[name] = [row for row, count in pairs for _ in range(count)]
        squares = iter(super().embed_multimodal(**kwargs))
        return tuple(torch.cat(list(islice(squares, count))) for count in counts)

    def runs(self, item: Any) -> list[tuple[Tensor, int]]:
        """Return where an image's squares are in the prompt, and how many tokens each has lost."""
        places = places_of(item.mm_position)
        ends = (places.diff() > 1).nonzero()[:, 0] + 1
        size = int(self.config.mm_tokens_per_image)
        return [(run, size - len(run)) for run in places.tensor_split(ends)]
