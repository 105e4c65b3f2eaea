"""The base class of methods inside the language model: a schedule, and a choice at a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ...options.named import Named
from ...values.budget import Keep
from ...values.errors import LftrError, MissingEvidenceError
from ...values.places import Places
from ...values.selection import Selection
from ...values.source import Source
from .schedules import Schedule

Reads = Literal["nothing", "previous", "own", "own text", "unrotated"]
READS: dict[Reads, str] = {  # in words, for lists of methods
    "nothing": "states, no attention",
    "previous": "attention of the layer before",
    "own": "the last token's attention in the layer to come",
    "own text": "the text's attention in the layer to come",
    "unrotated": "the last token's attention in the layer before, without positions",
}
BLOCK = 1 << 24  # entries of attention maps that are held at once


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of one attention layer for one prompt.

    Attention is computed on demand.

    Attributes
    ----------
    queries : Tensor, shape (H, Q, d)
        After normalisation and, except for ``reads = "unrotated"``, rotary embeddings; of all ``L``
        tokens or of the last ones.
    keys : Tensor, shape (H_kv, S, d)
        The same of the keys, of which the last ``L`` are those of the tokens.
    scale : float
        Factor of the products.
    mask : Tensor, optional, shape (Q, S)
        True (or 0) where a query may attend, False (or very negative) elsewhere. By default a query
        attends to all tokens up to itself.
    softcap : float, optional
        Bound of the products, ``cap * tanh(product / cap)``.
    first : int
        Token of the first query.
    values : Tensor, shape (H_kv, S, d_v), optional
        The values behind the keys, for ``reads = "previous"``.
    """

    queries: Tensor
    keys: Tensor
    scale: float
    mask: Tensor | None = None
    softcap: float | None = None
    first: int = 0
    values: Tensor | None = None

    @property
    def offset(self) -> int:
        """Number of keys before that of the first token."""
        return self.keys.shape[1] - self.first - self.queries.shape[1]

    def logits(self, rows: Tensor) -> Tensor:
        """Return the products of the queries ``rows`` ``(R,)`` with all keys, masked: float32.

        Returns
        -------
        Tensor, shape (H, R, S)
        """
        chosen = self.queries[:, rows - self.first].float() * self.scale
        groups = chosen.reshape(len(self.keys), -1, chosen.shape[2])  # of heads that share keys
        logits = torch.bmm(groups, self.keys.float().mT).view(*chosen.shape[:2], self.keys.shape[1])
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        low = torch.finfo(torch.float32).min
        if self.mask is None:
            places = torch.arange(self.keys.shape[1], device=rows.device)
            mask = places <= rows[:, None] + self.offset
        else:
            mask = self.mask[rows - self.first]
        return logits.masked_fill_(~mask, low) if mask.dtype == torch.bool else logits.add_(mask)

    def to(self, device: torch.device) -> Heads:
        """Return the heads on a device."""
        if self.queries.device == device:
            return self
        return dataclasses.replace(
            self,
            queries=self.queries.to(device),
            keys=self.keys.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            values=None if self.values is None else self.values.to(device),
        )

    def at(self, rows: Tensor) -> Heads:
        """Return the heads of the tokens ``rows`` ``(R,)``, ascending, and of earlier keys."""
        if len(rows) == self.first + self.queries.shape[1]:
            return self
        before = torch.arange(self.offset, device=rows.device)
        keys = torch.cat([before, rows + self.offset])
        asking = rows[rows >= self.first] - self.first
        return dataclasses.replace(
            self,
            queries=self.queries[:, asking],
            keys=self.keys[:, keys],
            mask=None if self.mask is None else self.mask[asking][:, keys],
            first=len(rows) - len(asking),
            values=None if self.values is None else self.values[:, keys],
        )

    def attention(self, rows: Tensor) -> Tensor:
        """Return the softmax-ed attention of the queries ``rows`` to all keys.

        Returns
        -------
        Tensor, shape (H, R, S)
            Float32.
        """
        return self.logits(rows).softmax(dim=-1)

    def split(self, size: int) -> Iterator[Heads]:
        """Yield ``size`` heads at a time, each head with keys and values of its own."""
        group = len(self.queries) // len(self.keys)
        for some in torch.arange(len(self.queries), device=self.queries.device).split(size):
            yield dataclasses.replace(
                self,
                queries=self.queries[some],
                keys=self.keys[some // group],
                values=None if self.values is None else self.values[some // group],
            )


@dataclass(frozen=True)
class Passage:
    """What entered and what left a part of a decoder layer, its attention or its MLP.

    Attributes
    ----------
    entered, left : Tensor, shape (L, C)
        After the normalisation in front of the part, and before the residual connection.
    """

    entered: Tensor
    left: Tensor

    def at(self, rows: Tensor) -> Passage:
        """Return the passage of some tokens."""
        return Passage(self.entered[rows], self.left[rows])


@dataclass(frozen=True)
class LayerView:
    """The state of one prompt before a decoder layer, without padding and dropped tokens.

    Attributes
    ----------
    layer, depth : int
        Number of the next layer, and number of all layers.
    states : Tensor, shape (L, C)
        Hidden states that enter that layer.
    visual : Tensor of int64, shape (N,)
        Rows of ``states`` that are visual tokens, ascending. Methods choose among these.
    text : Tensor of int64, shape (M,)
        Rows of text after the first visual token.
    tokens : int
        Visual tokens that entered the language model.
    heads : Heads, optional
        The attention of the previous layer, or of the next one, as the method reads it.
    norm : callable
        The language model's final normalisation.
    memory : dict
        Values that the method stores for later layers of the same prompt; empty at first.
    rotary : pair of Tensor, shape (L, d), optional
        Cosines and sines of the rows' rotary positions, if the model has them.
    columns : Tensor of int64, shape (L,), optional
        Columns of the rows in the prompt, ascending and the same in every layer; by default the
        rows' own numbers.
    locate : callable
        Returns the places of the visual tokens, or None if they are unknown.
    passages : pair of Passage, optional
        Through the attention and the MLP of the previous layer, for methods with ``follows``.
    """

    layer: int
    depth: int
    states: Tensor
    visual: Tensor
    text: Tensor
    tokens: int
    heads: Heads | None = None
    norm: Callable[[Tensor], Tensor] = lambda states: states
    memory: dict[str, Any] = field(default_factory=dict)
    rotary: tuple[Tensor, Tensor] | None = None
    columns: Tensor | None = None
    locate: Callable[[], Places | None] = lambda: None
    passages: tuple[Passage, Passage] | None = None

    @property
    def places(self) -> Places:
        """Where the visual tokens lie in their images and videos.

        Raises
        ------
        LftrError
            If it is unknown, because a Q-Former made the tokens or `lftr.prepare` the arguments.
        """
        places = self.locate()
        if places is None:
            raise LftrError(
                "this method needs to know where tokens lie in their images, which is unknown for "
                "the tokens of a Q-Former and after lftr.prepare: reduce the call of the model"
            )
        return places

    @property
    def passed(self) -> tuple[Passage, Passage]:
        """The passages, for a method that follows states."""
        if self.passages is None:
            raise _missing(
                "passages",
                "this method follows states through a layer, but none was kept: see "
                "LayerMethod.follows",
            )
        return self.passages

    @property
    def last(self) -> Tensor:
        """The prompt's last token, shape ``(1,)``."""
        return torch.tensor([len(self.states) - 1], device=self.states.device)

    @property
    def asking(self) -> Tensor:
        """Rows that attend to the image: the text after it, or the last token without such text."""
        return self.text if len(self.text) else self.last

    def remember(self, name: str, values: Tensor) -> None:
        """Store a value of each visual token, ``(N, ...)``, for later layers of the same prompt."""
        self.memory[name] = self._visual_columns, values

    def recall(self, name: str) -> Tensor:
        """Return what `remember` stored in an earlier layer, of the tokens that are left: (N, ...).

        Raises
        ------
        LftrError
            If no value was stored under this name.
        """
        if name not in self.memory:
            raise LftrError(f"{name!r} was not stored in an earlier layer: see LayerMethod.watches")
        columns, values = self.memory[name]
        current = self._visual_columns.to(columns.device)
        left = torch.searchsorted(columns, current)
        if len(current) and not columns[left.clamp_max(len(columns) - 1)].equal(current):
            raise LftrError(
                f"{name!r} was not stored for all tokens that are left: store it in "
                "LayerMethod.observe, which sees all visual tokens"
            )
        return values[left].to(self.states.device)  # type: ignore[no-any-return]

    @property
    def _visual_columns(self) -> Tensor:
        return self.visual if self.columns is None else self.columns[self.visual]

    @property
    def read(self) -> Heads:
        """The heads, for a method that reads attention."""
        if self.heads is None:
            raise _missing(
                "heads",
                "this method reads attention, but none is available: see LayerMethod.reads",
            )
        return self.heads

    def attention(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the attention of the tokens ``rows`` to the visual ones, a block of rows at a time.

        It is normalised over all tokens to which a row attends, not over visual tokens alone.

        Yields
        ------
        rows : Tensor of int64, shape (R,)
            Some of the rows, in their order.
        attention : Tensor, shape (H, R, N)
            Float32.
        """
        columns = self.visual + self.read.offset
        for part, attention in self._to_all(rows):
            yield part, attention[..., columns]

    def _to_all(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some of ``rows`` and their attention ``(H, R, S)`` to all tokens, in turn."""
        heads = self.read
        some = max(1, BLOCK // (len(heads.queries) * heads.keys.shape[1]))
        for part in rows.split(some):
            yield part, heads.attention(part)

    def received(self, rows: Tensor) -> Tensor:
        """Return the attention that each visual token receives from the tokens ``rows``.

        Returns
        -------
        Tensor, shape (N,)
            Attention, averaged over heads and rows; float32.
        """
        heads = self.read
        total = torch.zeros(heads.keys.shape[1], device=self.states.device)
        for _, attention in self._to_all(rows):
            total += attention.mean(dim=0).sum(dim=0)
        return total[self.visual + heads.offset] / len(rows)


def _missing(field: str, message: str) -> MissingEvidenceError:
    error = MissingEvidenceError(message)
    error.fields = (field,)
    return error


class LayerMethod(Named):
    """Decides which visual tokens are kept from a decoder layer on. Independent of the model.

    A subclass is a frozen dataclass with a field ``schedule`` that defines `select`. Other options
    are checked as those of a `lftr.Method`. The argument ``name`` registers the method::

        @dataclass(frozen=True)
        class Loudest(lftr.LayerMethod, name="loudest-inside"):
            schedule: Schedule = Step(layer=2, keep=0.5)

            def select(self, view, keep):
                return lftr.Selection.top(view.states[view.visual].norm(dim=-1), keep)

    Attributes
    ----------
    name : str
        Name under which `lftr.get_method` finds it; empty for classes that are not registered.
    schedule : Schedule
        Number of visual tokens in each layer.
    reads : {"nothing", "previous", "own", "own text", "unrotated"}
        Which attention `select` uses. ``"previous"``: that of the layer that has just run, whose
        queries, keys and values are read while it runs. ``"own"``: that of the next layer, for the
        prompt's last token alone; its keys are projected once more for this. ``"own text"``: the
        same for all tokens from the first text after an image on. ``"unrotated"``: that of the
        layer that has just run, for the last token, without rotary position embeddings and without
        the keys of earlier calls; its keys, too, are projected once more.
    follows : bool
        Whether the method uses `LayerView.passages`, which are kept while the layer runs.
    merges : bool
        Whether `select` may merge tokens. Methods that only drop them say False: if gradients are
        checkpointed, a layer whose tokens were merged cannot run again in the backward pass.
    scheduled : type of Schedule
        The class of schedules that the method accepts; by default any.
    source : Source, optional
        The publication or program that the method follows.
    """

    registry: ClassVar[dict[str, type[LayerMethod]]] = {}
    reads: ClassVar[Reads] = "nothing"
    follows: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    scheduled: ClassVar[type[Schedule]] = Schedule  # type: ignore[type-abstract]
    source: ClassVar[Source | None] = None
    schedule: Schedule

    def __post_init__(self) -> None:
        """Check the options by their types, and the class of the schedule."""
        super().__post_init__()
        self.scheduled.require("schedule", self.schedule)

    def check(self, config: Any) -> None:
        """Raise an error for a model that this method does not support.

        Parameters
        ----------
        config : transformers.PreTrainedConfig
            Of the language model.

        Raises
        ------
        LftrError
            By default never.
        """

    def undeclared(self) -> dict[str, str]:
        """Return, for each field of a view that is not declared, what to add to the class."""
        missing = {}
        if self.reads == "nothing":
            others = ", ".join(repr(one) for one in READS if one not in ("nothing", "previous"))
            missing["heads"] = (
                "for attention (view.received, view.attention, view.read), add reads = 'previous' "
                f"to the class, or one of {others}"
            )
        if self.reads != "previous":
            missing["values"] = "for values (view.read.values), add reads = 'previous' to the class"
        if not self.follows:
            missing["passages"] = "for view.passed, add follows = True to the class"
        return missing

    def watches(self, depth: int) -> frozenset[int]:
        """Return the layers before which the method looks even if the schedule drops no tokens."""
        return frozenset()

    def observe(self, view: LayerView) -> None:
        """Look at the states before a decision; `LayerView.memory` holds values for later layers.

        Called before `count`, at every layer where the schedule drops tokens or that `watches`
        names. By default it does nothing.
        """

    def count(self, view: LayerView, planned: int) -> int:
        """Return how many visual tokens are kept; the schedule says ``planned``. 0 drops all.

        Before layer 0 nothing can be dropped.
        """
        return planned

    def select(self, view: LayerView, keep: int) -> Selection:
        """Choose ``keep`` of ``view.visual``, ``1 <= keep < N``.

        Returns
        -------
        Selection
            Indices into ``view.visual``, exactly ``keep`` of them; with a flow where tokens merge.
        """
        raise TypeError(f"{type(self).__name__} must define select(view, keep)")

    def averaging(self, keep: Keep) -> Self:
        """Return this method with its schedule scaled to an average of ``keep`` over the layers."""
        changed: Any = self
        return dataclasses.replace(changed, schedule=self.schedule.averaging(keep))  # type: ignore[no-any-return]
