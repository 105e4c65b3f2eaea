"""What every family of the zoo shares: the rows of a prompt, the flags, the builder."""

from __future__ import annotations

import copy
import functools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

Kind = Literal["small", "square", "wide", "tall"]
Side = Literal["left", "right"]
Release = tuple[int, int]

_major, _minor = transformers.__version__.split(".")[:2]
RELEASE: Release = (int(_major), int(_minor))
"""The release of transformers at hand."""
OLDEST: Release = (5, 18)
"""The oldest that lftr takes."""

KINDS: tuple[Kind, ...] = ("small", "square", "wide", "tall")

VOCAB = 200
PAD, BOS, EOS, NEWLINE = 0, 1, 2, 3
TEXT = range(10, 170)
"""Ids of ordinary text. Every other id is special; the output head gives it a logit of 0."""


@dataclass(frozen=True)
class Image:
    """An image of a prompt. Its pixels depend on nothing but `kind` and `seed`."""

    kind: Kind = "small"
    seed: int = 0


Corner = tuple[int, int, int]
"""A corner of an image or a clip: the first (0) or the last (-1) frame, row and column."""
Segment = int | Image
"""`n` random text tokens, or an image."""
Row = Sequence[Segment]


@dataclass(frozen=True)
class Fault:
    """What plain transformers does wrong on its releases from `since` to below `fixed`."""

    reason: str
    since: Release = OLDEST
    fixed: Release | None = None

    def on(self, release: Release = RELEASE) -> bool:
        """Whether a release does it, by default the one at hand."""
        return self.since <= release and (self.fixed is None or release < self.fixed)


FAULTS: Mapping[str, Fault] = {
    "expansion": Fault("interleaves the images of a row: A A B B, not A B A B", fixed=(5, 19)),
    "chunked_prefill": Fault("no chunk of the prompt is given the images", fixed=(5, 23)),
    "mrope_second_turn": Fault(
        "on a filled cache every new token is placed as text, images too, without a word",
        fixed=(5, 23),
    ),
}
"""What `generate` of some releases does wrong in every family."""


