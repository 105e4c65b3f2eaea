"""Views of a layer, made up or from given attention."""

from __future__ import annotations

import dataclasses

import torch

import lftr
from lftr.methods.inside.base import Heads, LayerMethod, LayerView, Passage
from lftr.methods.operations.exit_gates import Gates, MadeFor
from lftr.values.places import Places, grid_coordinates


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
    known["heads"] = dataclasses.replace(
        known["heads"], values=torch.randn(groups, length, size, generator=draw)
    )
    places = Places(((1, visual),), grid_coordinates(((1, 1, visual),)))
    known["locate"] = lambda: places
    parts = torch.randn(4, *states.shape, generator=draw)
    known["passages"] = Passage(*parts[:2]), Passage(*parts[2:])
    return LayerView(**(known | changes))


def inside():
    """Return the names of the layer methods."""
    return lftr.list_methods("inside")


def choosers():
    """Return the names of those that choose among tokens; the others keep all or none."""
    return [
        name for name in inside() if type(lftr.get_method(name)).select is not LayerMethod.select
    ]


def build(name, depth=8, size=12):
    """Return the method of that name; one that is trained, with gates for states of ``size``."""
    if name != "dyvte":
        return lftr.get_method(name)
    torch.manual_seed(depth)
    gates = Gates(MadeFor("made up", size, depth), width=4)
    for gate in gates.gates:
        torch.nn.init.normal_(gate[2].weight)
        torch.nn.init.constant_(gate[2].bias[:1], 1.0)  # most go on
    return lftr.get_method(name, gates=gates.requires_grad_(False))


def ready(name, seen):
    """Return a method by name, once it has looked at a prompt as it does in earlier layers."""
    method = lftr.get_method(name)
    look(method, seen)
    return method


def look(method, seen):
    """Let a method look at a prompt before the earlier layers that it watches, and at this one.

    The states of earlier layers have the same values in other channels.
    """
    for layer in sorted(method.watches(seen.depth)):
        if layer < seen.layer:
            states = seen.states.roll(seen.layer - layer, dims=1)
            earlier = dataclasses.replace(seen, layer=layer, states=states)
            method.observe(earlier)
            if layer == 0:
                assert method.count(earlier, seen.tokens) == seen.tokens
    method.observe(seen)


def changed(seen, change):
    """Return the view with every tensor of floating point changed."""
    named = ("queries", "keys", "values")
    heads = dataclasses.replace(
        seen.heads, **{name: change(getattr(seen.heads, name)) for name in named}
    )
    return dataclasses.replace(
        seen,
        states=change(seen.states),
        heads=heads,
        rotary=tuple(map(change, seen.rotary)),
        passages=tuple(Passage(change(x.entered), change(x.left)) for x in seen.passages),
        memory={},
    )


def descend(method, seed=0, depth=8, visual=30, text=5):
    """Run a method through all layers as a host does; return the visual tokens that are left."""
    plan = method.schedule.counts(visual, depth)
    left, memory, rows = [], {}, torch.arange(visual)
    for layer in range(depth):
        seen = view(seed + layer, len(rows), text, layer=layer, depth=depth, tokens=visual)
        columns = torch.cat([torch.arange(3), 3 + rows, 3 + visual + torch.arange(text)])
        heads = seen.heads if layer else None
        seen = dataclasses.replace(seen, memory=memory, heads=heads, columns=columns)
        drops = layer > 0 and plan[layer] < plan[layer - 1]
        if len(rows) and (drops or layer in method.watches(depth)):
            method.observe(seen)
            count = min(method.count(seen, min(plan[layer], len(rows))), len(rows))
            if layer and count < len(rows):
                rows = rows[method.select(seen, count).index] if count else rows[:0]
        left.append(len(rows))
    return left
