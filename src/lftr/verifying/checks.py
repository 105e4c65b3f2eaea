"""The checks by name, with the prompt and the comparison of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..media.clip import Clip
from ..methods import get_method
from ..methods.base import Method
from ..methods.inside import LayerMethod
from ..methods.inside.fastv import FastV
from ..prompting import MediaAndText
from ..reducing import reduce
from ..values.errors import LftrError
from .checked_model import CheckedModel, Prompt, SkippedCheck
from .compare import (
    RunFunction,
    compared,
    forwarded,
    generated,
    one_line,
    plainly,
    refusable,
    second_turn,
)
from .hidden import LayerChoices, hidden_logits, layers_of
from .judge import Figures, distance, judged
from .recorders import LayerRecorder
from .reference import IDS, Reference, visual_columns
from .result import Check
from .traces import tensors

SHORT = "What is in the picture?"
LONG = "Describe everything that can be seen, from left to right, and name every colour of it."
TWO = "What do the two pictures have in common?"
_FRAMES = 4
_KINDS = ("uniform", "divprune", "visionzip", "tome", "pool", "trim")
_KINDS_INSIDE = ("pyramiddrop", "sparsevlm", "bypass", "freeze", "static-exit")

Body = Callable[[CheckedModel], Figures]


def named_checks(before: Sequence[Method], inside: Sequence[LayerMethod]) -> dict[str, Body]:
    """Return one check for each of some methods, by name: its answer about one image."""
    ask = asking((_asks([0], SHORT),), generated())
    checks = {f"method {method}": _by(method, ask) for method in before}
    return checks | {f"inside {method}": _by_inside(method) for method in inside}


def checks_of(full: bool, named: Mapping[str, Body]) -> dict[str, Body]:
    """Return the checks by name, in order; the last one checks that the model is unchanged.

    ``named`` are the checks of further methods that the caller named.
    """
    one, pair = (_asks([0], SHORT),), (_asks([1], SHORT), _asks([2], LONG))
    together = (_asks([0, 1], TWO),)
    checks: dict[str, Body] = {
        "everything kept": everything_kept,
        "reduced": asking(one, generated()),
        "forward": asking(one, forwarded),
        "second turn, all ids": asking(one, second_turn(whole=True)),
        "second turn, new ids": asking(one, second_turn(whole=False)),
        "batch with padding": asking(pair, generated()),
        "two images": asking(together, generated()),
        "video": asking((_video,), generated()),
        "inside": inside,
        **named,
    }
    if full:
        more: dict[str, dict[str, Any]] = {
            "beams": {"num_beams": 3},
            "sampling with a seed": {"do_sample": True, "top_k": 50},
            "static cache": {"cache_implementation": "static", "disable_compile": True},
        }
        mixed = (_asks([0, 1], TWO), _asks([3], SHORT), _asks([2], LONG))
        checks |= {name: asking(mixed, generated(**options)) for name, options in more.items()}
        checks["prompt lookup"] = asking(together, generated(prompt_lookup_num_tokens=2))
        checks["three images"] = asking((_asks([3, 1, 2], LONG),), generated())
        checks["second turn, two images"] = asking(together, second_turn(whole=True))
        for name in _KINDS:
            checks.setdefault(f"method {name}", _by(get_method(name), asking(pair, generated())))
        for name in _KINDS_INSIDE:
            checks.setdefault(f"inside {name}", _by_inside(get_method(name)))
    return {**checks, "left as it was": _left}


def run(name: str, body: Body, checked: CheckedModel) -> Check:
    """Run a check and return its outcome; an error under a reduction fails it, a refusal skips."""
    try:
        return judged(name, body(checked), checked.model.dtype)
    except SkippedCheck as reason:
        return Check(name, "skipped", reason=str(reason))
    except torch.OutOfMemoryError as error:
        return Check(name, "skipped", reason=f"too little memory: {one_line(error)}")
    except Exception as error:
        return Check(name, "failed", reason=f"{type(error).__name__}: {one_line(error)}")


# ---- prompts -----------------------------------------------------------------------------------

Asks = Callable[[CheckedModel], MediaAndText]


def _asks(which: list[int], question: str) -> Asks:
    return lambda checked: ([checked.pictures[i] for i in which], question)


def _video(checked: CheckedModel) -> MediaAndText:
    if getattr(checked.processor, "video_processor", None) is None:
        raise SkippedCheck(f"{type(checked.processor).__name__} has no video processor")
    size = checked.pictures[0].size
    frames = [checked.pictures[i % 4].resize(size) for i in range(_FRAMES)]
    return [Clip(tuple(frames), tuple(i / 2 for i in range(_FRAMES)))], SHORT


def asking(asks: tuple[Asks, ...], way: RunFunction) -> Body:
    """Return a check that compares a run on these questions with the reference."""

    def body(checked: CheckedModel) -> Figures:
        with plainly():
            prompt = checked.prompt(*(one(checked) for one in asks))
        return compared(checked, prompt, way)

    return body


def _by(method: Method, body: Body) -> Body:
    return lambda checked: body(dataclasses.replace(checked, method=method))


# ---- checks with another reference --------------------------------------------------------------


def everything_kept(checked: CheckedModel) -> Figures:
    """Check that keep=1.0 changes no bit of what ``forward`` and ``generate`` return."""
    with plainly():
        prompt = checked.prompt(_asks([0], SHORT)(checked))
        plain, again = (_everything(checked, prompt) for _ in range(2))
    with refusable(), checked.reduced(keep=1.0):
        reduced = _everything(checked, prompt)
    fault = "keep=1.0 is not the plain model bit by bit"
    return Figures(_apart(reduced, plain), _apart(again, plain), fault=fault)


def _everything(checked: CheckedModel, prompt: Prompt) -> dict[str, torch.Tensor]:
    """Return all tensors of the outputs, with hidden states and caches."""
    output = checked.model(**prompt.inputs, output_hidden_states=True, return_dict=True)
    answer = checked.generate(prompt.inputs)
    both = {"forward": output, "logits": answer.logits, "ids": answer.output.sequences}
    return {path: x.clone() for path, x in tensors(both)}


def _apart(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    if left.keys() != right.keys():
        return float("inf")
    return max(distance(left[path], right[path]) for path in left)


def inside(checked: CheckedModel, method: LayerMethod | None = None) -> Figures:
    """Compare a method inside the language model with masks that hide the dropped columns."""
    model = checked.model
    method = method or checked.inside or _one_cut(checked)
    with plainly():
        prompt = checked.prompt(_asks([0], SHORT)(checked))
        row, columns = prompt.inputs, visual_columns(model, prompt.inputs[IDS][0]).nonzero()[:, 0]
        depth = len(layers_of(model))
        answer = checked.generate(row)
        reference = Reference(model, row, answer.tokens[0][:-1])
        plain = distance(answer.logits[0], hidden_logits(reference, LayerChoices(columns)))
    recorder = LayerRecorder(method)
    with refusable(), checked.on(recorder) as reduction:
        answer = checked.generate(row)
        exponent = reduction.host.plan.weights
    states = method.schedule.states(depth)
    if not recorder.choices and min(method.schedule.counts(len(columns), depth)) < len(columns):
        raise LftrError(f"{method} was never called, although its schedule drops tokens")
    if not recorder.choices and set(states) == {"active"}:
        raise SkippedCheck("nothing was dropped")
    reference = Reference(model, row, answer.tokens[0][:-1])
    chosen = LayerChoices(columns, recorder.choices, states, exponent=exponent)
    right = hidden_logits(reference, chosen)
    figures = Figures(
        distance(answer.logits[0], right),
        plain,
        distance(reference.logits(), right),
        float(right.abs().max()),
        "the logits are not those of the plain model with the dropped tokens masked",
        str(method),
    )
    noisy = hidden_logits(reference, dataclasses.replace(chosen, noise=True))
    if distance(noisy, right) > figures.allowed(model.dtype):
        raise SkippedCheck(
            "layers of this model read other tokens not only by attention, so masks cannot hide "
            "dropped tokens"
        )
    return figures


def _by_inside(method: LayerMethod) -> Body:
    return lambda checked: inside(checked, method)


def _one_cut(checked: CheckedModel) -> FastV:
    """Return FastV, which keeps a tenth, at the first layer where the model allows it."""
    refusal = "the language model has fewer than three layers"
    for layer in range(2, len(layers_of(checked.model))):
        try:
            reduce(checked.model, FastV(layer=layer, keep=0.1)).remove()
        except LftrError as error:
            refusal = f"refused: {one_line(error)}"
        else:
            return FastV(layer=layer, keep=0.1)
    raise SkippedCheck(refusal)


def _left(checked: CheckedModel) -> Figures:
    """Check that the model, after a reduction that ended with an error, is as before."""
    with plainly():
        prompt = checked.prompt(_asks([0], SHORT)(checked))
        plain, again = (_everything(checked, prompt) for _ in range(2))
    try:
        with refusable(), checked.reduced():
            checked.generate(prompt.inputs)
            raise _Stop
    except _Stop:
        pass
    after = _everything(checked, prompt)
    if checked.left:
        raise LftrError(f"attributes or hooks are left on {', '.join(sorted(checked.left))}")
    fault = "its outputs are not bit-identical to those before the reduction"
    return Figures(_apart(after, plain), _apart(again, plain), fault=fault)


class _Stop(Exception):
    """An error in the body of a ``with`` block of a reduction."""
