"""Checks during every forward of a reduced model, so that no wrong answer passes without an error.

The host depends on the names of transformers' arguments and on the order of its calls. If a release
changes them, these checks raise. They compare shapes and lengths, which costs some microseconds a
forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...values.errors import ArgumentError, LftrError, UnsupportedModelError
from .api import Cache, CallArguments, versions
from .cache_record import cached_columns_of, whole_layers


@dataclass
class Forward:
    """The arguments of one forward of the model, after the reduction.

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
    def of(cls, call: CallArguments) -> Forward:
        """Read these arguments from a call."""
        return cls(call.columns, call.past, call.cache, call.positions is not None)

    def check_inner(self, inner: CallArguments, takes_positions: bool) -> None:
        """Compare the language model's arguments with those of the model around it.

        Parameters
        ----------
        takes_positions : bool
            Whether the language model takes positions, see `Family.takes_positions`.

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
        if self.placed and positions is None and takes_positions:
            raise _mismatch(CallArguments.name("positions"), "no value", f"{columns} positions")
        if isinstance(positions, Tensor) and positions.shape[-1] != columns:
            raise _mismatch(
                CallArguments.name("positions"), f"{positions.shape[-1]} columns", columns
            )
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] < self.past + columns:
            raise _mismatch("the mask", f"{mask.shape[1]} columns", self.past + columns)
        if self.cache is not None and inner.cache is not self.cache:
            raise LftrError(
                "the cache that was given did not reach the language model, which would answer "
                f"without the conversation so far; {versions()}"
            )

    def check_end(self, cache: Cache | None) -> None:
        """Check that the language model ran, and that every layer cached the columns it received.

        Parameters
        ----------
        cache : Cache, optional
            The cache that the forward filled.

        Raises
        ------
        LftrError
            If the language model did not run, or a layer's cache has another length.
        """
        if self.columns is None:
            return
        if not self.reached:
            raise LftrError(
                "the hooks on the language model were not called, so lftr cannot check what it "
                "received; if the model was compiled (torch.compile), start the reduction before "
                f"its first call; {versions()}"
            )
        if cache is None:
            return
        cached = cached_columns_of(cache)
        for number, length in whole_layers(cache):
            sent = self.past + self.columns[1] if cached is None else cached.entries(number)
            if length != sent:
                raise _mismatch(f"the cache of layer {number}", f"{length} columns", sent)


def check_passed_on(call: CallArguments, cache: Cache | None) -> None:
    """Check that ``generate`` calls the model with the cache that it was given, if any.

    Raises
    ------
    LftrError
        If the model gets another cache, or none: it would not see the conversation so far.
    """
    if cache is not None and call.cache is not cache:
        raise LftrError(
            "generate did not pass the cache that it was given on to the model, which would "
            f"answer without the conversation so far; {versions()}"
        )


def check_types(call: CallArguments) -> None:
    """Check that ids, mask, positions and labels are tensors, and that the mask is 2-D.

    Raises
    ------
    ArgumentError
        If one is not a tensor, or the mask is an attention mask of layers.
    """
    for role in ("ids", "mask", "positions", "labels"):
        value = call.get(CallArguments.name(role))
        if value is not None and not isinstance(value, Tensor):
            raise ArgumentError.of(CallArguments.name(role), value, "a tensor, or none")
    if call.mask is not None and call.mask.ndim != 2:
        raise ArgumentError.of(
            CallArguments.name("mask"), tuple(call.mask.shape), "a padding mask (B, L), or none"
        )


def check_unpacked(call: CallArguments) -> None:
    """Check that no row of the call holds several packed documents.

    Dropped tokens leave gaps in the positions. transformers would take these gaps for borders of
    documents; a mask that prevents this would remove the real borders too.

    Raises
    ------
    UnsupportedModelError
        If the rows are packed.
    """
    if call.packed:
        raise UnsupportedModelError(
            f"{CallArguments.name('positions')} that do not increase by one, without "
            f"{CallArguments.name('mask')}, or sequence lengths mean that a row holds several "
            "documents; visual tokens of such rows cannot be reduced; give each document a row of "
            "its own, with padding and a mask (a mask of ones says that a row is one document)"
        )


def check_received(received: int, sent: int) -> None:
    """Check that the language model received all columns that a call sent to it.

    Raises
    ------
    LftrError
        If it received fewer.
    """
    if received < sent:
        raise _mismatch("the language model", f"{received} columns in total", sent)


def _mismatch(what: str, received: str, sent: object) -> LftrError:
    return LftrError(
        f"{what} got {received}, where the reduced prompt has {sent}: the answer would be wrong; "
        f"{versions()}"
    )
