"""The general host, for any model with placeholders and a forward that takes encoder outputs.

It reads from the model where the parts are, which arguments the encoder takes, and which container
holds the encoder's output. A model type that differs has a class of its own, often a subclass.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ....values.errors import UnsupportedModelError
from ...layout import Layout
from ..api import CallArguments, Model, encoder_of, takes_encoded
from .base import Family
from .layout import Inputs, grids_of
from .medium import Medium, VideoNames

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


def is_general(model: Model) -> bool:
    """Whether a model has everything that `General` needs."""
    return (
        hasattr(model, "generate")
        and encoder_of(model, "image") is not None
        and takes_encoded(model)
        and placeholder(model, "image") is not None
    )


def placeholder(model: Model, medium: str) -> int | None:
    """Return the placeholder id of a medium, or None if the configuration has none."""
    for name in (f"{medium}_token_id", f"{medium}_token_index"):
        token = getattr(model.config, name, None)
        if isinstance(token, int):
            return token
    return None


class Readable(Medium):
    """A medium of which the host knows only the names and shapes in the model."""

    maps_patches: ClassVar[bool] = False

    def fit(self, model: Model) -> None:
        """Find the model's parts and arguments for this medium."""
        self.tower = _first(model.base_model, _TOWERS, self.tower)
        self.projector = _first(model.base_model, _PROJECTORS, self.projector)
        names = inspect.signature(self.encoder(model)).parameters
        pixels = tuple(name for name in names if "pixel_values" in name)
        # a video encoder may use the argument name of the image encoder
        of_medium = tuple(name for name in pixels if self.name == "image" or "video" in name)
        self.pixels = of_medium or self.pixels
        # the encoder's other arguments may determine positions
        more = (n for n in names if "pixel" not in n and n not in (self.grids, "kwargs"))
        self.timing = tuple(dict.fromkeys((*self.timing, *more)))

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int] | None:
        if isinstance(features, Tensor) and features.ndim == 2:
            return None  # one tensor for all images: runs of placeholders separate them
        sizes = [math.prod(entry.shape[:-1]) for entry in features]
        if max(sizes, default=0) == 1:  # an entry for each token
            return None
        return [size for size in sizes if size]  # rows without images may have an empty entry

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        grids = grids_of(inputs, self.grids) if inputs.get(self.grids) is not None else []
        if len(grids) != len(sizes):
            return [_square_or_row(size) for size in sizes]
        return [_merged_layout(grid, size) for grid, size in zip(grids, sizes, strict=True)]


class ReadableClips(VideoNames, Readable):
    """Videos of such a model."""


class General(Readable, Family):
    """Model types without a class of their own; `fitted` returns the object for one model."""

    model_types: ClassVar[Sequence[str]] = ()

    def fitted(self, model: Model) -> Self:
        fitted = copy.copy(self)
        fitted.fit(model)
        has_clips = encoder_of(model, "video") is not None
        if self.video is None and has_clips and placeholder(model, "video") is not None:
            clips = ReadableClips()
            clips.fit(model)
            fitted.video = clips
        return fitted

    def notes(self, model: Model) -> tuple[str, ...]:
        model_type, notes = model.config.model_type, super().notes(model)
        if model_type in Family.registry:
            return notes
        return (*notes, f"no test of lftr has run on {model_type} models: run `lftr verify`")

    def continued(
        self, model: Model, positions: Tensor, following: Tensor, earlier: Tensor
    ) -> Tensor:
        """Refuse positions with several axes: it is not known which of them a later turn shifts.

        For registered model types it is known, and tested.
        """
        model_type = model.config.model_type
        if positions.ndim > 2 and model_type not in Family.registry:
            raise UnsupportedModelError(
                f"a later turn on a cache that a reduced call filled: lftr does not know "
                f"{model_type}, whose positions have {len(positions)} axes; give "
                f"{CallArguments.name('positions')}, or the whole conversation without the cache"
            )
        return super().continued(model, positions, following, earlier)

    def language_model(self, model: Model) -> nn.Module:
        path = _first(model.base_model, _LANGUAGE_MODELS, "")
        return self.module(model, path) if path else model.get_decoder()


def _first(module: nn.Module, names: Sequence[str], otherwise: str) -> str:
    """Return the first of ``names`` that ``module`` has as a part."""
    return next((n for n in names if isinstance(getattr(module, n, None), nn.Module)), otherwise)


def _square_or_row(size: int) -> Layout:
    square = Layout.square(size)
    return square if square.grid is not None else Layout(((1, 1, size),))


def _merged_layout(grid: tuple[int, int, int], size: int) -> Layout:
    """Return the layout of ``size`` tokens, each made of a square of the patches of ``grid``."""
    frames, high, wide = grid
    side = math.isqrt(math.prod(grid) // size) if size else 1
    for t in (frames, 1):  # frames may have been averaged
        if side and t * (high // side) * (wide // side) == size:
            return Layout(((t, high // side, wide // side),))
    return _square_or_row(size)
