"""A medium: the names, the encoder and the layout of one kind of visual input."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....evidence.attention_recorder import shallow_layer
from ....values.errors import UnsupportedModelError
from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model, encoder_of, feature_layer
from .layout import Inputs


class Medium:
    """The common case: one encoder pass, one token a patch, a square image, CLIP- or SigLIP-like.

    An *entry* is what the encoder's output and the arguments have one of: an image, a tile, a clip.
    """

    # the name in `get_image_features`, in `mm_encoder_outputs` and in the configuration
    name: ClassVar[str] = "image"
    pixels: tuple[str, ...] = ("pixel_values", "pixel_values_images")
    grids: ClassVar[str] = "image_grid_thw"
    # what else has a row for each entry and says where its tokens are placed
    timing: tuple[str, ...] = ()
    # arguments that determine positions and have one value for the whole call
    settings: ClassVar[tuple[str, ...]] = ()
    # the argument that says which of the encoder's tokens have a placeholder, bool (N,); None if
    # all have one
    sent: ClassVar[str | None] = None
    # whether images and videos have the same placeholder, so that only the arguments tell which
    shares_placeholder: ClassVar[bool] = False
    features_key: ClassVar[str] = "pooler_output"
    tower: str = "vision_tower"
    projector: str = "multi_modal_projector"
    # whether it is known which of the encoder's patches each token is made of
    maps_patches: ClassVar[bool] = True
    # whether the projector's input has a row for each token, rather than for each patch
    projector_sees_tokens: ClassVar[bool] = False
    # whether all entries of one run of placeholders are tiles of one image
    run_is_item: ClassVar[bool] = False
    # whether a run of placeholders is one row of an image, and one token stands between rows
    run_is_line: ClassVar[bool] = False
    # how many columns may separate the runs of two tiles of one image; 0: each run is an image
    tiles_apart: ClassVar[int] = 0
    # whether a special token precedes the last tile of every image, which shows the whole image
    marks_last_tile: ClassVar[bool] = False

    @property
    def placing(self) -> tuple[str, ...]:
        """The arguments that M-RoPE places tokens by, a row for each entry."""
        return (self.grids, *self.timing)

    def placeholders(self, model: Model, input_ids: Tensor) -> Tensor:
        """Return where this medium's tokens go, bool like ``input_ids``."""
        token = getattr(model.config, f"{self.name}_token_id", None)
        if token is None:
            token = getattr(model.config, f"{self.name}_token_index")
        return torch.eq(input_ids, token)

    def present_in(self, inputs: Inputs) -> bool:
        """Whether a call has any of this medium to encode."""
        return any(inputs.get(name) is not None for name in self.pixels)

    def pixels_of(self, inputs: Inputs) -> Tensor:
        """Return the pixels that the encoder receives."""
        pixels: Tensor = next(inputs[n] for n in self.pixels if inputs.get(n) is not None)
        return pixels

    def encoder(self, model: Model) -> Any:
        """Return the model's own function that encodes this medium."""
        return encoder_of(model, self.name)

    def module(self, model: Model, path: str) -> nn.Module:
        """Return a part of the model by its path below the base model."""
        return functools.reduce(getattr, path.split("."), model.base_model)  # type: ignore[no-any-return]

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int] | None:
        """Return how many tokens each image or tile has, from the encoder's output.

        None if the output does not contain it; then each run of placeholders is an item.
        """
        return [entry.shape[0] for entry in features]

    def features(self, output: Any) -> Any:
        """Return the visual tokens of the encoder's output, in its own container."""
        return getattr(output, self.features_key)

    def planes(self, output: Any) -> list[Any]:
        """Return every tensor with a row per token: the features, then those of DeepStack."""
        return [self.features(output), *(getattr(output, "deepstack_features", None) or ())]

    def with_planes(self, output: Any, planes: Sequence[Any]) -> Any:
        """Return a copy of the encoder's output with other `planes`."""
        fields: dict[str, Any] = {**output, self.features_key: planes[0]}
        if getattr(output, "deepstack_features", None) is not None:
            fields["deepstack_features"] = list(planes[1:])
        return type(output)(**fields)

    def as_received(self, model: Model, features: Tensor) -> Tensor:
        """Return the encoder's tokens ``(N, C)`` as the language model receives them."""
        added = self.added(model)
        return features if added is None else features + added.to(features)

    def added(self, model: Model) -> Tensor | None:
        """Return the vector that the model adds to each token of the encoder, ``(C,)``, or None.

        Weights of a merge that do not sum to 1 (PruMerge's) are of the tokens as received, so the
        host must know this part of them.
        """
        return None

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        """Return the layout of each of `entries`."""
        return [Layout.square(size) for size in sizes]

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        """Return how many times the encoder saw each of `entries`: an image and its tiles."""
        return [1] * len(sizes)

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        """Return maps over the encoder's patches as maps over the tokens made of them.

        Parameters
        ----------
        patches : Tensor, shape (tiles, P, channels)
            Any channels, the CLS token left out; ``tiles`` is 1 where the encoder packs all images
            into one sequence.

        Returns
        -------
        Tensor, shape (total tokens, channels)
            Mean over the patches of each token; zero for separators.
        """
        return patches.flatten(0, 1)

    def cls_place(self, model: Model) -> int | None:
        """Return where the CLS token sits in the encoder's sequence; None if there is none."""
        names = self.module(model, self.tower).named_parameters()
        marks = {"class_embedding", "cls_token"}
        return 0 if any(name.rsplit(".", 1)[-1] in marks for name, _ in names) else None

    def attention_layer(self, model: Model, layers: int, inputs: Inputs | None = None) -> int:
        """Return the encoder layer whose output the model uses.

        A call may choose another one than the configuration.
        """
        _, passed, configured = feature_layer(model.config, inputs or {})
        layer = configured if passed is None else passed
        if isinstance(layer, (list, tuple)):
            layer = max(index + layers + 1 if index < 0 else index for index in layer)
        if layer is None:
            return layers - 1
        # hidden_states[0] is the embedding, so entry i is the output of layer i - 1
        return int(layers + layer if layer < 0 else layer - 1)

    def shallow_layer(self, model: Model, layers: int) -> int:
        """Return the layer in the encoder's first half that HiPrune reads: 9 of 24, from one."""
        return shallow_layer(layers)

    def merging_layers(self, model: Model) -> Sequence[nn.Module]:
        """Return the encoder's layers between which tokens may merge; none where they may not.

        They may where one sequence is one image, positions are added once at the embedding, and
        nothing after the encoder asks for the image's shape. The layers end with the one whose
        output the model uses.
        """
        return ()

    def resized(self, model: Model, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        """Return encoder arguments for each image alone, at the given grid of tokens.

        Raises
        ------
        UnsupportedModelError
            If the encoder takes one size only.
        """
        raise UnsupportedModelError(
            f"the {self.name}s of {model.config.model_type} cannot be encoded at another size, "
            "which this method needs; 'pool' and 'interpolate' are the closest methods"
        )


class VideoNames:
    """The names of the arguments for videos: a base class before a `Medium` of videos."""

    name: ClassVar[str] = "video"
    pixels: tuple[str, ...] = ("pixel_values_videos",)
    grids: ClassVar[str] = "video_grid_thw"
    timing: tuple[str, ...] = ("second_per_grid_ts", "video_second_per_grid")
