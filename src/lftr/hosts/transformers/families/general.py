"""The general host: any model that has placeholders, an image encoder and takes its output.

What it needs it reads off the model: where its parts are, which arguments its encoder takes, how
its output is contained. A model type with more to say has a class of its own, often a subclass.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ....errors import UnsupportedModelError
from ..api import Call, encoder_of, takes_encoded
from .base import Family
from .layout import Inputs, Layout, grids_of
from .medium import Clips, Medium

_TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower")
_PROJECTORS = (
    "multi_modal_projector",
    "projector",
    "mm_projector",
    "connector",
    "merger",
    "vision_projection",
    "vision_adapter",
    "embed_vision",
)
_LANGUAGE_MODELS = ("language_model", "text_model")


def is_general(model: Any) -> bool:
    """Whether the general host can take a model: it has all that `General` reads."""
    return (
        hasattr(model, "generate")
        and encoder_of(model, "image") is not None
        and takes_encoded(model)
        and placeholder(model, "image") is not None
    )


def placeholder(model: Any, medium: str) -> int | None:
    """Return the id that stands for a medium's tokens in the prompt, where there is one."""
    for name in (f"{medium}_token_id", f"{medium}_token_index"):
        token = getattr(model.config, name, None)
        if isinstance(token, int):
            return token
    return None


class Readable(Medium):
    """A medium of which the host knows what the model's own names and shapes tell."""

    maps_patches: ClassVar[bool] = False

    def fit(self, model: Any) -> None:
        """Note where the model has what the medium needs."""
        self.tower = _first(model.base_model, _TOWERS, self.tower)
        self.projector = _first(model.base_model, _PROJECTORS, self.projector)
        names = inspect.signature(self.encoder(model)).parameters
        pixels = tuple(name for name in names if "pixel_values" in name)
        # a video encoder may call its argument as the image encoder does
        own = tuple(name for name in pixels if self.name == "image" or "video" in name)
        self.pixels = own or self.pixels
        # whatever else the encoder takes may be what the model places its tokens by
        more = (n for n in names if "pixel" not in n and n not in (self.grids, "kwargs"))
        self.timing = tuple(dict.fromkeys((*self.timing, *more)))

    def entries(self, model: nn.Module, inputs: Inputs, features: Any) -> list[int] | None:
        if isinstance(features, Tensor) and features.ndim == 2:
            return None  # all tokens in one: the prompt's runs tell them apart
        sizes = [math.prod(entry.shape[:-1]) for entry in features]
        if max(sizes, default=0) == 1:  # an entry for each token
            return None
        return [size for size in sizes if size]  # rows without images may have an entry of none

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        grids = grids_of(inputs, self.grids) if inputs.get(self.grids) is not None else []
        if len(grids) != len(sizes):
            return [_square_or_row(size) for size in sizes]
        return [_merged(grid, size) for grid, size in zip(grids, sizes, strict=True)]


class ReadableClips(Clips, Readable):
    """Clips of such a model."""


class General(Readable, Family):
    """Model types without a class of their own; `fitted` makes the object for one model."""

    model_types: ClassVar[Sequence[str]] = ()

    def fitted(self, model: Any) -> Self:
        own = copy.copy(self)
        own.fit(model)
        has_clips = encoder_of(model, "video") is not None
        if self.video is None and has_clips and placeholder(model, "video") is not None:
            clips = ReadableClips()
            clips.fit(model)
            own.video = clips
        return own

    def notes(self, model: Any) -> tuple[str, ...]:
        model_type = model.config.model_type
        shown = f"methods see no more of a {model_type} than its features and the prompt's text"
        if model_type in Family.registry:
            return (shown,)
        return (shown, f"no test of lftr has run on {model_type} models: run `lftr verify`")

    def continued(
        self, model: Any, positions: Tensor, following: Tensor, earlier: Tensor
    ) -> Tensor:
        """Refuse where positions have several axes: which of them a later turn shifts is not known.

        Model types with tests of their own are those of which it is known.
        """
        model_type = model.config.model_type
        if positions.ndim > 2 and model_type not in Family.registry:
            raise UnsupportedModelError(
                f"a later turn on a cache that was filled under a reduction; {model_type} is not "
                f"known to lftr and places tokens on {len(positions)} axes: give "
                f"{Call.name('positions')}, or the whole conversation without the cache"
            )
        return super().continued(model, positions, following, earlier)

    def language_model(self, model: Any) -> nn.Module:
        path = _first(model.base_model, _LANGUAGE_MODELS, "")
        return self.module(model, path) if path else model.get_decoder()

    def first_layer_to_reduce(self, model: Any) -> int:
        """Return the layer after those that DeepStack adds features to."""
        first = super().first_layer_to_reduce(model)
        tower = getattr(model.base_model, self.tower, None)
        planes = getattr(tower, "deepstack_visual_indexes", None) or ()
        return max(first, len(planes))


def _first(module: nn.Module, names: Sequence[str], otherwise: str) -> str:
    """Return the first of ``names`` that is a part of ``module``."""
    return next((n for n in names if isinstance(getattr(module, n, None), nn.Module)), otherwise)


def _square_or_row(size: int) -> Layout:
    square = Layout.square(size)
    return square if square.grid is not None else Layout(((1, 1, size),))


def _merged(grid: tuple[int, int, int], size: int) -> Layout:
    """Return the layout of ``size`` tokens, each made of a square of the patches of ``grid``."""
    frames, high, wide = grid
    side = math.isqrt(math.prod(grid) // size) if size else 1
    for t in (frames, 1):  # frames may have been averaged
        if side and t * (high // side) * (wide // side) == size:
            return Layout(((t, high // side, wide // side),))
    return _square_or_row(size)
