"""Views of a layer, made up or from given attention."""

from __future__ import annotations

import torch

from lftr.methods.inside.base import Heads, LayerView


def heads_of(logits, temperature=1.0):
    """Return heads whose logits ``(H, L, S)`` are the given ones: every key is an axis."""
    keys = torch.eye(logits.shape[-1]).expand(len(logits), -1, -1)
    return Heads(logits * temperature, keys, scale=1.0)


def attending(attention, length, rows, columns):
    """Return heads that give ``attention`` ``(H, R, N)`` to ``columns``, the rest to themselves."""
    whole = torch.zeros(len(attention), length, length)
    whole[:, rows.unsqueeze(1), columns] = attention
    whole[:, rows, rows] += 1.0 - attention.sum(-1)
    return heads_of(whole.clamp_min(1e-30).log())


def view(seed=0, visual=20, text=5, before=3, layer=4, depth=8, heads=4, groups=2, **changes):
    """Return what a method might see: text, visual tokens, text; drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    length, size = before + visual + text, 8
    states = torch.randn(length, 12, generator=draw) + torch.randn(12, generator=draw)
    queries = torch.randn(heads, length, size, generator=draw)
    keys = torch.randn(groups, length, size, generator=draw)
    angles = torch.arange(length)[:, None] * torch.rand(size // 2, generator=draw)
    angles = torch.cat([angles, angles], dim=1)
    known = {
        "layer": layer,
        "depth": depth,
        "states": states,
        "visual": torch.arange(before, before + visual),
        "text": torch.arange(before + visual, length),
        "tokens": visual,
        "heads": Heads(queries, keys, scale=size**-0.5),
        "rotary": (angles.cos(), angles.sin()),
    }
    return LayerView(**(known | changes))
