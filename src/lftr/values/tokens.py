"""The input of a method: the visual tokens of one item, their layout and evidence about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import ArgumentError
from .evidence import FIELDS, missing_evidence
from .indexing import take
from .places import grid_coordinates

Grid = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of one item (an image or a video), or of a stack of items of equal size.

    Either all tensors have a leading batch dimension ``B`` or none has.

    Parameters
    ----------
    features : Tensor, shape (N, C)
        The tokens as the language model would receive them.
    grid : (T, H, W), optional
        Frames, rows and columns, in raster order; ``T * H * W`` tokens.
    tiles : sequence of (T, H, W), optional
        The grids of an item that consists of several (anyres tiles), in order. Either ``grid`` or
        ``tiles`` can be set.
    separator : Tensor of bool, shape (N,), optional
        Layout tokens without image content (newline tokens), not counted by ``grid`` or ``tiles``.
        The same for all items of a stack.
    encoder_features : Tensor, shape (N, D)
        The encoder's output before the projector.
    cls_attention : Tensor, shape (heads, N)
        Softmax-ed attention of the encoder's CLS token to each token.
    attention_received : Tensor, shape (N,)
        Attention each token receives, averaged over heads and queries.
    attention_received_shallow : Tensor, shape (N,)
        The same in a middle layer, whose attention follows objects.
    attention : Tensor, shape (heads, N, N)
        The encoder's full attention, rows are queries.
    keys, queries : Tensor, shape (N, E)
        The encoder's keys and queries, averaged over heads or concatenated.
    values : Tensor, shape (N, E)
        The encoder's values, averaged over heads.
    cls_value_similarity : Tensor, shape (N,)
        Softmax of the products of the CLS token's values with those of each token, averaged over
        heads.
    visual_projected : Tensor, shape (N, P)
        Tokens in the space that CLIP shares with text.
    text_embeds : Tensor, shape (M, P)
        The text, ``M`` segments, in the same space.
    text_token_embeds : Tensor, shape (L, C)
        The prompt's own token embeddings in the language model.
    text_products : Tensor, shape (heads, N)
        Products of the text's queries, their mean, with each token's key in the language model's
        first layer, without positions.
    frame_features : Tensor, shape (T, F)
        One descriptor for each frame or tile.

    Raises
    ------
    ArgumentError
        If shapes, grid and batch dimensions do not agree.
    """

    features: Tensor
    grid: Grid | None = None
    tiles: tuple[Grid, ...] | None = None
    separator: Tensor | None = None
    encoder_features: Tensor | None = None
    cls_attention: Tensor | None = None
    attention_received: Tensor | None = None
    attention_received_shallow: Tensor | None = None
    attention: Tensor | None = None
    keys: Tensor | None = None
    queries: Tensor | None = None
    values: Tensor | None = None
    cls_value_similarity: Tensor | None = None
    visual_projected: Tensor | None = None
    text_embeds: Tensor | None = None
    text_token_embeds: Tensor | None = None
    text_products: Tensor | None = None
    frame_features: Tensor | None = None
    _coordinates: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.features, Tensor) or self.features.ndim not in (2, 3):
            shape = getattr(self.features, "shape", type(self.features).__name__)
            raise ArgumentError.of("features", shape, "a tensor (N, C) or (B, N, C)")
        self._check_shapes()
        self._check_grid()

    def _check_shapes(self) -> None:
        sizes: dict[str, int] = {}
        for name, declared in FIELDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            letters = "B" + declared.shape if self.batched else declared.shape
            if not isinstance(value, Tensor) or value.ndim != len(letters):
                shape = getattr(value, "shape", type(value).__name__)
                raise ArgumentError.of(name, shape, f"a tensor of shape ({', '.join(letters)})")
            for letter, size in zip(letters, value.shape, strict=True):
                # heads, encoder width and key width are each field's own; N, C, B and P are shared
                if letter in "NCBP" and sizes.setdefault(letter, size) != size:
                    allowed = f"{letter} = {sizes[letter]}, as in the fields before it"
                    raise ArgumentError.of(name, tuple(value.shape), allowed)
        if self.count == 0:
            raise ArgumentError.of("features", tuple(self.features.shape), "at least one token")

    def _check_grid(self) -> None:
        if self.grid is not None and self.tiles is not None:
            raise ArgumentError.of("tiles", self.tiles, "None when grid is given")
        if self.separator is not None and self.separator.shape != (self.count,):
            raise ArgumentError.of("separator", tuple(self.separator.shape), f"({self.count},)")
        grids = (self.grid,) if self.grid is not None else self.tiles
        if grids is None:
            return
        fits = sum(t * h * w for t, h, w in grids) if all(len(g) == 3 for g in grids) else None
        if fits != self._patches:
            name = "grid" if self.tiles is None else "tiles"
            raise ArgumentError.of(
                name, getattr(self, name), f"(T, H, W) with {self._patches} tokens in all"
            )

    @property
    def batched(self) -> bool:
        """Whether the tensors carry a leading batch dimension."""
        return self.features.ndim == 3

    @property
    def count(self) -> int:
        """Number of tokens ``N`` of the item."""
        return self.features.shape[-2]

    @property
    def _patches(self) -> int:
        """Number of tokens without separators."""
        return self.count - (0 if self.separator is None else int(self.separator.sum()))

    @property
    def blocks(self) -> tuple[Grid, ...]:
        """The grids that the tokens fill, in order; one row of tokens if the layout is unknown."""
        grids = self.tiles if self.grid is None else (self.grid,)
        if grids is None:
            return ((1, 1, self._patches),)
        return tuple((int(t), int(h), int(w)) for t, h, w in grids)

    @property
    def coordinates(self) -> Tensor:
        """Frame or tile, row and column of each token: int64 ``(N, 3)``, shared by a stack."""
        if self._coordinates is not None:
            return self._coordinates
        return grid_coordinates(self.blocks).to(self.features.device, copy=True)

    def present(self) -> dict[str, Tensor]:
        """Return the features and the evidence that are set, by name."""
        return {
            name: value
            for name, value in vars(self).items()
            if name in FIELDS and value is not None
        }

    def evidence(self, *names: str) -> tuple[str, Tensor]:
        """Return the name and the value of the first of the named fields that is set.

        Raises
        ------
        MissingEvidenceError
            If none is set; the message names the fields and which encoders can provide them.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None:
                return name, value
        raise missing_evidence(names)

    def as_batch(self) -> VisualTokens:
        """Return the same tokens with a leading batch dimension (of one, where there was none)."""
        if self.batched:
            return self
        stack = object.__new__(type(self))  # checked already, like all that `self` holds
        batched = {name: value.unsqueeze(0) for name, value in self.present().items()}
        stack.__dict__.update(self.__dict__ | batched)
        return stack

    def item(self, i: int) -> VisualTokens:
        """Return item ``i`` of a stack, without a batch dimension."""
        return self._map(lambda _, value: value[i])

    def take(self, index: Tensor) -> VisualTokens:
        """Return the tokens at ``index``, ``(K,)`` or for a stack ``(B, K)``, with their evidence.

        The result has no grid, since the tokens that are left may not fill one. `coordinates` stay
        valid if one index is used for all items.
        """

        def pick(name: str, value: Tensor) -> Tensor:
            letters = FIELDS[name].shape
            for axis in range(-len(letters), 0):
                if letters[axis] == "N":
                    value = take(value, index, axis)
            return value

        changes: dict[str, Any] = {"grid": None, "tiles": None, "separator": None}
        if index.ndim == 1:
            changes["_coordinates"] = self._patch_coordinates()[index]
        else:
            changes["_coordinates"] = None
        return self._map(pick, **changes)

    def _patch_coordinates(self) -> Tensor:
        """`coordinates` over all N tokens; separators repeat those of the first patch."""
        if self.separator is None:
            return self.coordinates
        full = torch.zeros(self.count, 3, dtype=torch.int64, device=self.features.device)
        full[~self.separator] = self.coordinates
        return full

    def without_separators(self) -> VisualTokens:
        """Return the tokens without separators, in the same grid."""
        if self.separator is None:
            return self
        patches = (~self.separator).nonzero().squeeze(1)
        bare = self.take(patches)
        return dataclasses.replace(bare, grid=self.grid, tiles=self.tiles, _coordinates=None)

    def cut(self, rows: Tensor, starts: Tensor, grid: Grid) -> VisualTokens:
        """Return a stack of equal blocks of a stack, such as its frames or tiles.

        Parameters
        ----------
        rows, starts : Tensor of int64, shape (P,)
            Item and first token of each block; a block is a run of tokens.
        grid : (T, H, W)
            Layout of every block.
        """
        frames, height, width = grid
        run = torch.arange(frames * height * width, device=starts.device)
        index = starts.unsqueeze(1) + run
        described = sum(number for number, _, _ in self.blocks)

        def pick(name: str, value: Tensor) -> Tensor:
            axes = [
                axis for axis, letter in enumerate(FIELDS[name].shape, start=1) if letter == "N"
            ]
            if name == "frame_features" and value.shape[1] == described:  # one for each frame
                there = torch.arange(frames, device=value.device)
                return value[rows.unsqueeze(1), self.coordinates[starts, 0].unsqueeze(1) + there]
            if not axes:
                return value[rows]
            front = list(range(1, 1 + len(axes)))
            value = value.movedim(axes, front)
            if len(axes) == 2:
                value = value[rows[:, None, None], index[:, :, None], index[:, None, :]]
            else:
                place = rows.unsqueeze(1) * self.count + index
                value = value.flatten(0, 1).index_select(0, place.flatten())
                value = value.unflatten(0, place.shape)
            return value.movedim(front, axes)

        changes: dict[str, Any] = {"tiles": None, "separator": None, "_coordinates": None}
        bare = dataclasses.replace(self, grid=None, **changes)
        return dataclasses.replace(bare._map(pick), grid=grid)

    def _map(self, change: Callable[[str, Tensor], Tensor], **others: Any) -> VisualTokens:
        values: dict[str, Any] = {
            name: change(name, value) for name, value in self.present().items()
        }
        return dataclasses.replace(self, **values, **others)

    @classmethod
    def stack(cls, items: Sequence[VisualTokens]) -> VisualTokens:
        """Stack items of equal size and layout into one of shape ``(B, N, C)``."""
        first = items[0]
        if len(items) == 1:
            return first.as_batch()
        values: dict[str, Any] = {
            name: torch.stack([getattr(item, name) for item in items]) for name in first.present()
        }
        return dataclasses.replace(first, **values)

    @property
    def layout(self) -> tuple[object, ...]:
        """What must be equal to stack two items: the sizes of every field, grid and separators."""
        shapes = tuple((name, tuple(value.shape)) for name, value in self.present().items())
        marks = None if self.separator is None else tuple(self.separator.tolist())
        return (shapes, self.blocks, marks)
