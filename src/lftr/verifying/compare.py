"""Compare the logits of a run, plain or reduced, with the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hosts.transformers.api import returned_cache
from ..values.errors import LftrError, MissingEvidenceError, UnsupportedModelError
from .checked_model import CheckedModel, Prompt, SkippedCheck
from .judge import Figures, distance
from .reference import CACHE, IDS, MASK, TYPES, VISION_MASK, Reference, append_tokens

_REFUSALS = (UnsupportedModelError, MissingEvidenceError)
_FOLLOWING = 5  # tokens of a second turn, copied from the end of the first prompt


@dataclass(frozen=True)
class RowLogits:
    """Logits that a run returned for one row.

    Attributes
    ----------
    row : int
        Number of the row in the prompt.
    new : sequence of int
        Tokens that followed it.
    logits : Tensor, shape (P, V)
        The logits after the prompt and ``places`` tokens of ``new``.
    places : sequence of int
        For each of the logits, how many tokens of ``new`` preceded it.
    """

    row: int
    new: Sequence[int]
    logits: Tensor
    places: Sequence[int]

    def reference(self, checked: CheckedModel, prompt: Prompt) -> Reference:
        """Return the reference for this row and ``new``."""
        return Reference(checked.model, prompt.rows[self.row], self.new)


RunFunction = Callable[[CheckedModel, Prompt], list[RowLogits]]


def generation(**options: Any) -> RunFunction:
    """Return a run of ``generate`` with these options; it compares every step of every row."""

    def run(checked: CheckedModel, prompt: Prompt) -> list[RowLogits]:
        answer = checked.generate(prompt.inputs, **options)
        steps = range(checked.steps)
        rows = zip(answer.tokens, answer.logits, strict=True)
        return [RowLogits(row, new[:-1], logits, steps) for row, (new, logits) in enumerate(rows)]

    return run


def forward_pass(checked: CheckedModel, prompt: Prompt) -> list[RowLogits]:
    """Call ``forward`` and return the logits of the last column."""
    logits = checked.model(**prompt.inputs, return_dict=True).logits[:, -1:].float().cpu()
    return [RowLogits(row, (), logits[row], (0,)) for row in range(len(prompt.rows))]


def second_turn(*, whole: bool) -> RunFunction:
    """Return a run of two turns, the second on the cache of the first.

    Parameters
    ----------
    whole : bool
        Whether the second turn receives the ids of the whole conversation, or only the new ones.
    """

    def run(checked: CheckedModel, prompt: Prompt) -> list[RowLogits]:
        inputs, steps = prompt.inputs, checked.steps
        first = checked.generate(inputs)
        following = inputs[IDS][0, -_FOLLOWING:].tolist()
        continuation = [*first.tokens[0], *following]
        longer = append_tokens(checked.model, inputs, continuation)
        names = [name for name in longer if name == IDS or name.endswith(TYPES)]
        arguments = {name: longer[name] for name in (*names, MASK, VISION_MASK) if name in longer}
        if not whole:  # the last token of an answer is in no cache
            arguments |= {name: longer[name][:, -1 - _FOLLOWING :] for name in names}
        cache = copy.deepcopy(returned_cache(first.output))
        with fail_if_refused():
            second = checked.generate({**arguments, CACHE: cache})
        new = [*continuation, *second.tokens[0][:-1]]
        places = [*range(steps), *range(len(continuation), len(continuation) + steps)]
        return [RowLogits(0, new, torch.cat([first.logits[0], second.logits[0]]), places)]

    return run


def compare_with_reference(checked: CheckedModel, prompt: Prompt, run: RunFunction) -> Figures:
    """Compare a run with the reduction, and one of the plain model, each with its reference."""
    with skip_if_plain_fails():
        plain = [
            distance(one.logits, one.reference(checked, prompt).logits()[list(one.places)])
            for one in run(checked, prompt)
        ]
    with skip_if_refused(), checked.reduced() as on:
        rows = run(checked, prompt)
        choices = on.choices(prompt)
    deviations, wrong, sizes = [], [], []
    for one in rows:
        decided, reference, places = (
            choices[one.row],
            one.reference(checked, prompt),
            list(one.places),
        )
        right = reference.logits(decided, on.positions, on.exponent)[places]
        deviations.append(distance(one.logits, right))
        sizes.append(float(right.abs().max()))
        wrong.append(distance(reference.logits()[places], right))
        if on.positions == "original" and not reference.crosses:
            elsewhere = distance(reference.logits(decided, "compact", on.exponent)[places], right)
            wrong += [elsewhere] if elsewhere else []  # some models look at no positions
        if on.exponent and any(bool((one.selection.weight != 1).any()) for one in decided):
            wrong.append(distance(reference.logits(decided, on.positions)[places], right))
    return Figures(max(deviations), max(plain), min(wrong), max(sizes))


@contextmanager
def skip_if_plain_fails() -> Iterator[None]:
    """Skip the check if the plain model itself raises an error."""
    try:
        yield
    except (SkippedCheck, torch.OutOfMemoryError):
        raise
    except LftrError as error:
        raise SkippedCheck(one_line(error)) from error
    except Exception as error:
        kind = type(error).__name__
        raise SkippedCheck(f"the plain model cannot do this: {kind}: {one_line(error)}") from error


@contextmanager
def skip_if_refused() -> Iterator[None]:
    """Skip the check if lftr refuses the model or the method before the first answer."""
    try:
        yield
    except _REFUSALS as error:
        raise SkippedCheck(f"refused: {one_line(error)}") from error


@contextmanager
def fail_if_refused() -> Iterator[None]:
    """Turn a refusal into an error, since lftr has already taken the first turn.

    Otherwise a host that cannot continue a conversation would have the check skipped, not failed.
    """
    try:
        yield
    except _REFUSALS as error:
        raise LftrError(f"refused after the first answer: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return an error's text, short and without line breaks."""
    return " ".join(str(error).split())[:300]
