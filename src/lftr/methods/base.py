"""The base class of methods that choose exactly K of an item's tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..options.named import Named
from ..values.budget import is_auto, resolve
from ..values.errors import ArgumentError, LftrError
from ..values.evidence import FIELDS
from ..values.selection import Selection
from ..values.source import Source
from ..values.tokens import Grid, VisualTokens
from .undeclared import call_declared

Evidence = tuple[tuple[str, ...], ...]


class Method(Named):
    """Decides which visual tokens are kept. Independent of the model.

    A subclass defines one of two functions. `choose` receives a stack of patches, with finite
    values and without separators, and a count; it suffices for most methods. `select` receives the
    tokens unchanged and must do everything that this class does otherwise. Options are dataclass
    fields. A type that declares words, ``Literal["a", "b"]``, or a range,
    ``Annotated[float, lftr.Range(0.0, 1.0)]``, is checked when the method is made. Checks of
    several options together go into ``__post_init__``, after ``super().__post_init__()``. The
    argument ``name`` registers the method::

        @dataclass(frozen=True)
        class Loudest(lftr.Method, name="loudest"):
            def choose(self, tokens, keep):
                return lftr.Selection.top(tokens.features.norm(dim=-1), keep)

    Attributes
    ----------
    name : str
        Name under which `lftr.get_method` finds it; empty for classes that are not registered.
    source : Source, optional
        The publication or program that the method follows.
    """

    registry: ClassVar[dict[str, type[Method]]] = {}
    source: ClassVar[Source | None] = None

    @property
    def sees_features(self) -> bool:
        """Whether decisions use the features, by default yes.

        If not, features are not searched for NaN either, which would take longer than the decision.
        A method may define a class attribute instead.
        """
        return True

    @property
    def evidence(self) -> Evidence:
        """The evidence that the method needs: for each need, fields in order of preference.

        ``(("cls_attention", "attention_received"),)`` requests CLS attention, or the attention
        received for encoders without a CLS token.
        """
        return ()

    def select(self, tokens: VisualTokens, keep: object) -> Selection:
        """Choose ``keep`` of an item's tokens.

        Parameters
        ----------
        tokens : VisualTokens
            One item, or a stack of items, each decided as if it were alone.
        keep : float, int, Budget or "auto"
            How many tokens are kept: a ratio (float), a count (int) or a total, see
            `lftr.values.budget.resolve`. Separators are dropped first. With ``"auto"`` the method
            decides, if it can; all items of a stack must get the same number.

        Returns
        -------
        Selection
            Exactly this number of slots; batched like ``tokens``.

        Raises
        ------
        ArgumentError, MissingEvidenceError
            If ``keep`` is not allowed, or evidence is missing.
        """
        stack = tokens.as_batch()
        count = self.count(stack, keep)
        if count == tokens.count:
            chosen = Selection.everything(count, batch=len(stack.features))
        else:
            with torch.no_grad():  # a decision has no gradient
                chosen = self._choose_clean(stack, count)
        return chosen if tokens.batched else chosen.item(0)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose ``keep`` of a stack's patches, ``1 <= keep < N``; finite values, no separators."""
        raise TypeError(f"{type(self).__name__} must define choose(tokens, keep)")

    def count(self, tokens: VisualTokens, keep: object) -> int:
        """Return how many tokens `select` keeps; ``"auto"`` is the method's own number."""
        if not is_auto(keep):
            return resolve(keep, tokens.count)
        patches = _finite(tokens.as_batch(), self.sees_features)[0].without_separators()
        counts: list[int] = call_declared(self, self.auto_count, patches)
        if len(set(counts)) != 1:
            raise ArgumentError.of("keep", "auto", f"one item at a time; these would keep {counts}")
        return min(max(1, counts[0]), patches.count)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        """Return how many patches of each item the method keeps if it decides (``"auto"``)."""
        methods = Method.registry.values()
        known = sorted(m.name for m in methods if m.auto_count is not Method.auto_count)
        raise ArgumentError.of(
            "keep", "auto", f"a number, or one of the methods {', '.join(known)}"
        )

    def undeclared(self) -> dict[str, str]:
        """Return, for each field of evidence that no need names, what `evidence` should return."""
        needs = self.evidence
        declared = {"features", *(name for names in needs for name in names)}
        return {
            name: f"let its property evidence return {(*needs, (name,))!r}; {name} is provided by "
            f"{field.provider}"
            for name, field in FIELDS.items()
            if name not in declared
        }

    def allot(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[int]:
        """Redistribute counts among the items of a prompt, with the same sum; by default not."""
        return list(counts)

    def select_all(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[Selection]:
        """Choose for every item of a batch of prompts; items of equal size are stacked."""
        alone = type(self).select is not Method.select  # a user's own select may not take stacks
        groups: dict[object, list[int]] = {}
        for i, (item, count) in enumerate(zip(items, counts, strict=True)):
            groups.setdefault(i if alone else (item.layout, count), []).append(i)
        chosen: dict[int, Selection] = {}
        for members in groups.values():
            count = counts[members[0]]
            if alone:
                chosen[members[0]] = call_declared(self, self.select, items[members[0]], count)
                continue
            stack = self.select(VisualTokens.stack([items[i] for i in members]), count)
            chosen.update((i, stack.item(row)) for row, i in enumerate(members))
        return [chosen[i] for i in range(len(items))]

    def _choose_clean(self, stack: VisualTokens, count: int) -> Selection:
        finite, notes = _finite(stack, self.sees_features)
        patches = finite.without_separators()
        if count < patches.count:
            chosen = call_declared(self, self.choose, patches, count)
            check_choice(self, "choose", chosen)
            if chosen.index.shape != (len(patches.features), count):
                raise LftrError(
                    f"{type(self).__name__}.choose returned slots of shape "
                    f"{tuple(chosen.index.shape)}, not {(len(patches.features), count)}"
                )
        else:
            chosen = Selection.everything(patches.count, batch=len(patches.features))
        if stack.separator is not None:
            chosen = _with_separators(chosen, stack.separator, count)
        return dataclasses.replace(chosen, notes=chosen.notes + notes) if notes else chosen


class ImageMethod(Method):
    """A method that acts on the image: the host encodes it again at a smaller size."""

    def small_grid(self, grid: Grid, keep: int) -> Grid:
        """Return the grid of at least ``keep`` patches at which to encode an image of ``grid``."""
        raise TypeError(f"{type(self).__name__} must define small_grid(grid, keep)")

    def cells(self, grid: Grid, keep: int) -> Tensor:
        """Return which ``keep`` patches of the small image are kept; int64 ``(K,)``, ascending.

        Their positions are those that `choose` picks in the full image.
        """
        raise TypeError(f"{type(self).__name__} must define cells(grid, keep)")


def check_choice(method: Method, function: str, choice: object) -> None:
    """Raise an error if a method did not return a `Selection`."""
    if not isinstance(choice, Selection):
        raise LftrError(
            f"{type(method).__name__}.{function} returned {type(choice).__name__} where a "
            "lftr.Selection was expected"
        )


def _with_separators(chosen: Selection, separator: torch.Tensor, count: int) -> Selection:
    """Turn a choice of patches into one of all tokens; slots that are left keep separators."""
    patches = (~separator).nonzero().squeeze(1)
    spare = count - chosen.count
    full = chosen.through(patches)
    if spare == 0:
        return full
    first = separator.nonzero().squeeze(1)[:spare].expand(len(full.index), spare)
    index = torch.cat([full.index, first.to(full.index.device)], dim=1)
    weight = full.slot_weight
    if weight is not None:
        weight = torch.nn.functional.pad(weight, (0, spare), value=1.0)
    return Selection(index, notes=full.notes, slot_weight=weight)


def _finite(tokens: VisualTokens, features: bool) -> tuple[VisualTokens, tuple[str, ...]]:
    """Replace NaN and infinities by zero, with a note; in the features only if ``features``."""
    changes: dict[str, Any] = {}
    for name, value in tokens.present().items():
        if not value.is_floating_point() or (name == "features" and not features):
            continue
        # one cheap pass first: a finite sum proves finite values
        if math.isfinite(value.sum(dtype=torch.float32).item()) or torch.isfinite(value).all():
            continue
        changes[name] = value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if not changes:
        return tokens, ()
    return (
        dataclasses.replace(tokens, **changes),
        (f"non-finite values in {', '.join(changes)} were taken as 0",),
    )