@dataclass(frozen=True)
class Traits:
    """What a test must know about a family."""

    container: Literal["list", "tuple", "tensor", "last_hidden_state", "planes", "none"]
    """Where `get_image_features` leaves the visual tokens: the type of its `pooler_output`, or
    `last_hidden_state` (one tensor, not yet projected), or `planes` (only `deepstack_features`,
    each with the number of its layer), or no such method."""
    unit: Literal["image", "tile", "part", "row", "batch", "frame", "token"] = "image"
    """What one entry of the container stands for, counted over the batch. Tiles and frames are
    of one size, parts of an image or a clip are not."""
    ragged: bool = False
    """Images of different kinds have different token counts."""
    tiles: bool = False
    """An image may reach the vision tower as several crops."""
    mrope: bool = False
    """Positions are `(3, B, L)` (in `generate`: `(4, B, L)`, text positions first)."""
    has_cls: bool = False
    """The vision tower has a class token whose attention ranks the patches."""
    bidirectional: bool = False
    """Visual tokens of one image see each other in both directions."""
    one_block: bool = False
    """Those of a row's other images too, so that a later turn is not one long prompt."""
    deepstack: int = 0
    """Number of additional feature planes, added in the first decoder layers."""
    passes: int = 1
    """How often the tower runs to encode what a call is given."""
    sealed: str = ""
    """Why no token can leave between decoder layers, in words of the refusal; empty: it can."""
    unplaced: bool = False
    """Positions are not asked for: tokens are placed by their order."""
    encoder_side: bool = False
    """Visual tokens reach the language model through a Q-Former or cross-attention."""
    positions: bool = True
    """Where a token stands matters beyond the order; else `position_ids` are not read at all."""
    stateful: bool = False
    """Linear-attention layers keep a recurrent state: no cache cropping."""
    one_image: bool = False
    """A row holds exactly one image, in front."""
    reads: Literal["attention", "patches", "features"] = "attention"
    """What methods can be shown of the encoder: its attention too, no more than the patches that
    its tokens are made of, or the tokens alone."""
    codes: bool = False
    """Visual tokens are ids of the vocabulary that a quantiser chose."""
    gap_tokens: bool = False
    """Tokens that are no visual tokens (separators) stand between those of one image."""
    thinned: bool = False
    """The model leaves out some of the encoder's tokens itself, which have no placeholders."""
    tolerance: float = 1e-5
    """How far two float32 computations of the same logits may lie apart, by reordering alone."""
    upstream: Mapping[str, str] = field(default_factory=dict)
    """What plain transformers cannot do: ability -> reason. The abilities are in `ABILITIES`."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    """The same of some releases alone; they join `upstream` on those."""
    spared: Sequence[str] = ()
    """Abilities that `FAULTS` leaves to the family."""

    def __post_init__(self) -> None:
        spared = {*self.spared, *(("expansion",) if self.one_image else ())}
        general = {name: fault for name, fault in FAULTS.items() if name not in spared}
        here = {n: fault.reason for n, fault in {**general, **self.faults}.items() if fault.on()}
        object.__setattr__(self, "upstream", {**here, **self.upstream})

    def cannot(self, ability: str) -> str | None:
        """Why plain transformers lacks an ability, or nothing where it has it."""
        general = {"assistant_model": "assisted"}.get(ability, ability)
        return self.upstream.get(ability, self.upstream.get(general))

    def fault(self, ability: str) -> str | None:
        """Why it lacks an ability on this release, where it has it on others."""
        return (
            self.upstream[ability] if ability in self.faults and self.faults[ability].on() else None
        )


ABILITIES: dict[str, str] = {
    "batch": "generate: a left-padded row gives the logits of the row alone",
    "batch_forward": "forward without position_ids: the same",
    "right_padding": "forward without position_ids, padding on the right: the same",
    "encoder_outputs": "generate(mm_encoder_outputs=...) equals generate(pixel_values=...)",
    "expansion": "num_return_sequences (and beams) with several images in a row",
    "assisted": "prompt_lookup_num_tokens gives the greedy tokens",
    "assistant_model": "assistant_model gives the greedy tokens",
    "static_cache": "cache_implementation='static' gives the same tokens",
    "chunked_prefill": "prefill_chunk_size gives the same tokens",
    "no_cache": "use_cache=False gives the same tokens",
    "second_turn": "all ids, the pixels of the new image and the cache equal one long prompt",
    "mrope_second_turn": "the same with the features of the new image and the grids of all images",
}


class ZooEntry(ABC):
    """A tiny model of a real architecture and the inputs that its processor would make."""

    name: str
    traits: Traits
    architecture: str
    """Name of the model's class in transformers."""
    since: Release = OLDEST
    """The first release whose class takes these inputs; older ones may have no such class."""
    wrap: tuple[Sequence[int], Sequence[int]] = ((), ())
    """Special tokens before and after an image's placeholders."""
    bos: bool = True
    embedding_std: float = 0.5

    # ---- the model -------------------------------------------------------------------------

    @property
    def model_class(self) -> type[PreTrainedModel]:
        found: type[PreTrainedModel] = getattr(transformers, self.architecture)
        return found

    @abstractmethod
    def config(self) -> PreTrainedConfig:
        """The tiny model's configuration, by `made`."""

    def made(self, **settings: Any) -> PreTrainedConfig:
        """A configuration of the class that belongs to the model's.

        It gets copies: some configurations change what they are given, and families share it.
        """
        return self.model_class.config_class(**copy.deepcopy(settings))

    def attention(self, implementation: str) -> str | dict[str, str]:
        """What the model takes as `attn_implementation`: where its encoder has none, by part."""
        return implementation

    def build(self, seed: int = 0, attn_implementation: str = "sdpa") -> PreTrainedModel:
        """A new model in float32 and eval mode, its weights a function of `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model_class._from_config(
                self.config(), attn_implementation=self.attention(attn_implementation)
            )
        model = model.float().eval().requires_grad_(False)
        self.redraw(model, seed)
        for module in model.modules():
            if (settings := getattr(module, "generation_config", None)) is not None:
                settings.pad_token_id, settings.bos_token_id = PAD, BOS
                settings.eos_token_id = EOS
        return model

    @functools.cache  # noqa: B019 - entries live as long as the session
    def model(self, attn_implementation: str = "sdpa") -> PreTrainedModel:
        """The session's shared model. Copy it (`copy.deepcopy`) before changing it."""
        return self.build(attn_implementation=attn_implementation)

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """Weights whose logits are spread like a trained model's, so that greedy has no ties."""
        generator = torch.Generator().manual_seed(seed)
        embeddings = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in embeddings:
                parameter.copy_(noise * self.embedding_std)
            elif parameter.dim() > 1:
                parameter.copy_(noise * 0.15)
            else:
                parameter.add_(noise * 0.1)
        head = model.get_output_embeddings()
        if head is not None:
            special = torch.ones(head.weight.shape[0], dtype=torch.bool)
            special[list(TEXT)] = False
            head.weight[special] = 0.0

    # ---- the prompt ------------------------------------------------------------------------

    def image_token_id(self, model: PreTrainedModel) -> int:
        return int(model.config.image_token_id)

    def is_visual(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """Which ids are placeholders."""
        return ids == self.image_token_id(model)

    @abstractmethod
    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        """Number of visual tokens of `image`; `alone`: no other image in its row."""

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        """The ids that the processor writes for an image, separators included."""
        before, after = self.wrap
        placeholders = [self.image_token_id(model)] * self.counts(model, image, alone)
        return [*before, *placeholders, *after]

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The nearest rows that the family takes: most take any."""
        return list(rows)

    def row_counts(self, model: PreTrainedModel, row: Row) -> list[int]:
        """Number of visual tokens of every image of a row."""
        return [self.counts(model, image, self.alone(row)) for image in images_of(row)]

    def sizes(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        """The same of each part of an image that the encoder returns as an entry of its own."""
        return [self.counts(model, image, alone)]

    def row_sizes(self, model: PreTrainedModel, row: Row) -> list[list[int]]:
        """`sizes` of every image of a row."""
        return [self.sizes(model, image, self.alone(row)) for image in images_of(row)]

    def alone(self, row: Row) -> bool:
        """Whether an image of a row is its only one."""
        return len(images_of(row)) == 1

    def row_ids(self, model: PreTrainedModel, row: Row, seed: int = 0) -> list[int]:
        """A row's ids. They depend on the row and the seed, not on its batch-mates."""
        generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, list(row))).encode()))
        ids: list[int] = [BOS] if self.bos else []
        alone = self.alone(row)
        for segment in row:
            if isinstance(segment, Image):
                ids += self.image_ids(model, segment, alone)
            else:
                drawn = torch.randint(TEXT.start, TEXT.stop, (segment,), generator=generator)
                ids += drawn.tolist()
        return ids

    def placed(self, places: Tensor, earlier: int) -> Tensor:
        """Positions `(..., 1, L)` of a row as they are after so many images in rows before it."""
        return places

    @abstractmethod
    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """Pixel tensors and their metadata, for the images of every row; never called without."""

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Inputs aligned with the padded ids, for example token types."""
        return {}

    def batch(
        self,
        model: PreTrainedModel,
        ids: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image]],
        side: Side = "left",
    ) -> dict[str, Any]:
        """Inputs for rows whose ids are given, and the images that each row's ids speak of."""
        length = max(map(len, ids))
        input_ids = torch.full((len(ids), length), PAD)
        mask = torch.zeros_like(input_ids)
        for index, row in enumerate(ids):
            place = slice(length - len(row), None) if side == "left" else slice(0, len(row))
            input_ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
        batch |= self.token_inputs(model, input_ids, mask)
        if any(images):
            batch |= self.visual_inputs(model, images)
        return batch

    def inputs(
        self, model: PreTrainedModel, rows: Sequence[Row], side: Side = "left", seed: int = 0
    ) -> dict[str, Any]:
        """Everything that `forward` and `generate` need for a batch of rows padded on `side`."""
        ids = [self.row_ids(model, row, seed) for row in rows]
        return self.batch(model, ids, [images_of(row) for row in rows], side)

    # ---- what a corner of an image is made of --------------------------------------------------

    def painted(
        self, inputs: Mapping[str, Any], corner: Corner, clips: bool = False
    ) -> dict[str, Any]:
        """`inputs` with other pixels in a corner of the first clip, image or crop of an image."""
        name = self.shown(inputs, clips)
        values = inputs[name].clone()
        self.paint(values, inputs, corner, clips)
        return {**inputs, name: values}

    def shown(self, inputs: Mapping[str, Any], clips: bool) -> str:
        """Key of the pixels of what the encoder's output begins with."""
        return "pixel_values_videos" if clips else "pixel_values"

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Change pixels in place: those of a corner of the first of several pictures."""
        frame, down, right = corner
        picture = values[0, frame] if values.ndim == 5 else values[0]
        picture[:, edge(down, 4), edge(right, 4)] += 3.0

    # ---- what get_image_features takes -----------------------------------------------------

    medium: str = "image"
    """What the encoder's function and its output are called after."""
    pixels: str = "pixel_values"
    """Key of `inputs` under which the last row's pixels are."""
    feature_arguments: tuple[str, ...] = ("pixel_values",)
    """Keys of `inputs` that `get_image_features` takes."""
    feature_layer: str = "vision_feature_layer"
    """What the configuration calls the encoder's layers whose output is used, if it says."""

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        """The encoder's output for a batch of `inputs`, from where `generate` takes it."""
        arguments = {key: inputs[key] for key in self.feature_arguments if key in inputs}
        return model.base_model.get_image_features(**arguments, return_dict=True)

    def __repr__(self) -> str:
        return self.name


