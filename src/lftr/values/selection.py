"""A decision: which tokens stay, and which flow into which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import ArgumentError
from .indexing import take


@dataclass(frozen=True, eq=False)
class Flow:
    """What merges into the kept slots, as a sparse matrix: ``slot += weight * token``.

    All have one shape, ``(E,)`` or ``(B, E)``. A kept token that is to remain in its own slot flows
    into it like any other.

    Parameters
    ----------
    source : Tensor of int64
        Token that gives, in ``[0, N)``.
    slot : Tensor of int64
        Slot that receives, in ``[0, K)``.
    weight : Tensor of float
        Factor; those of a slot sum to one where it is an average.
    share : Tensor of float, optional
        Which share of its token each entry carries, where that does not follow from the factors,
        as in flows that are made of several; see `shares`.
    """

    source: Tensor
    slot: Tensor
    weight: Tensor
    share: Tensor | None = None

    def combine(self, x: Tensor, count: int) -> Tensor:
        """Return the ``count`` slots of a stack ``x`` ``(B, N, ...)``, summed in float32 or wider.

        A flow without a batch dimension stands for a batch of one.
        """
        batch, total = x.shape[:2]
        wide = torch.promote_types(x.dtype, torch.float32)
        row = torch.arange(batch, device=x.device).unsqueeze(1)
        source = (self.source.to(x.device).reshape(batch, -1) + row * total).flatten()
        slot = (self.slot.to(x.device).reshape(batch, -1) + row * count).flatten()
        slot, order = slot.sort(stable=True)  # sums in a fixed order, also on a GPU
        out = torch.nn.functional.embedding_bag(
            source[order],
            x.reshape(batch * total, -1).to(wide),
            torch.searchsorted(slot, torch.arange(batch * count, device=x.device)),
            mode="sum",
            per_sample_weights=self.weight.to(x.device, wide).flatten()[order],
        )
        return out.to(x.dtype).reshape(batch, count, *x.shape[2:])

    def shares(self) -> Tensor:
        """Return which share of its source each entry carries.

        Unless ``share`` says it, a token that flows into several slots is divided among them in
        proportion to the size of its factors, and an entry of factor 0 carries nothing.

        Returns
        -------
        Tensor of float32
            Shaped like the flow.
        """
        if self.share is not None:
            return self.share.float()
        factor = self.weight.float().abs()
        length = int(self.source.max()) + 1 if self.source.numel() else 0
        total = factor.new_zeros(*self.source.shape[:-1], length)
        total = total.scatter_add(-1, self.source, factor).gather(-1, self.source)
        return factor / total.where(total > 0, 1.0)


@dataclass(frozen=True, eq=False)
class Selection:
    """An immutable choice of ``K`` among ``N`` tokens, applicable to anything aligned with them.

    Parameters
    ----------
    index : Tensor of int64, shape (K,) or (B, K), or a sequence of int
        Anchor of every kept slot; brought into raster (ascending) order.
    flow : Flow, optional
        For merging methods, what each slot is made of. Without it a slot is its anchor.
    notes : tuple of str
        What the report should say of this decision, such as the evidence that stood in.
    slot_weight : Tensor of float, shaped like the index, optional
        How many tokens each slot stands for, where that does not follow from the flow; see
        `weight`.

    Raises
    ------
    ArgumentError
        If the index is not a list of distinct non-negative whole numbers, or the weights are not
        positive, one for each slot.
    """

    index: Tensor
    flow: Flow | None = None
    notes: tuple[str, ...] = ()
    slot_weight: Tensor | None = None

    def __post_init__(self) -> None:
        index = torch.as_tensor(self.index)
        if index.ndim not in (1, 2) or index.is_floating_point() or index.dtype == torch.bool:
            kind = f"{index.dtype} {tuple(index.shape)}"
            raise ArgumentError.of("index", kind, "whole numbers of shape (K,) or (B, K)")
        index = index.long()
        if index.shape[-1] == 0:
            raise ArgumentError.of("index", index.tolist(), "at least one token")
        weight = None if self.slot_weight is None else torch.as_tensor(self.slot_weight).float()
        if weight is not None:
            right = weight.shape == index.shape
            if not right or not bool(((weight > 0) & weight.isfinite()).all()):
                allowed = f"positive, finite numbers of shape {tuple(index.shape)}"
                raise ArgumentError.of("slot_weight", self.slot_weight, allowed)
            object.__setattr__(self, "slot_weight", weight)
        rising = index[..., 1:] > index[..., :-1]
        if not bool(rising.all()):
            index, order = index.sort(dim=-1)
            if bool((index[..., 1:] == index[..., :-1]).any()):
                raise ArgumentError.of("index", self.index, "distinct tokens")
            if self.flow is not None:
                slot = order.argsort(dim=-1).gather(-1, self.flow.slot)
                flow = replace(self.flow, slot=slot)
                object.__setattr__(self, "flow", flow)
            if weight is not None:
                object.__setattr__(self, "slot_weight", weight.gather(-1, order))
        if index[..., 0].amin().item() < 0:
            raise ArgumentError.of("index", self.index, "non-negative whole numbers")
        object.__setattr__(self, "index", index)

    @classmethod
    def _known(
        cls,
        index: Tensor,
        flow: Flow | None = None,
        notes: tuple[str, ...] = (),
        slot_weight: Tensor | None = None,
    ) -> Selection:
        """Return a decision without the checks: its index is ascending by the way it was made."""
        made = object.__new__(cls)
        made.__dict__.update(index=index, flow=flow, notes=notes, slot_weight=slot_weight)
        return made

    @property
    def batched(self) -> bool:
        """Whether this decides for a stack of items."""
        return self.index.ndim == 2

    @property
    def count(self) -> int:
        """Number of kept slots ``K``."""
        return self.index.shape[-1]

    @property
    def plain(self) -> bool:
        """Whether every slot is its anchor and stands for no other token."""
        return self.flow is None and self.slot_weight is None

    @property
    def weight(self) -> Tensor:
        """How many tokens each slot stands for, float32, shaped like the index.

        1 for a slot that is its anchor alone; for a merged one the number of tokens that flow into
        it, where a token that flows into several slots counts in each by its share.
        """
        tokens = int(self.index.max()) + 1
        if self.flow is not None:
            tokens = max(tokens, int(self.flow.source.max()) + 1)
        ones = torch.ones(*self.index.shape[:-1], tokens, device=self.index.device)
        return self.inherited(ones)

    def inherited(self, weight: Tensor) -> Tensor:
        """Return how many tokens each slot stands for, if each token stands for several already.

        Parameters
        ----------
        weight : Tensor of float32, shape (N,) or (B, N)
            For how many each token stands.

        Returns
        -------
        Tensor of float32
            Shaped like the index.
        """
        weight = weight.to(self.index.device)
        if self.slot_weight is not None:
            return self.slot_weight.float() * weight.gather(-1, self.index)
        if self.flow is None:
            return weight.gather(-1, self.index)
        flow = Flow(self.flow.source, self.flow.slot, self.flow.shares())
        total = flow.combine(weight if self.batched else weight[None], self.count)
        total = total if self.batched else total[0]
        return total.where(total > 0, 1.0)  # nothing flows into a slot: it is one token

    def apply(self, x: Tensor, dim: int | None = None) -> Tensor:
        """Reduce anything that is aligned with the tokens.

        Parameters
        ----------
        x : Tensor
            Aligned with the tokens on ``dim``; with a leading batch dimension if this is a stack.
        dim : int, optional
            The token dimension; by default the first (after the batch).

        Returns
        -------
        Tensor
            ``x`` with ``K`` entries on ``dim``, same dtype. Floating-point values merge as the
            decision says (summed in float32 or wider); others are taken at the anchors.
        """
        first = 1 if self.batched else 0
        dim = first if dim is None else dim % x.ndim
        if self.flow is None or not x.is_floating_point():
            return take(x, self.index, dim)
        stack = x.movedim(dim, first)
        stack = stack if self.batched else stack.unsqueeze(0)
        out = self.flow.combine(stack, self.count)
        return (out if self.batched else out.squeeze(0)).movedim(first, dim)

    def positions(self, position_ids: Tensor | None = None) -> Tensor:
        """Positions of the kept slots: those of their anchors, never mixed.

        Parameters
        ----------
        position_ids : Tensor, shape (..., N), optional
            Positions of all tokens; by default their raster index.

        Returns
        -------
        Tensor
            Shape ``(..., K)``.
        """
        if position_ids is None:
            return self.index.clone()
        index = self.index.to(position_ids.device)
        if not self.batched:
            return position_ids.index_select(-1, index)
        lead = position_ids.shape[: position_ids.ndim - 2]
        return position_ids.gather(-1, index.expand(*lead, *index.shape))

    def assignment(self, total: int) -> Tensor:
        """Slot that each of ``total`` tokens flows into most strongly; -1 where it is dropped.

        Returns
        -------
        Tensor of int64, shape (N,) or (B, N)
        """
        if self.batched:
            return torch.stack([self.item(i).assignment(total) for i in range(len(self.index))])
        slots = torch.full((total,), -1, dtype=torch.int64, device=self.index.device)
        if self.flow is not None:
            for e in self.flow.weight.abs().argsort(stable=True).tolist():  # the strongest stays
                if self.flow.weight[e] != 0:
                    slots[self.flow.source[e]] = self.flow.slot[e]
        slots[self.index] = torch.arange(self.count, device=self.index.device)
        return slots

    def item(self, i: int) -> Selection:
        """Return the decision for item ``i`` of a stack."""
        flow = self.flow
        if flow is not None:
            share = None if flow.share is None else flow.share[i]
            flow = Flow(flow.source[i], flow.slot[i], flow.weight[i], share)
        weight = None if self.slot_weight is None else self.slot_weight[i]
        return self._known(self.index[i], flow, self.notes, weight)

    def through(self, index: Tensor) -> Selection:
        """Return this decision about tokens ``x[index]`` as one about ``x``; ``index`` ascends."""

        def pull(inner: Tensor) -> Tensor:
            place = index.to(inner.device)
            if place.ndim == inner.ndim == 2:
                return place.gather(1, inner)
            return place[inner]

        flow = self.flow
        if flow is not None:
            flow = replace(flow, source=pull(flow.source))
        return Selection(pull(self.index), flow, self.notes, self.slot_weight)

    @classmethod
    def everything(cls, total: int, batch: int | None = None) -> Selection:
        """Return the decision that keeps all ``total`` tokens, for one item or a stack."""
        index = torch.arange(total)
        return cls._known(index if batch is None else index.expand(batch, total))

    @classmethod
    def top(cls, scores: Tensor, keep: int, notes: Sequence[str] = ()) -> Selection:
        """Return the decision for the ``keep`` highest of ``scores`` ``(..., N)``.

        Ties go to the earlier token, whatever the device.
        """
        if keep < scores.shape[-1]:
            best, index = scores.topk(keep + 1, dim=-1)
            edges = best[..., keep - 1 :].reshape(-1, 2).tolist()
            if all(last > next_ for last, next_ in edges):  # no token ties with the last
                return cls._known(index[..., :keep].sort(dim=-1).values, notes=tuple(notes))
        order = scores.argsort(dim=-1, descending=True, stable=True)
        return cls._known(order[..., :keep].sort(dim=-1).values, notes=tuple(notes))
