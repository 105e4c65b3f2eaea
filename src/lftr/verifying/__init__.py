"""The proof that a reduction is right, on the user's own model, weights and versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers

from .. import __version__
from ..errors import ArgumentError
from ..hosts.transformers.api import attention_of
from ..hosts.transformers.wrapped import unwrapped
from ..methods import get_method
from ..methods.base import ImageMethod, Method
from ..methods.inside import LayerMethod
from ..methods.inside.options import check_keep
from ..reducing import as_method, reductions
from .checks import checks_of, named_checks, run
from .result import ESSENTIAL
from .result import Check as Check
from .result import Verification as Verification
from .subject import Subject, pictures

if TYPE_CHECKING:
    from PIL import Image

    from ..evidence.text import TextTower

KEEP = 0.25

Told = Callable[[str, int, int], None]


def verify(
    model: Any,
    processor: Any = None,
    method: str | Method | LayerMethod | Sequence[str | Method | LayerMethod] = "lftr",
    *,
    keep: object = None,
    positions: str | None = None,
    full: bool = False,
    images: Sequence[Image.Image] = (),
    text_tower: TextTower | None = None,
    steps: int = 4,
    seed: int = 0,
    told: Told | None = None,
) -> Verification:
    """Prove, on this very model, that a reduction does what it says and nothing else.

    Everything is compared with a truth that knows nothing of lftr's host: the plain model runs on
    the full prompt, what it hands its language model is written down, the kept columns of that are
    gathered at their positions, and the plain language model runs on those. Methods inside it are
    compared with the plain model whose masks hide what was dropped. Wherever tokens are generated,
    every step is compared, on the tokens that the reduced model chose.

    A deviation is allowed up to four times what the plain model has by itself, measured in the same
    run by the same steps (a padded batch with a cache against each row alone without one), and at
    least 4 steps of the dtype, or 64 of float32, at the size of the largest logit. keep=1.0 must
    not change a bit. A check that could not tell a wrong reduction from a right one by this measure
    is skipped and says so (`lftr.verifying.judge` has the rule).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode, on any device or several, in any floating-point dtype, not reduced.
    processor : transformers.ProcessorMixin
        Makes the inputs, with its chat template where it has one. It must be given: what a prompt
        looks like is for the processor to say.
    method : str, Method or LayerMethod, or a sequence of them
        As `lftr.reduce` takes it. What decides inside the language model is checked by itself;
        where none is given, one early cut (FastV). The first that decides before the language
        model goes through all checks, the first inside through its own; of every further one the
        answer about an image is checked.
    keep : float, int or Budget, optional
        Of the methods before the language model, a quarter by default; where only methods inside it
        are given, of those.
    positions : {"original", "compact"}, optional
        As `lftr.reduce` takes it.
    full : bool
        Also beams, sampling, a static cache, prompt lookup, more prompts, methods of other kinds.
    images : sequence of PIL.Image.Image
        To ask about; random ones are added up to four.
    text_tower : TextTower, optional
        For methods that compare in CLIP's space.
    steps : int
        Tokens that are generated in each check, at least 2.
    seed : int
        Of the random pictures.
    told : callable, optional
        Called with each check's name before it begins, its number, and how many there are.

    Returns
    -------
    Verification
        ``ok``, the checks with their figures, the versions; printed, a table.

    Raises
    ------
    ArgumentError
        If an argument is out of its range, or the model is being trained or reduced.
    UnsupportedModelError, MissingEvidenceError
        If `lftr.reduce` takes no such model or method at all.
    """
    if processor is None:
        raise ArgumentError.of(
            "processor", None, "the model's: AutoProcessor.from_pretrained(its id or folder)"
        )
    before, count, within = _sorted_out(method, keep)
    if not isinstance(steps, int) or steps < 2:
        raise ArgumentError.of("steps", steps, "a whole number, at least 2")
    model = unwrapped(model)
    _check_state(model)
    subject = Subject(
        model,
        processor,
        before[0],
        count,
        positions,
        within[0] if within else None,
        text_tower,
        pictures(images, seed),
        steps,
    )
    with subject.reduced():  # what lftr.reduce takes in no call is refused at once
        pass
    found, named = [], named_checks(before[1:], within[1:])
    with torch.no_grad():
        checks = checks_of(full, named)
        for number, (name, body) in enumerate(checks.items()):
            if told is not None:
                told(name, number, len(checks))
            found.append(run(name, body, subject))
    essential = (*ESSENTIAL, *(["inside"] if within else []), *named)
    return Verification(
        found,
        method=" + ".join(map(str, (*before, *within))),
        **_described(subject),
        essential=essential,
    )


def _sorted_out(method: Any, keep: object) -> tuple[list[Method], object, list[LayerMethod]]:
    """Return what decides before the language model, how many stay there, and what inside."""
    given = method if isinstance(method, (list, tuple)) else [method]
    found = [get_method(one) if isinstance(one, str) else one for one in given]
    if not found:
        raise ArgumentError.of("method", method, "at least one method, or its name")
    within = [one for one in found if isinstance(one, LayerMethod)]
    before = [as_method(one) for one in found if not isinstance(one, LayerMethod)]
    for decides in before:
        if isinstance(decides, ImageMethod):
            raise ArgumentError.of(
                "method",
                str(decides),
                "a method that chooses among the encoder's tokens: this one encodes the image "
                "anew, at another size, and there is no truth to compare it with",
            )
    if before:
        return before, KEEP if keep is None else keep, within
    if keep is not None:
        within = [one.averaging(check_keep("keep", keep)) for one in within]
    return [as_method("lftr")], KEEP, within


def _check_state(model: Any) -> None:
    """Refuse a model whose answers are not settled."""
    name = type(model).__name__
    if getattr(model, "training", False):
        raise ArgumentError.of("model", f"{name} in training mode", "one after model.eval()")
    if isinstance(model, torch.nn.Module) and reductions(model):
        raise ArgumentError.of(
            "model", f"{name} that is reduced", "one on which no reduction is on"
        )


def _described(subject: Subject) -> dict[str, Any]:
    model = subject.model
    return {
        "model": type(model).__name__,
        "model_type": str(model.config.model_type),
        "keep": str(subject.keep),
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
    """Return where the model's parameters are, the devices of a device map too."""
    return ", ".join(sorted({str(parameter.device) for parameter in model.parameters()}))
