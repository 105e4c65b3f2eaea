"""What one forward of a reduced model must show: compared while it runs, so nothing goes unseen.

The host leans on what transformers calls its arguments and on who calls whom. Where a release
changes that, a reduction could answer wrongly without an error; these comparisons raise instead.
They read shapes and lengths alone, some microseconds a forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import ArgumentError, LftrError, UnsupportedModelError
from .api import Cache, Call, versions
from .layer_cache import held_by, whole_layers


@dataclass
class Forward:
    """A forward of the model, as it was called after the reduction.

    Attributes
    ----------
    columns : tuple of int, optional
        Rows and columns of the prompt's ids.
    past : int
        Columns that the cache held.
    cache : Cache, optional
        The cache that was given.
    placed : bool
        Whether positions were given.
    reached : bool
        Whether the language model was called.
    """

    columns: tuple[int, int] | None
    past: int
    cache: Cache | None
    placed: bool = False
    reached: bool = False

    @classmethod
    def of(cls, call: Call) -> Forward:
        """Read the call."""
        return cls(call.columns, call.past, call.cache, call.positions is not None)

    def check_inner(self, inner: Call, told: bool) -> None:
        """Check what the language model is called with, against what the model was given.

        Parameters
        ----------
        told : bool
            Whether the language model is told positions, see `Family.told_positions`.

        Raises
        ------
        LftrError
            If columns, positions, mask or cache are not those that the model was called with.
        """
        if self.reached or self.columns is None:
            return
        self.reached = True
        columns = self.columns[1]
        if inner.columns != self.columns:
            raise _mismatch("the language model", f"{inner.columns} (rows, columns)", self.columns)
        positions, mask = inner.positions, inner.mask
        if self.placed and positions is None and told:
            raise _mismatch(Call.name("positions"), "lost on the way", f"{columns} of them")
        if isinstance(positions, Tensor) and positions.shape[-1] != columns:
            raise _mismatch(Call.name("positions"), f"{positions.shape[-1]} columns", columns)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] < self.past + columns:
            raise _mismatch("the mask", f"{mask.shape[1]} columns", self.past + columns)
        if self.cache is not None and inner.cache is not self.cache:
            raise LftrError(
                "the cache that was given did not reach the language model, which would answer "
                f"without the conversation so far; {versions()}"
            )

    def check_end(self, cache: Cache | None) -> None:
        """Check that the language model ran, and that every layer cached what it was sent.

        Parameters
        ----------
        cache : Cache, optional
            The cache that the forward filled.

        Raises
        ------
        LftrError
            If not.
        """
        if self.columns is None:
            return
        if not self.reached:
            raise LftrError(
                "the model answered without calling its language model's hooks, so nothing is "
                "known of what it received; if it was compiled (torch.compile), lay the reduction "
                f"on before the first call; {versions()}"
            )
        if cache is None:
            return
        held = held_by(cache)
        for number, length in whole_layers(cache):
            sent = self.past + self.columns[1] if held is None else held.entries(number)
            if length != sent:
                raise _mismatch(f"the cache of layer {number}", f"{length} columns", sent)


def check_types(call: Call) -> None:
    """Refuse ids, masks, positions and labels that are no tensors, and masks of layers.

    Raises
    ------
    ArgumentError
        If one is.
    """
    for role in ("ids", "mask", "positions", "labels"):
        value = call.get(Call.name(role))
        if value is not None and not isinstance(value, Tensor):
            raise ArgumentError.of(Call.name(role), value, "a tensor, or none")
    if call.mask is not None and call.mask.ndim != 2:
        raise ArgumentError.of(
            Call.name("mask"), tuple(call.mask.shape), "one of padding, (B, L); or none"
        )


def check_unpacked(call: Call) -> None:
    """Refuse to drop tokens from rows in which several documents are packed.

    What is dropped leaves gaps in the positions, which transformers would take for more borders;
    a mask against that would take the borders away.

    Raises
    ------
    UnsupportedModelError
        If the rows are packed.
    """
    if call.packed:
        raise UnsupportedModelError(
            f"{Call.name('positions')} that do not go on by one, without {Call.name('mask')}, or "
            "lengths of sequences, pack several documents into a row, whose visual tokens cannot "
            "be reduced; give each document a row of its own, with padding and a mask (a mask of "
            "ones says that a row is one document)"
        )


def check_received(received: int, sent: int) -> None:
    """Check the columns that the language model received in a call against those sent to it.

    Raises
    ------
    LftrError
        If it received fewer.
    """
    if received < sent:
        raise _mismatch("the language model", f"{received} columns in all", sent)


def _mismatch(what: str, found: str, sent: object) -> LftrError:
    return LftrError(
        f"{what} got {found}, where the reduced prompt has {sent}: the answer would be wrong; "
        f"{versions()}"
    )
