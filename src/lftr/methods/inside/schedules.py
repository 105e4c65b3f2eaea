"""Schedules: how many visual tokens each decoder layer works on, as values of their own.

A layer is given by its number, counted from 0 (``layer=2``: the third layer is the first to work on
fewer), or by a share of the model's depth (``layer=0.25``).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from ...options.checks import Range
from ...options.plain import Plain
from ...values.budget import Keep, resolve
from ...values.errors import ArgumentError
from .options import Layer, check_keep, check_layer, layer_at, several

_MANY = 1_000_000  # tokens, to see where a schedule drops some
State = Literal["active", "frozen", "bypassed"]


class Schedule(Plain, ABC, kind="schedule"):
    """How many visual tokens work in each layer, and in which state; never growing."""

    @abstractmethod
    def counts(self, tokens: int, depth: int) -> list[int]:
        """Return the visual tokens of each of ``depth`` layers; the first has all ``tokens``.

        Raises
        ------
        ArgumentError
            If the model has no such layer, or the budget cannot be met.
        """

    def states(self, depth: int) -> list[State]:
        """Return what becomes of them in each layer.

        ``"active"``: they are read and updated. ``"frozen"``: text reads them, they stay as they
        are. ``"bypassed"``: the layer does not see them; they are back after it.
        """
        return ["active"] * depth

    def pruned(self, depth: int) -> list[int]:
        """Return the layers that can have fewer tokens than the first.

        Raises
        ------
        ArgumentError
            As `counts`, as far as that does not depend on the prompt.
        """
        counts = self.counts(_MANY, depth)
        return [layer for layer, count in enumerate(counts) if count < _MANY]

    def averaging(self, keep: Keep) -> Schedule:
        """Return this schedule with its counts scaled so that a layer has ``keep`` on average."""
        return Average(self, keep)

    @classmethod
    def require(cls, name: str, value: object) -> None:
        """Raise unless an argument is a schedule of this very kind."""
        if not isinstance(value, cls):
            raise ArgumentError.of(name, value, f"a lftr.schedules.{cls.__name__}")


@dataclass(frozen=True)
class Step(Schedule):
    """One cut: all tokens up to ``layer``, then ``keep`` (FastV).

    Parameters
    ----------
    layer : int or float
        First layer with fewer tokens.
    keep : float or int
        Share of the tokens, or their number, from there on.
    """

    layer: Layer = 2
    keep: Keep = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)
        object.__setattr__(self, "keep", check_keep("keep", self.keep))

    def counts(self, tokens: int, depth: int) -> list[int]:
        first = layer_at("layer", self.layer, depth)
        return [tokens] * first + [resolve(self.keep, tokens)] * (depth - first)


@dataclass(frozen=True)
class Stages(Schedule):
    """Several cuts, each to a share (or number) of the tokens that the first layer had.

    Parameters
    ----------
    layers : sequence of int or float
        First layers of the stages, rising. Where shares of the depth fall on one layer of a shallow
        model, the last of them counts.
    keep : sequence of float or int
        What stays from each of them on, never more than before.
    """

    layers: Sequence[Layer] = (0.25, 0.5, 0.75)
    keep: Sequence[Keep] = (0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = several("layers", self.layers)
        for layer in layers:
            check_layer("layers", layer)
        keeps = tuple(check_keep("keep", one) for one in several("keep", self.keep))
        if not layers or len(layers) != len(keeps):
            allowed = f"one for each of the {len(layers)} layers, at least one"
            raise ArgumentError.of("keep", self.keep, allowed)
        same_kind = len({type(one) for one in keeps}) == 1
        if same_kind and any(b > a for a, b in itertools.pairwise(keeps)):  # type: ignore[operator]
            raise ArgumentError.of("keep", self.keep, "a schedule that does not grow")
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "keep", keeps)

    def counts(self, tokens: int, depth: int) -> list[int]:
        starts = [layer_at("layers", layer, depth) for layer in self.layers]
        if any(b < a for a, b in itertools.pairwise(starts)):
            raise ArgumentError.of(
                "layers", self.layers, f"rising layers; in this model they are {starts}"
            )
        found = [tokens] * depth
        for start, keep in zip(starts, self.keep, strict=True):
            found[start:] = [resolve(keep, tokens)] * (depth - start)
        if any(b > a for a, b in itertools.pairwise(found)):
            raise ArgumentError.of(
                "keep",
                self.keep,
                f"a schedule that does not grow; of {tokens} tokens it is {found}",
            )
        return found


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight descent from all tokens to ``end`` of them (AIM).

    Parameters
    ----------
    start : int or float
        First layer with fewer tokens.
    stop : int or float
        Layer from which on ``end`` stays; between them the loss is equal from layer to layer.
    end : float
        Share that stays, from 0 (none) to 1.
    """

    start: Layer = 0.5
    stop: Layer = 0.75
    end: Annotated[float, Range(0.0, 1.0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("start", self.start)
        check_layer("stop", self.stop)

    def counts(self, tokens: int, depth: int) -> list[int]:
        start = layer_at("start", self.start, depth)
        stop = layer_at("stop", self.stop, depth)
        if stop < start:
            raise ArgumentError.of("stop", self.stop, f"a layer not before start, here {start}")
        end = Fraction(self.end).limit_denominator(1_000_000)
        steps = stop - start + 1
        shares = [1 - (1 - end) * min(max(i - start + 1, 0), steps) / steps for i in range(depth)]
        return [math.ceil(tokens * share) for share in shares]


@dataclass(frozen=True)
class Logistic(Schedule):
    """A logistic descent, ``1 / (1 + exp(slope * (layer - centre)))`` of the tokens (AutoPrune).

    Parameters
    ----------
    centre : int or float
        Layer that has half of them.
    slope : float
        Steepness a layer, at least 0.
    start : int or float
        First layer with fewer tokens.
    """

    centre: Layer = 0.5
    slope: Annotated[float, Range(0.0, 1e6)] = 0.4
    start: Layer = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("centre", self.centre)
        check_layer("start", self.start)

    def counts(self, tokens: int, depth: int) -> list[int]:
        start = layer_at("start", self.start, depth)
        centre = self.centre * depth if isinstance(self.centre, float) else self.centre

        def share(layer: int) -> float:
            exponent = min(self.slope * (layer - centre), 700.0)  # exp overflows above
            return 1 / (1 + math.exp(exponent))

        return [
            tokens if i < start else min(tokens, max(1, math.ceil(tokens * share(i))))
            for i in range(depth)
        ]


@dataclass(frozen=True)
class Exit(Schedule):
    """All tokens up to ``layer``, none from there on.

    Parameters
    ----------
    layer : int or float
        First layer that sees text alone; the model's depth (or 1.0) is never. A share of the depth
        is rounded down, so that no more than this share of the layers sees the image.
    """

    layer: Layer = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer, beyond=True)

    def counts(self, tokens: int, depth: int) -> list[int]:
        layer = self.layer
        if isinstance(layer, float):
            layer = int(Fraction(layer).limit_denominator(1_000_000) * depth)
            if layer < 1:
                raise ArgumentError.of("layer", self.layer, f"at least 1/{depth}, the first layer")
        layer = layer_at("layer", layer, depth, beyond=True)
        return [tokens] * layer + [0] * (depth - layer)

    def averaging(self, keep: Keep) -> Schedule:
        """Return the exit after which the average is ``keep``: at that share of the depth."""
        if not isinstance(keep, float):
            raise ArgumentError.of("keep", keep, "a ratio in (0, 1]: the share of the layers")
        return Exit(keep)


@dataclass(frozen=True)
class Skip(Schedule):
    """All tokens everywhere, but not active in every layer.

    Parameters
    ----------
    state : {"frozen", "bypassed"}
        What they are in the skipped layers.
    every : int, optional
        Active in every ``every``-th layer alone, the first among them (mPLUG: frozen in
        ``every - 1`` of ``every``).
    layers : sequence of int or float
        Or: the layers that are skipped.
    """

    state: Literal["frozen", "bypassed"] = "frozen"
    every: Annotated[int, Range(1)] | None = None
    layers: Sequence[Layer] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.every is None) == (not self.layers):
            raise ArgumentError.of("layers", self.layers, "layers, or every=..., and not both")
        for layer in several("layers", self.layers):
            check_layer("layers", layer)
        object.__setattr__(self, "layers", tuple(self.layers))

    def counts(self, tokens: int, depth: int) -> list[int]:
        return [tokens] * depth

    def states(self, depth: int) -> list[State]:
        if self.every is not None:
            return [self.state if i % self.every else "active" for i in range(depth)]
        skipped = {layer_at("layers", layer, depth) for layer in self.layers}
        return [self.state if i in skipped else "active" for i in range(depth)]

    def averaging(self, keep: Keep) -> Schedule:
        """Refuse anything but all tokens: a schedule of states drops none."""
        if keep != 1.0 or not isinstance(keep, float):
            raise ArgumentError.of(
                "keep", keep, "1.0: this schedule skips layers, it drops nothing"
            )
        return self