class VideoEntry(ZooEntry):
    """A family that takes clips too; an `Image` says which one."""

    clip_traits: Mapping[str, Any] = {}
    """The traits that differ for clips; what `upstream` lists comes on top of that of images."""
    mixes: bool = True
    """Whether one call takes images and clips."""
    clip_arguments: tuple[str, ...] = ("pixel_values_videos",)
    """Keys of `clip_inputs` that `get_video_features` takes."""
    clips_since: Release = OLDEST
    """The first release that takes clips as `clip_inputs` makes them."""

    @property
    def video_traits(self) -> Traits:
        """What is so of its clips."""
        upstream = {**self.traits.upstream, **self.clip_traits.get("upstream", {})}
        return replace(self.traits, **{**self.clip_traits, "upstream": upstream})

    def is_clip(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """Which ids are placeholders of a clip."""
        return ids == model.config.video_token_id

    @abstractmethod
    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        """Number of visual tokens of a clip."""

    def clip_sizes(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """The same of each part of a clip that the encoder returns as an entry of its own."""
        return [self.clip_counts(model, clip)]

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """The ids that the processor writes for a clip."""
        before, after = self.wrap
        placeholders = [int(model.config.video_token_id)] * self.clip_counts(model, clip)
        return [*before, *placeholders, *after]

    def clip_features(self, model: PreTrainedModel, **arguments: Any) -> Any:
        """The encoder's output for clips, from `clip_arguments`."""
        return model.base_model.get_video_features(**arguments, return_dict=True)

    @abstractmethod
    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """Pixel tensors and their metadata, for the clips of every row; never called without."""


def pixels(image: Image, *shape: int, part: object = None) -> Tensor:
    """Random pixels of an image, the same whenever they are asked for."""
    name = repr((image.kind, image.seed, part))
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def edge(end: int, size: int) -> slice:
    """The first (0) or the last (-1) `size` rows or columns."""
    return slice(0, size) if end == 0 else slice(-size, None)


def patch_at(corner: Corner, grid: Sequence[int] | Tensor, group: int = 1) -> int:
    """The place of a corner's patch where those of a grid `(t, h, w)` follow each other.

    Patches that make a token together, `group` by `group` of them, stand side by side.
    """
    frames, high, wide = map(int, grid)
    frame, down, right = corner
    blocks = torch.arange(high * wide).view(high // group, wide // group, group, group)
    places = blocks.transpose(1, 2).reshape(high, wide)
    return frame % frames * high * wide + int(places[down, right])


def images_of(row: Row) -> list[Image]:
    return [segment for segment in row if isinstance(segment, Image)]


def flat(rows: Sequence[Sequence[Image]]) -> list[Image]:
    """All images of a batch in the order of their placeholders."""
    return [image for row in rows for image in row]
