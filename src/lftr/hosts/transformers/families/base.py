"""A family: the media and the language model of a group of model types."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_modules
from ....values.errors import UnsupportedModelError
from ..api import Model
from ..columns import next_positions
from .layout import Inputs
from .medium import Medium

_FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm", "embedding_norm", "norm_f")


class Family(Medium):
    """A family's images, its videos where it takes them, and the language model behind both.

    A subclass overrides what differs and is found by its ``model_types``.
    """

    registry: ClassVar[dict[str, Family]] = {}
    model_types: ClassVar[Sequence[str]] = ()
    # which host: "prefill", "diffusion", "qformer" or "cross_attention"
    kind: ClassVar[str] = "prefill"
    # why kept tokens cannot keep their positions but are renumbered; "" where they can keep them
    compact_only: str = ""
    # whether the language model takes a token's position for its column in the cache, so that a
    # prompt must have neither gaps in its positions nor padding on its left
    positions_are_columns: bool = False
    # whether the language model takes positions; otherwise it uses the order of the tokens
    takes_positions: ClassVar[bool] = True
    video: Medium | None = None
    # whether the plain model takes images or videos in one call, but not both
    one_medium: ClassVar[bool] = False
    # further arguments that determine positions, besides ids, masks, token types, grids and seconds
    placed_by: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for model_type in cls.model_types:
            Family.registry[model_type] = cls()

    def fitted(self, model: Model) -> Self:
        """Return the family adapted to one model."""
        return self

    def notes(self, model: Model) -> tuple[str, ...]:
        """Return notes that every report on this model contains."""
        if self.maps_patches:
            return ()
        kind = model.config.model_type
        return (f"methods see no more of a {kind} than its features and the prompt's text",)

    @property
    def media(self) -> tuple[Medium, ...]:
        """The media that prompts of this family can contain."""
        return (self,) if self.video is None else (self, self.video)

    def visual(self, model: Model, input_ids: Tensor) -> Tensor:
        """Return where tokens of any medium go, bool like ``input_ids``."""
        marks = [medium.placeholders(model, input_ids) for medium in self.media]
        return functools.reduce(torch.logical_or, marks)

    def frames(self, inputs: Inputs) -> int:
        """Return how many pictures of each row the Q-Former reads, one after the other."""
        return 1

    def check_together(self, model: Model, media: Sequence[Medium]) -> None:
        """Check that the plain model can take these media in one call.

        Raises
        ------
        UnsupportedModelError
            If it cannot.
        """
        if self.one_medium and len(media) > 1:
            raise UnsupportedModelError(
                f"{model.config.model_type} takes images or videos in one call, not both: they "
                "share a placeholder, and the model counts it for each"
            )

    def counts_columns(self, model: Model, positions: Tensor) -> bool:
        """Whether the first axis of ``positions`` counts columns and RoPE does not use it.

        ``generate`` adds such an axis before the axes of M-RoPE.
        """
        axes = _rope_axes(model.config.get_text_config())
        return positions.ndim == 3 and len(positions) == 1 + axes

    def following(self, positions: Tensor, real: Tensor) -> Tensor:
        """Return the position of the next text token of each row, ``(B,)``.

        ``real`` ``(B, L)`` is true for tokens and false for padding.
        """
        return next_positions(positions, real)

    def continued(
        self, model: Model, positions: Tensor, following: Tensor, earlier: Tensor
    ) -> Tensor:
        """Shift ``positions``, which count from 0, to those of a later turn.

        Parameters
        ----------
        following : Tensor, shape (B, 1)
            The position of the next text token.
        earlier : Tensor of int64, shape (B, full)
            The ids of the earlier turns, -1 where unknown.
        """
        return positions + following

    def language_model(self, model: Model) -> nn.Module:
        """Return the text decoder, which receives the prompt as ``inputs_embeds``."""
        return self.module(model, "language_model")

    def decoder(self, model: Model) -> nn.Module:
        """Return the part of the language model that holds its ``layers``."""
        for module in self.language_model(model).modules():
            if isinstance(getattr(module, "layers", None), nn.ModuleList):
                return module
        raise UnsupportedModelError(
            f"no decoder layers were found in the language model of this {type(model).__name__}"
        )

    def first_attention(self, model: Model) -> nn.Module | None:
        """Return the attention of the first decoder layer, where embeddings alone suffice for it.

        None where the layer has no attention, or needs more: ids, or the order of the tokens.
        """
        try:
            layers: Any = self.decoder(model).layers
        except UnsupportedModelError:
            return None
        return next(iter(attention_modules(layers[0])), None)

    def final_norm(self, model: Model) -> nn.Module:
        """Return the module that normalises the states after the last decoder layer.

        Raises
        ------
        UnsupportedModelError
            If the decoder has none by a name that is known.
        """
        decoder = self.decoder(model)
        for name in _FINAL_NORMS:
            if isinstance(getattr(decoder, name, None), nn.Module):
                return getattr(decoder, name)  # type: ignore[no-any-return]
        raise UnsupportedModelError(
            f"no norm after the last layer was found in the decoder of this {type(model).__name__} "
            f"(by the names {', '.join(_FINAL_NORMS)}), so its states cannot be normalised: choose "
            "a method that does not ask for it"
        )

    def first_layer_to_reduce(self, model: Model) -> int:
        """Return the first decoder layer before which visual tokens can be dropped.

        Raises
        ------
        UnsupportedModelError
            If there is none.
        """
        if self.kind == "cross_attention":
            raise UnsupportedModelError(
                f"{type(model).__name__} reads its image by cross-attention; its decoder layers "
                "hold no visual tokens that could be dropped: choose a method that decides before"
            )
        if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
            raise UnsupportedModelError(
                f"layers of this {type(model).__name__} share the keys of earlier ones "
                "(num_kv_shared_layers), so they cannot hold fewer tokens: choose a method that "
                "decides before the language model"
            )
        parts = self.decoder(model).named_modules()
        if any(name.rpartition(".")[2] == "indexer" for name, _ in parts):
            raise UnsupportedModelError(
                f"layers of this {type(model).__name__} select the keys that they attend to with "
                "an indexer, which counts columns of the cache, so they cannot hold fewer tokens: "
                "choose a method that decides before the language model"
            )
        return max(1, self.deepstack_layers(model))

    def deepstack_layers(self, model: Model) -> int:
        """Return the number of first decoder layers to which DeepStack adds features."""
        tower = getattr(model.base_model, self.tower, None)
        return len(getattr(tower, "deepstack_visual_indexes", None) or ())


def _rope_axes(config: Any) -> int:
    """Return the number of axes of M-RoPE: three, unless the configuration says otherwise."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]  # by type of layer
    sections = [one["mrope_section"] for one in kinds if one.get("mrope_section")]
    return len(sections[0]) if sections else 3
