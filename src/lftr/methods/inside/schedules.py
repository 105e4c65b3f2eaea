"""Schedules: how many visual tokens each decoder layer processes.

A layer is written as its number, counted from 0 (``layer=2``: the third layer is the first with
fewer tokens), or as a share of the model's depth (``layer=0.25``).
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

__all__ = [
    "Average",
    "Exit",
    "Linear",
    "Logistic",
    "Schedule",
    "Skip",
    "Stages",
    "State",
    "Step",
    "scale",
]
_MANY = 1_000_000  # tokens, to see where a schedule drops some
State = Literal["active", "frozen", "bypassed"]


class Schedule(Plain, ABC, kind="schedule"):
    """The number of visual tokens in each layer, which never grows, and their state there."""

    @abstractmethod
    def counts(self, tokens: int, depth: int) -> list[int]:
        """Return the number of visual tokens in each of ``depth`` layers, ``tokens`` in the first.

        Raises
        ------
        ArgumentError
            If the model has no such layer, or the budget cannot be met.
        """

    def states(self, depth: int) -> list[State]:
        """Return the state of the visual tokens in each layer.

        ``"active"``: text attends to them and they are updated. ``"frozen"``: text attends to them,
        and they are not updated. ``"bypassed"``: the layer processes text alone; later layers have
        the visual tokens again.
        """
        return ["active"] * depth

    def pruned(self, depth: int) -> list[int]:
        """Return the layers that can have fewer tokens than the first.

        Raises
        ------
        ArgumentError
            As `counts`, as far as it does not depend on the prompt.
        """
        counts = self.counts(_MANY, depth)
        return [layer for layer, count in enumerate(counts) if count < _MANY]

    def cuts(self, depth: int) -> list[int]:
        """Return the layers that can have fewer tokens than the one before; raises as `pruned`."""
        counts = self.counts(_MANY, depth)
        pairs = enumerate(itertools.pairwise(counts), start=1)
        return [layer for layer, (before, count) in pairs if count < before]

    def averaging(self, keep: Keep) -> Schedule:
        """Return this schedule scaled so that layers have ``keep`` tokens on average."""
        return Average(self, keep)

    @classmethod
    def require(cls, name: str, value: object) -> None:
        """Raise an error unless an argument is a schedule of this class."""
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
        Share or number of tokens from this layer on.
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
    """Several cuts, each to a share of the tokens of the first layer, or to a number.

    Parameters
    ----------
    layers : sequence of int or float
        First layers of the stages, ascending. If two shares of the depth are the same layer of a
        shallow model, the later stage is used.
    keep : sequence of float or int
        Share or number of tokens from each of these layers on, never growing.
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
        counts = [tokens] * depth
        for start, keep in zip(starts, self.keep, strict=True):
            counts[start:] = [resolve(keep, tokens)] * (depth - start)
        if any(b > a for a, b in itertools.pairwise(counts)):
            raise ArgumentError.of(
                "keep",
                self.keep,
                f"a schedule that does not grow; of {tokens} tokens it is {counts}",
            )
        return counts


@dataclass(frozen=True)
class Linear(Schedule):
    """A linear decrease from all tokens to the share ``end`` (AIM).

    Parameters
    ----------
    start : int or float
        First layer with fewer tokens.
    stop : int or float
        Layer from which on the share is ``end``; between both, each layer drops equally many.
    end : float
        Share of tokens at the end, in [0, 1].
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
    """A logistic decrease, ``1 / (1 + exp(slope * (layer - centre)))`` of the tokens (AutoPrune).

    Parameters
    ----------
    centre : int or float
        Layer at which half of the tokens are left.
    slope : float
        Steepness per layer, at least 0.
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
        First layer without visual tokens. The model's depth (or 1.0) means that they are never
        dropped. A share of the depth is rounded down, so that at most this share of the layers has
        visual tokens.
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
        """Return the exit with an average of ``keep``: at that share of the depth."""
        if not isinstance(keep, float):
            raise ArgumentError.of("keep", keep, "a ratio in (0, 1]: the share of the layers")
        return Exit(keep)


@dataclass(frozen=True)
class Skip(Schedule):
    """All tokens in every layer, but frozen or bypassed in some.

    Parameters
    ----------
    state : {"frozen", "bypassed"}
        State of the tokens in the skipped layers.
    every : int, optional
        The tokens are active only in every ``every``-th layer, beginning with the first (mPLUG).
    layers : sequence of int or float
        The skipped layers, instead of ``every``.
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
        """Raise an error unless all tokens are kept: this schedule drops none."""
        if keep != 1.0 or not isinstance(keep, float):
            raise ArgumentError.of(
                "keep", keep, "1.0: this schedule skips layers, it drops nothing"
            )
        return self


@dataclass(frozen=True)
class Average(Schedule):
    """Another schedule, scaled to an average number of tokens over all layers.

    Papers count budgets in this way: "192 tokens" are 192 averaged over the layers. The average is
    never above ``keep`` and less than one token below it.

    Parameters
    ----------
    shape : Schedule
        The schedule. Its layers with all tokens are not changed, the others are scaled equally.
    keep : float or int
        Average share or number of tokens.
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
        counts = list(base)
        for i, count in zip(free, scaled, strict=True):
            counts[i] = count
        return counts

    def pruned(self, depth: int) -> list[int]:
        if isinstance(self.keep, float):
            self.counts(_MANY, depth)
        return self.shape.pruned(depth)

    def cuts(self, depth: int) -> list[int]:
        return self.shape.cuts(depth)

    def states(self, depth: int) -> list[State]:
        return self.shape.states(depth)

    def averaging(self, keep: Keep) -> Schedule:
        """Return the same shape at another average."""
        return self.shape.averaging(keep)


def scale(base: Sequence[int], total: int, most: int) -> list[int]:
    """Scale counts to at most a sum; each at least 1 unless it was 0, and at most ``most``."""

    def at(factor: float) -> list[int]:
        return [min(most, max(1, int(count * factor))) if count else 0 for count in base]

    low, high = 0.0, float(most)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= total else (low, middle)
    return at(low)
