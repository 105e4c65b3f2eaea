"""What a host must know of a group of models: where tokens come from, how they are laid out."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....errors import UnsupportedModelError
from ....tokens import Grid

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """How an item's tokens lie: its grids, one after the other, and which are separators."""

    tiles: tuple[Grid, ...] | None = None
    separator: Tensor | None = None

    @classmethod
    def square(cls, size: int) -> Layout:
        """Return the layout of ``size`` tokens on a square, or unknown if they do not fill one."""
        side = math.isqrt(size)
        return cls(((1, side, side),) if side * side == size else None)


class Family:
    """The common case: one encoder pass, one token a patch, a square image, CLIP- or SigLIP-like.

    A subclass overrides what differs and is found by its ``model_types``.
    """

    registry: ClassVar[dict[str, Family]] = {}
    model_types: ClassVar[Sequence[str]] = ()
    # which host: "prefill", "qformer" or "cross_attention"
    kind: ClassVar[str] = "prefill"
    default_positions: ClassVar[str] = "original"
    features_key: ClassVar[str] = "pooler_output"
    tower: ClassVar[str] = "vision_tower"
    projector: ClassVar[str] = "multi_modal_projector"
    # whether the projector's input has a row for each token, rather than for each patch
    projector_sees_tokens: ClassVar[bool] = False
    # whether all entries of one run of placeholders are tiles of one image
    run_is_item: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for model_type in cls.model_types:
            Family.registry[model_type] = cls()

    def placeholders(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Return where the image's tokens go, bool like ``input_ids``."""
        config: Any = model.config
        token = getattr(config, "image_token_id", None)
        if token is None:
            token = config.image_token_index
        return torch.eq(input_ids, token)

    def module(self, model: nn.Module, path: str) -> nn.Module:
        """Return a part of the model by its path below the base model."""
        base: Any = model.base_model
        return functools.reduce(getattr, path.split("."), base)  # type: ignore[no-any-return]

    def language_model(self, model: nn.Module) -> nn.Module:
        """Return the text decoder, whose ``inputs_embeds`` are what the model is shown."""
        return self.module(model, "language_model")

    def decoder(self, model: nn.Module) -> nn.Module:
        """Return the part of the language model that holds its ``layers``."""
        for module in self.language_model(model).modules():
            if isinstance(getattr(module, "layers", None), nn.ModuleList):
                return module
        raise UnsupportedModelError(
            f"no decoder layers were found in the language model of this {type(model).__name__}"
        )

    def final_norm(self, model: nn.Module) -> nn.Module:
        """Return what normalises the states after the last decoder layer."""
        decoder = self.decoder(model)
        for name in ("norm", "final_layer_norm"):
            if isinstance(getattr(decoder, name, None), nn.Module):
                return getattr(decoder, name)  # type: ignore[no-any-return]
        return nn.Identity()

    def first_layer_to_reduce(self, model: nn.Module) -> int:
        """Return the first decoder layer that can do with fewer visual tokens.

        Raises
        ------
        UnsupportedModelError
            If none can.
        """
        config: Any = model.config
        if self.kind == "cross_attention":
            raise UnsupportedModelError(
                f"{type(model).__name__} reads its image by cross-attention; its decoder layers "
                "hold no visual tokens that could be dropped: choose a method that decides before"
            )
        if getattr(config.get_text_config(), "num_kv_shared_layers", 0):
            raise UnsupportedModelError(
                f"layers of this {type(model).__name__} share the keys of earlier ones "
                "(num_kv_shared_layers), so they cannot hold fewer tokens: choose a method that "
                "decides before the language model"
            )
        return 1

    def entries(self, model: nn.Module, inputs: Inputs, features: Any) -> list[int]:
        """Return how many tokens each image or tile has, from the encoder's output."""
        return [entry.shape[0] for entry in features]

    def as_received(self, model: nn.Module, features: Tensor) -> Tensor:
        """Return the encoder's tokens ``(N, C)`` as the language model receives them."""
        return features

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        """Return the layout of each of `entries`."""
        return [Layout.square(size) for size in sizes]

    def views(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        """Return how many times the encoder saw each of `entries`: an image and its tiles."""
        return [1] * len(sizes)

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        """Carry maps over the encoder's patches to the tokens made of them.

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

    def cls_place(self, model: nn.Module) -> int | None:
        """Return where the CLS token sits in the encoder's sequence; None if there is none."""
        names = self.module(model, self.tower).named_parameters()
        marks = {"class_embedding", "cls_token"}
        return 0 if any(name.rsplit(".", 1)[-1] in marks for name, _ in names) else None

    def attention_layer(self, model: nn.Module, layers: int) -> int:
        """Return which of the encoder's layers makes the features that the model uses."""
        layer = getattr(model.config, "vision_feature_layer", None)
        if isinstance(layer, (list, tuple)):
            layer = max(index + layers + 1 if index < 0 else index for index in layer)
        if layer is None:
            return layers - 1
        # hidden_states[0] is the embedding, so entry i is the output of layer i - 1
        return int(layers + layer if layer < 0 else layer - 1)

    def shallow_layer(self, model: nn.Module, layers: int) -> int:
        """Return the layer in the encoder's first half that HiPrune reads: 9 of 24, from one."""
        return max(0, round(layers * 9 / 24) - 1)

    def merging_layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the encoder's layers between which tokens may merge.

        They end with the one whose output the model uses. One sequence is one image, positions are
        added once at the embedding, and nothing after the encoder asks for the image's shape.

        Raises
        ------
        UnsupportedModelError
            If that is not so.
        """
        config: Any = model.config
        able = [
            name
            for name, family in Family.registry.items()
            if type(family).merging_layers is not Family.merging_layers
        ]
        raise UnsupportedModelError(
            f"the images of {config.model_type} cannot lose tokens inside the encoder: their shape "
            "is needed after it (tiles, rotary positions, pooling or a fixed number of tokens); "
            f"encoder= is for {', '.join(sorted(able))} with a CLIP or SigLIP tower"
        )

    def resized(self, model: nn.Module, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        """Return encoder arguments for each image alone, at the grid of tokens that is asked for.

        Raises
        ------
        UnsupportedModelError
            If the encoder takes one size only.
        """
        config: Any = model.config
        raise UnsupportedModelError(
            f"the images of {config.model_type} cannot be encoded at another size, which this "
            "method needs; 'pool' and 'interpolate' come closest"
        )


def block_mean(patches: Tensor, height: int, width: int, size: int) -> Tensor:
    """Mean over blocks of ``size x size`` patches, ``(tiles, H * W, c)`` to ``(tiles, K, c)``."""
    tiles, _, channels = patches.shape
    shape = (tiles, height // size, size, width // size, size, channels)
    return patches.reshape(shape).mean(dim=(2, 4)).flatten(1, 2)


def square_side(patches: Tensor) -> int:
    """Side of the square that the patches of a tile fill."""
    return math.isqrt(patches.shape[1])


def grid_split(patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """Cut one packed sequence ``(1, P, c)`` into the images' own, ``(1, t * h * w, c)`` each."""
    return list(patches.split([t * h * w for t, h, w in grids], dim=1))


def grids_of(inputs: Inputs, name: str) -> list[Grid]:
    """Read an argument of rows ``(t, h, w)`` as tuples of int."""
    value = torch.as_tensor(inputs[name])
    return [(int(t), int(h), int(w)) for t, h, w in value.tolist()]


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images ``(n, c, h, w)`` bilinearly, with antialiasing."""
    small = nn.functional.interpolate(
        pixels.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    return small.to(pixels.dtype)
