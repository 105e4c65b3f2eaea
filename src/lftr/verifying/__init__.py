"""Verify that a reduction is right on the user's own model, weights and versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers

from .. import __version__
from ..hosts.transformers.api import attention_of
from ..hosts.transformers.wrapped import unwrapped
from ..methods.base import ImageMethod, Method
from ..methods.inside import LayerMethod
from ..methods.inside.options import check_keep
from ..methods.lookup import as_method
from ..reducing import check_budget, reduce, reductions, split_by_place
from ..values.budget import Budget, Keep, budget_of, spell
from ..values.errors import ArgumentError, MissingEvidenceError, UnsupportedModelError
from .checked_model import CheckedModel, pictures
from .checks import checks_of, named_checks, run
from .result import ESSENTIAL
from .result import Check as Check
from .result import Verification as Verification

if TYPE_CHECKING:
    from PIL import Image

    from ..evidence.text import TextTower

KEEP = 0.25

ProgressCallback = Callable[[str, int, int], None]


def verify(
    model: Any,
    processor: Any = None,
    method: str | Method | LayerMethod | Sequence[str | Method | LayerMethod] = "lftr",
    *,
    keep: float | Budget | str | None = None,
    tokens: int | None = None,
    positions: str | None = None,
    weights: str | float | None = None,
    full: bool = False,
    images: Sequence[Image.Image] = (),
    text_tower: TextTower | None = None,
    steps: int = 4,
    seed: int = 0,
    told: ProgressCallback | None = None,
) -> Verification:
    """Verify on this model that a reduction gives the logits that it should.

    The reference does not use lftr's host: the plain model runs on the full prompt, the arguments
    of its language model are recorded, the kept columns are gathered from them with their
    positions, and the plain language model runs on these columns. For a method inside the language
    model, the reference is the plain model with masks that hide the dropped tokens. Checks that
    generate compare every step, on the tokens that the reduced model chose.

    Each check also measures how far the plain model deviates from its own reference (for example
    a padded batch with a cache against each row alone without one). The reduction may deviate by
    four times that, and in any case by 4 steps of the dtype, or 64 of float32, at the size of the
    largest logit. keep=1.0 must be bit-identical. A check that could not tell a wrong reduction
    from a right one within this tolerance is skipped, with that reason (see
    `lftr.verifying.judge`).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode, on any device or several, in any floating-point dtype, not reduced.
    processor : transformers.ProcessorMixin
        Makes the inputs, with its chat template if it has one. It is required, since it defines
        the format of prompts.
    method : str, Method or LayerMethod, or a sequence of them
        As in `lftr.reduce`. The first method before the language model goes through all checks, and
        the first one inside it through those for methods inside (without one, FastV in an early
        layer). Each further method is checked by its answer about one image.
    keep : float, Budget or "auto", optional
        How much the methods before the language model keep, by default a quarter. If only methods
        inside it are given, how much those keep.
    tokens : int, optional
        In place of ``keep``, a count for each item.
    positions : {"original", "compact"}, optional
        As in `lftr.reduce`.
    weights : {"size", "none"} or float, optional
        As in `lftr.reduce`.
    full : bool
        Also check beams, sampling, a static cache, prompt lookup, more prompts and other methods.
    images : sequence of PIL.Image.Image
        Pictures of the prompts; random ones are added up to four.
    text_tower : TextTower, optional
        For methods that compare in CLIP's space.
    steps : int
        Number of tokens that each check generates, at least 2.
    seed : int
        Seed of the random pictures.
    told : callable, optional
        Called before each check with its name, its number and the number of checks.

    Returns
    -------
    Verification
        ``ok``, the checks with their measurements, and versions; ``print`` shows a table.

    Raises
    ------
    ArgumentError
        If an argument is out of its range, or the model is being trained or reduced.
    UnsupportedModelError, MissingEvidenceError
        If `lftr.reduce` does not take this model or method at all.
    """
    if processor is None:
        raise ArgumentError.of(
            "processor", None, "the model's: AutoProcessor.from_pretrained(its id or folder)"
        )
    before, count, within = methods_to_check(method, budget_of(keep, tokens))
    if not isinstance(steps, int) or steps < 2:
        raise ArgumentError.of("steps", steps, "a whole number, at least 2")
    model = unwrapped(model)
    _check_state(model)
    checked = CheckedModel(
        model,
        processor,
        before[0],
        count,
        positions,
        weights,
        within[0] if within else None,
        text_tower,
        pictures(images, seed),
        steps,
    )
    with checked.reduced():  # raises at once what lftr.reduce refuses
        pass
    # a wrong option is the caller's mistake; what this model lacks is reported by a check
    for one in within:
        with suppress(UnsupportedModelError, MissingEvidenceError):
            reduce(model, one, weights=weights).remove()
    results, named = [], named_checks(before[1:], within[1:])
    with torch.no_grad():
        checks = checks_of(full, named)
        for number, (name, body) in enumerate(checks.items()):
            if told is not None:
                told(name, number, len(checks))
            results.append(run(name, body, checked))
    essential = (*ESSENTIAL, *(["inside"] if within else []), *named)
    return Verification(
        results,
        method=" + ".join(map(str, (*before, *within))),
        **_describe_model(checked),
        essential=essential,
    )


def methods_to_check(
    method: object, budget: Keep | Literal["auto"] | None
) -> tuple[list[Method], Keep | Literal["auto"], list[LayerMethod]]:
    """Return the methods before the language model, what they keep, and the methods inside.

    Where only methods inside are given, the one before the language model is LFTR.

    Raises
    ------
    ArgumentError
        If there is no method, or one that encodes images again, or no model would take the budget.
    """
    first, within = split_by_place(method)
    if not (first or within):
        raise ArgumentError.of("method", method, "at least one method, or its name")
    before = [as_method(one) for one in first]
    for decides in before:
        if isinstance(decides, ImageMethod):
            raise ArgumentError.of(
                "method",
                str(decides),
                "a method that chooses among the encoder's tokens: this one encodes the image "
                "again at another size, and there is no reference to compare it with",
            )
    if before:
        budget = KEEP if budget is None else budget
        check_budget(before[0], budget)
        return before, budget, within
    if budget is not None:
        within = [one.averaging(check_keep("keep", budget)) for one in within]
    return [as_method("lftr")], KEEP, within


def _check_state(model: Any) -> None:
    """Refuse a model in training mode, and one that is already reduced."""
    name = type(model).__name__
    if getattr(model, "training", False):
        raise ArgumentError.of("model", f"{name} in training mode", "one after model.eval()")
    if isinstance(model, torch.nn.Module) and reductions(model):
        raise ArgumentError.of("model", f"{name} that is reduced", "a model without a reduction")


def _describe_model(checked: CheckedModel) -> dict[str, Any]:
    model = checked.model
    return {
        "model": type(model).__name__,
        "model_type": str(model.config.model_type),
        "keep": spell(checked.keep),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": _devices(model),
        "attention": attention_of(model.config.get_text_config()),
        "versions": {
            "lftr": __version__,
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
        },
    }


def _devices(model: Any) -> str:
    """Return the devices of the model's parameters, all of a device map."""
    return ", ".join(sorted({str(parameter.device) for parameter in model.parameters()}))
