"""What is read off an attention layer: rows, sums, keys and values; never a full map."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

_CHUNK = 128  # queries scored at once when the attention received is summed up


def shallow_layer(layers: int) -> int:
    """Return the layer in an encoder's first half that HiPrune reads: 9 of 24, from one."""
    return max(0, round(layers * 9 / 24) - 1)


@dataclass
class AttentionRecorder:
    """Records what is read off one attention module, one entry for each of its calls.

    Parameters
    ----------
    row : int, optional
        The query whose attention to all keys is read (the CLS token's place).
    received : bool
        Whether the attention that each key receives is read.
    keys : bool
        Whether the keys themselves are read.
    values : bool
        Whether the values themselves are read.
    value_row : int, optional
        The token whose values are compared with those of all tokens.

    Attributes
    ----------
    calls : int
        How often the module's attention was shown.
    rows : list of Tensor, shape (B, heads, N)
        Attention of the query ``row``, float32.
    receipts : list of Tensor, shape (B, N)
        Attention received, mean over heads and over valid queries, float32.
    seen_keys : list of Tensor, shape (B, N, head_dim)
        Keys, mean over heads.
    seen_values : list of Tensor, shape (B, N, head_dim)
        Values, mean over heads.
    similarities : list of Tensor, shape (B, N)
        Softmax of the products of the values of ``value_row`` with all values, mean over heads,
        float32.
    """

    row: int | None = None
    received: bool = False
    keys: bool = False
    values: bool = False
    value_row: int | None = None
    calls: int = 0
    rows: list[Tensor] = field(default_factory=list)
    receipts: list[Tensor] = field(default_factory=list)
    seen_keys: list[Tensor] = field(default_factory=list)
    seen_values: list[Tensor] = field(default_factory=list)
    similarities: list[Tensor] = field(default_factory=list)

    @property
    def reads(self) -> bool:
        """Whether anything is read."""
        rows = self.row is not None or self.value_row is not None
        return rows or self.received or self.keys or self.values

    def record(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
        value: Tensor | None = None,
    ) -> None:
        """Take what was asked for from post-rotary ``query`` and ``key`` ``(B, heads, N, d)``.

        ``value``, of the same shape, may be left out where nothing is read from it.
        """
        self.calls += 1
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        if self.row is not None:
            at = self.row % query.shape[2]
            self.rows.append(attend(query, key, mask, scale, softcap, at, at + 1).squeeze(2))
        if self.received:
            self.receipts.append(_receive(query, key, mask, scale, softcap))
        if self.keys:
            self.seen_keys.append(key.float().mean(dim=1))
        if self.values:
            assert value is not None
            self.seen_values.append(value.float().mean(dim=1))
        if self.value_row is not None:
            assert value is not None
            at = self.value_row % value.shape[2]
            similarity = attend(value, value, mask, 1.0, None, at, at + 1)
            self.similarities.append(similarity.squeeze(2).mean(dim=1))


def attend(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    start: int,
    stop: int,
) -> Tensor:
    """Softmax-ed attention of queries ``start:stop``, float32 ``(B, heads, stop - start, N)``."""
    scores = (query[:, :, start:stop].float() @ key.float().transpose(2, 3)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        part = mask[..., start:stop, : key.shape[2]]
        if part.dtype == torch.bool:
            scores = scores.masked_fill(~part, torch.finfo(torch.float32).min)
        else:
            scores = scores + part
    return scores.softmax(dim=-1)


def _receive(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Mean over heads and queries of the attention to each key; padded queries do not count."""
    count = query.shape[2]
    valid = torch.ones(query.shape[0], count, device=query.device)
    if mask is not None:  # a token that may not look at itself is padding
        diagonal = mask.diagonal(dim1=-2, dim2=-1)
        diagonal = diagonal if diagonal.dtype == torch.bool else diagonal >= 0
        valid = diagonal[:, 0].expand(len(valid), count).float()
    total = torch.zeros(query.shape[0], key.shape[2], device=query.device)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        part = attend(query, key, mask, scale, softcap, start, stop).mean(dim=1)
        total += (part * valid[:, start:stop, None]).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)