@dataclass(frozen=True)
class Average(Schedule):
    """Another schedule's shape, scaled to an average number of tokens over all layers.

    This is how papers count a budget: "192 tokens" are 192 in the mean of the layers. Never above
    it, and below it by less than one token.

    Parameters
    ----------
    shape : Schedule
        Whose layers with all tokens stay as they are; the others are scaled alike.
    keep : float or int
        Average share of the tokens, or number.
    """

    shape: Schedule
    keep: Keep

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keep", check_keep("keep", self.keep))

    def counts(self, tokens: int, depth: int) -> list[int]:
        base = self.shape.counts(tokens, depth)
        if isinstance(self.keep, int):
            total = min(self.keep, tokens) * depth
        else:
            ratio = Fraction(float(self.keep))  # type: ignore[arg-type]  # never a Budget
            total = int(ratio.limit_denominator(1_000_000) * tokens * depth)
        free = [i for i, count in enumerate(base) if count < tokens]
        left = total - tokens * (depth - len(free))
        least = len([i for i in free if base[i]])
        if left < least or (left and not least and free):
            smallest = (tokens * (depth - len(free)) + least) / depth
            wanted = f"{smallest / tokens:.3f} of the tokens"
            if isinstance(self.keep, int):
                wanted = f"{smallest:.1f} of {tokens} tokens"
            raise ArgumentError.of(
                "keep",
                self.keep,
                f"at least {wanted} on average: {depth - len(free)} of {depth} layers have all of "
                f"them in {self.shape}",
            )
        scaled = scale([base[i] for i in free], left, tokens)
        found = list(base)
        for i, count in zip(free, scaled, strict=True):
            found[i] = count
        return found

    def pruned(self, depth: int) -> list[int]:
        if isinstance(self.keep, float):
            self.counts(_MANY, depth)
        return self.shape.pruned(depth)

    def states(self, depth: int) -> list[State]:
        return self.shape.states(depth)

    def averaging(self, keep: Keep) -> Schedule:
        """Return the same shape at another average."""
        return self.shape.averaging(keep)


def scale(base: Sequence[int], total: int, most: int) -> list[int]:
    """Scale falling counts to at most a sum, each at least 1 (where it was), at most ``most``."""

    def at(factor: float) -> list[int]:
        return [min(most, max(1, int(count * factor))) if count else 0 for count in base]

    low, high = 0.0, float(most)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= total else (low, middle)
    return at(low)
