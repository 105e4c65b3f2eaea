"""The columns of a prompt that are new to the model: all, or those after a reduced cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....values.errors import ArgumentError, UnsupportedModelError
from ..api import TOKEN_TYPES, CallArguments, Model, prompt_positions
from ..columns import CachedPrompt, Columns, check_rows
from ..families import Family


@dataclass(frozen=True)
class PromptSegment:
    """A prompt, and the first of its columns that is new.

    Attributes
    ----------
    full_ids : Tensor, shape (B, L)
        The ids as the caller gave them.
    mask : Tensor, shape (B, L - start)
        Attention mask of the new columns.
    start : int
        First new column of ``full_ids``.
    prefix : CachedPrompt, optional
        The record of a cache that holds earlier turns.
    between : int
        Columns that are cached, follow the prefix, and are not in ``full_ids`` (a caller who passes
        the new tokens alone).
    """

    full_ids: Tensor
    mask: Tensor
    start: int = 0
    prefix: CachedPrompt | None = None
    between: int = 0

    @classmethod
    def of(cls, call: CallArguments, prefix: CachedPrompt | None) -> PromptSegment:
        """Return the segment of a call; ``prefix`` is the record of its cache."""
        ids = call.ids
        if call.embeds is not None:
            raise ArgumentError(
                f"a prompt of {CallArguments.name('embeds')} cannot be reduced; "
                f"allowed: {CallArguments.name('ids')}"
            )
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            raise ArgumentError.of(
                CallArguments.name("ids"),
                ids if ids is None else tuple(ids.shape),
                "the prompt's ids (B, L); a prompt given as embeddings cannot be reduced",
            )
        start, between = 0, 0
        if prefix is not None:
            check_rows(prefix, len(ids))
            cached = prefix.cached_columns(call.past)
            if ids.shape[1] > cached and prefix.begins(ids):
                start = prefix.full
            else:
                between = cached - prefix.full
        mask = torch.ones_like(ids) if call.mask is None else call.mask
        if mask.ndim != 2 or mask.shape[1] < ids.shape[1]:
            raise ArgumentError.of(
                CallArguments.name("mask"), tuple(mask.shape), f"(B, L) = {tuple(ids.shape)}"
            )
        mask = mask[:, mask.shape[1] - (ids.shape[1] - start) :]
        return cls(ids, mask, start, prefix, between)

    @property
    def input_ids(self) -> Tensor:
        """Ids of the new columns."""
        return self.full_ids[:, self.start :]

    @property
    def whole(self) -> bool:
        """Whether the caller passed the columns of earlier turns again."""
        return self.start > 0

    @property
    def full_length(self) -> int:
        """Columns of the caller's conversation so far."""
        if self.prefix is None or self.whole:
            return self.full_ids.shape[1]
        return self.prefix.full + self.between + self.full_ids.shape[1]

    def cut(self, x: Tensor) -> Tensor:
        """Return the new columns of ``x``, which is aligned with ``full_ids``."""
        return x[..., x.shape[-1] - self.input_ids.shape[1] :]

    def splice(self, x: Tensor, columns: Columns, fill: int, extended: bool = False) -> Tensor:
        """Return ``x`` at the kept columns, with those of earlier turns as they were then.

        If the caller passed the new columns alone, the result has these alone too; if ``extended``,
        it has ``fill`` in the cached columns, since models read token types at full length.
        """
        part = columns.take(self.cut(x), fill)
        if self.prefix is None:
            return part
        if self.whole:
            return torch.cat([self.prefix.columns.take(x[..., : self.start], fill), part], dim=-1)
        if not extended:
            return part
        cached = self.prefix.columns.index.shape[1] + self.between
        return torch.nn.functional.pad(part, (cached, 0), value=fill)

    def positions(
        self, family: Family, model: Model, call: CallArguments, placing: Mapping[str, Any]
    ) -> Tensor:
        """Return the positions that the plain model gives the new columns, ``(..., B, S)``.

        ``placing`` is what M-RoPE places their images and videos by, beside the token types.
        """
        passed = call.positions
        if passed is not None:
            lengths = sorted({self.input_ids.shape[1], self.full_ids.shape[1]})
            if passed.shape[-1] not in lengths:
                raise ArgumentError.of(
                    CallArguments.name("positions"),
                    tuple(passed.shape),
                    f"one for each column, {' or '.join(map(str, lengths))}",
                )
            return self._rows(self.cut(passed))
        extra = {
            name: self.cut(call[name]) for name in TOKEN_TYPES if isinstance(call.get(name), Tensor)
        }
        extra |= {name: call[name] for name in family.placed_by if call.get(name) is not None}
        if self.prefix is None:  # all arguments: the plain model may place sounds by further ones
            whole = call.but(cache=None, mask=self.mask)
            return self._rows(prompt_positions(model, whole | extra | placing))
        alone = CallArguments().but(ids=self.input_ids, mask=self.mask) | extra | placing
        prepared = self._rows(prompt_positions(model, alone))
        if prepared.ndim == 2:  # a text may have one axis where a turn with images has four
            prepared = prepared.expand(*self.prefix.position_ids.shape[:-2], *prepared.shape)
        if unknown := sorted(set(extra) & set(family.placed_by)):
            raise UnsupportedModelError(
                f"{unknown[0]} in a later turn on a cache that a reduced call filled: lftr does "
                "not know which of them belong to which turn; pass the whole conversation "
                "without the cache"
            )
        following = (self.prefix.following.to(prepared.device) + self.between).unsqueeze(1)
        return family.continued(model, prepared, following, self.prefix.ids)

    def _rows(self, positions: Tensor) -> Tensor:
        return positions.expand(*positions.shape[:-2], *self.input_ids.shape)

    def real(self, columns: Columns) -> Tensor:
        """Return which columns of the whole shorter prompt are tokens, cached ones included."""
        if self.prefix is None:
            return columns.real
        rows = len(self.full_ids)
        cached = columns.real.new_ones(rows, self.between)
        return torch.cat([self.prefix.columns.real, cached, columns.real], dim=1)

    def all_positions(self, new: Tensor) -> Tensor:
        """Return the positions of the whole shorter prompt, cached columns included."""
        if self.prefix is None:
            return new
        steps = torch.arange(self.between, device=new.device)
        between = self.prefix.following.to(new.device).unsqueeze(1) + steps
        lead = new.shape[:-2]
        old = self.prefix.position_ids.to(new.device)
        if old.ndim == 2:  # a turn without images may have one axis of positions instead of four
            old = old.expand(*lead, *old.shape)
        return torch.cat([old, between.expand(*lead, *between.shape), new], dim=-1)

    def cached_as(
        self,
        columns: Columns,
        position_ids: Tensor,
        following: Tensor,
        whole: Tensor,
        log_weight: Tensor,
        exponent: float,
    ) -> CachedPrompt:
        """Return the record of a cache that this segment fills with ``columns``."""
        if self.prefix is not None:
            rows = len(self.full_ids)
            steps = torch.arange(self.between, device=columns.index.device).expand(rows, -1)
            between = Columns(steps, torch.ones_like(steps, dtype=torch.bool))
            old, gap = self.prefix.log_weight.to(log_weight), log_weight.new_zeros(steps.shape)
            log_weight = torch.cat([old, gap, log_weight], dim=1)
            columns = self.prefix.columns.join(between, self.prefix.full).join(
                columns, self.prefix.full + self.between
            )
        ids = self._known_ids()
        return CachedPrompt(ids, columns, position_ids, following, whole, log_weight, exponent)

    def _known_ids(self) -> Tensor:
        if self.prefix is None or self.whole:
            return self.full_ids
        between = self.full_ids.new_full((len(self.full_ids), self.between), -1)
        return torch.cat([self.prefix.ids.to(self.full_ids.device), between, self.full_ids], dim=1)
