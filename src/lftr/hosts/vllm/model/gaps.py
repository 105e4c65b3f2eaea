"""Positions of one dimension with gaps, where tokens were dropped.

vLLM counts such positions itself, without gaps. Those of M-RoPE it asks the model for, as three
rows (`configuration.ROWS`). Here the language model takes one row, and the other two hold what
`rewritten` has to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ....values.errors import LftrError, UnsupportedModelError
from ..request.mrope_checks import ROOM, highest_position
from ..request.request_setting import size_field_of
from ..start_options import StartOptions
from . import positions
from .encoder_inputs import EncoderInputs
from .reducing import Reducing

_POSITION, _BEGINNING, _AHEAD = range(3)
_TEXT = -1  # the beginning of what belongs to no item


def initial(length: int, items: Iterable[tuple[Tensor, int]]) -> tuple[Tensor, int]:
    """Return the rows of a prompt ``(3, length)``, and how far positions are ahead of its count.

    Parameters
    ----------
    length : int
        Tokens of the prompt.
    items : iterable of (Tensor of int64, shape (n,), and int)
        Of each item in order, which tokens of the prompt are its own, and how many it has lost. If
        it has lost any, its positions are wrong until `rewritten`.
    """
    rows = torch.arange(length).repeat(3, 1)
    rows[_BEGINNING] = _TEXT
    ahead = 0
    for places, lost in items:
        rows[_BEGINNING, places] = rows[_POSITION, places[0]]
        rows[_POSITION, places[-1] + 1 :] += lost
        ahead += lost
    rows[_AHEAD] = ahead
    return rows, ahead


def rewritten(
    features: Sequence[Tensor], rows: Tensor, computed: int
) -> tuple[list[Tensor], Tensor, int]:
    """Return features without position channels, and the rows with those channels applied.

    Parameters
    ----------
    features : sequence of Tensor, shape (n, C + channels)
        The tokens of each item that this step takes, in the prompt's order.
    rows : Tensor, shape (3, length)
        The request's rows as `initial` or an earlier step returned them.
    computed : int
        Number of tokens of earlier steps.
    """
    bare = [one[:, : -positions.width(1)] for one in features]
    with gpu_sync_allowed():
        if any(len(one) for one in features):
            offsets, _ = positions.offsets_in(features, 1, rows.device)
            slots = (rows[_BEGINNING] != _TEXT).nonzero().squeeze(1)
            slots = slots[slots >= computed][: offsets.shape[1]]
            rows = rows.clone()
            rows[_POSITION, slots] = rows[_BEGINNING, slots] + offsets[0]
        return bare, rows, int(rows[_AHEAD, 0])


class Gapped(Reducing):
    """Mixed into a model with positions of one dimension: kept tokens keep theirs, if asked to."""

    supports_mrope = True  # vLLM then asks for positions, if the configuration has a section
    supports_multimodal_pruning = True  # and lets the model rewrite them

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config
        gapped = StartOptions.of(config.hf_config).positions == "original"
        if gapped != config.uses_mrope:
            raise UnsupportedModelError(
                f"positions = {'original' if gapped else 'compact'!r}, and vLLM computes others: "
                "this release did not ask lftr for changes of the model's configuration"
            )
        if gapped:
            positions.ask_for_rewriting(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.rewrites_positions = gapped
        if gapped:
            longest = config.hf_text_config.max_position_embeddings
            reach = highest_position(longest, config.max_model_len) + config.max_model_len
            give_room(self.get_language_model(), max(ROOM * longest, reach))

    def placed(
        self, features: Sequence[Tensor], anchors: Sequence[Tensor], inputs: EncoderInputs
    ) -> list[Tensor]:
        """Append each token's offset, which is its index in the item, to its channels."""
        if not self.rewrites_positions:
            return super().placed(features, anchors, inputs)
        return [
            positions.with_offsets(tokens, index[None].to(tokens.device))
            for tokens, index in zip(features, anchors, strict=True)
        ]

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Return the rows of a prompt, see `initial`."""
        items = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        return initial(len(input_tokens), [run for one in items for run in self.runs(one)])

    def runs(self, item: Any) -> list[tuple[Tensor, int]]:
        """Return where an item's tokens are in the prompt, and how many it has lost.

        An item that text parts into several, as methods see it, has a run for each.

        Parameters
        ----------
        item : vllm.multimodal.inputs.MultiModalFeatureSpec
            What vLLM knows of the item.
        """
        places = places_of(item.mm_position)
        return [(places, self.lost(item, len(places)))]

    def lost(self, item: Any, count: int) -> int:
        """Return how many tokens an item has lost.

        Parameters
        ----------
        item : vllm.multimodal.inputs.MultiModalFeatureSpec
            What vLLM knows of the item.
        count : int
            Number of the prompt's tokens that belong to it.
        """
        return int(item.data[size_field_of(item.modality)].data) - count

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor | None,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Return features and rows after this step's items, see `rewritten`."""
        return rewritten(multimodal_embeddings, mrope_positions, num_computed_tokens)

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Run the model at the positions, the first of the rows that vLLM passes.

        Raises
        ------
        LftrError
            If vLLM passes another number of rows, that is positions that it has counted itself.
        """
        if (positions.ndim > 1) != self.rewrites_positions:
            raise LftrError(
                f"vLLM passed positions of shape {tuple(positions.shape)} to "
                f"{type(self).__name__}; this release does not ask the model for them as lftr's "
                "plugin knows it"
            )
        line = positions[_POSITION] if self.rewrites_positions else positions
        return super().forward(input_ids, line, *args, **kwargs)


def places_of(item: Any) -> Tensor:
    """Return which tokens of a prompt belong to an item ``(n,)``, from vLLM's `PlaceholderRange`.

    The range may have text around them, such as marks of its beginning and end.
    """
    if item.is_embed is None:
        return torch.arange(item.offset, item.offset + item.length)
    places: Tensor = item.offset + item.is_embed.nonzero().squeeze(1)
    return places


def give_room(decoder: nn.Module, room: int) -> None:
    """Compute rotary angles for positions beyond the model's longest prompt, as M-RoPE has them.

    A prompt that is short after a reduction may reach further. vLLM looks angles up in a table,
    without a check of its end.

    Parameters
    ----------
    decoder : nn.Module
        The language model.
    room : int
        Number of positions, from 0.

    Raises
    ------
    UnsupportedModelError
        If there is no such table, or the angles of the model's own positions would change.
    """
    modules = {module for name, module in decoder.named_modules() if name.endswith(".rotary_emb")}
    if not modules or not all(isinstance(one, RotaryEmbeddingBase) for one in modules):
        raise _no_room(", ".join(type(one).__name__ for one in modules) or "no rotary embedding")
    for module in modules:
        table = module.cos_sin_cache
        if len(table) < room:
            rows = len(table)  # a multiple of this, if angles are scaled
            module.max_position_embeddings = -(-room * module.max_position_embeddings // rows)
            more = module._compute_cos_sin_cache().to(table)
            if len(more) < room or not torch.equal(more[: len(table)], table):
                raise _no_room(type(module).__name__)
            module.cos_sin_cache = more
            if module.cos_sin_cache_bf16 is not None:
                module.cos_sin_cache_bf16 = more.to(torch.bfloat16)


def _no_room(embedding: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"positions = 'original' with {embedding} in the language model, where angles beyond the "
        "longest prompt cannot be added; allowed: positions = 'compact'"
    )
