"""Every method and wrapper by name, and items that know everything there is to know."""

from __future__ import annotations

import dataclasses
import functools

import torch

import lftr
from lftr.methods.compose.base import Wrapper
from lftr.methods.operations.fitted import Fittable
from lftr.methods.operations.learned_slots import SemanticSlots

FIELDS = list(lftr.values.evidence.FIELDS)


def wrappers():
    """Return the classes that make a method of others."""
    return sorted(Wrapper.__subclasses__(), key=lambda cls: cls.__name__)


def every():
    """Return the names that `build` takes: methods, wrappers around one, and fitted methods."""
    wrapped = [f"{cls.__name__}(divprune)" for cls in wrappers()]
    return lftr.list_methods("before") + wrapped + [f"{name}, fitted" for name in fittable()]


def fittable():
    """Return the names of the methods with a part that `lftr.fit` trains."""
    return [n for n in lftr.list_methods("before") if isinstance(lftr.get_method(n), Fittable)]


@functools.cache
def fitted(name):
    """Return the method with a part for such items as `item` draws, its weights random."""
    kind = lftr.get_method(name).fits
    sizes = {"slots": 3} if kind is SemanticSlots else {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        part = kind.fresh(item(0, (1, 4, 5)).as_batch(), width=8, **sizes)
        for weight in part.parameters():
            weight.data = torch.randn(weight.shape)
    return lftr.get_method(name, fitted=part.requires_grad_(False))


def build(name):
    """Return the method of that name with its defaults, or ``Wrapper(method)`` all through."""
    if name.endswith(", fitted"):
        return fitted(name.removesuffix(", fitted"))
    wrapper, _, inner = name.rstrip(")").rpartition("(")
    if not wrapper:
        return lftr.get_method(name)
    cls = getattr(lftr.methods, wrapper, None) or _by_name(wrapper)
    return cls(**dict.fromkeys(cls.inside, inner))


def _by_name(name):
    return next(cls for cls in wrappers() if cls.__name__ == name)


def tensors(tokens, change, index=None):
    """Return the tokens with every tensor changed, and taken at ``index`` where there is one."""
    taken = tokens if index is None else tokens.take(index)
    values = {f: change(x) for f in FIELDS if (x := getattr(taken, f)) is not None}
    return dataclasses.replace(taken, **values, _coordinates=None)


def item(seed, grid, kind="any"):
    """Return an item with all evidence, drawn from the seed.

    ``kind`` makes it degenerate: equal features, all zero, a few distinct ones, equal evidence,
    very long or very short features, or nothing but zeros.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    total = grid[0] * grid[1] * grid[2]
    attention = normal(2, total, total).mul(2).softmax(-1)
    tokens = lftr.VisualTokens(
        normal(total, 6) + normal(1, 6),
        grid=grid,
        encoder_features=normal(total, 7) + normal(1, 7),
        cls_attention=normal(3, total).mul(2).softmax(-1) * 0.9,
        attention_received=attention.mean((0, 1)),
        attention_received_shallow=normal(total).softmax(-1),
        attention=attention,
        keys=normal(total, 8),
        queries=normal(total, 8),
        values=normal(total, 8),
        cls_value_similarity=normal(total).softmax(-1) * 0.9,
        visual_projected=normal(total, 5),
        text_embeds=normal(2, 5),
        text_token_embeds=normal(4, 6),
        text_products=normal(3, total),
        frame_features=normal(grid[0], 4),
    )
    if kind == "constant":
        return tensors(tokens, lambda x: torch.ones_like(x))
    if kind == "blank":
        return tensors(tokens, torch.zeros_like)
    seen = ("features", "encoder_features", "keys", "queries", "values", "visual_projected")
    if kind == "even":
        rest = [f for f in FIELDS if f not in seen]
        return dataclasses.replace(tokens, **{f: torch.ones_like(getattr(tokens, f)) for f in rest})
    change = {
        "any": lambda x: x,
        "zero": torch.zeros_like,
        "duplicates": lambda x: x[torch.arange(total) % 3 % total],
        "huge": lambda x: x * 1e30,
        "tiny": lambda x: x * 1e-30,
    }[kind]
    return dataclasses.replace(tokens, **{f: change(getattr(tokens, f)) for f in seen})
