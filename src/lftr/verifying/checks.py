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
    compare_with_reference,
    forward_pass,
    generation,
    one_line,
    second_turn,
    skip_if_plain_fails,
    skip_if_refused,
)
from .hidden import LayerChoices, hidden_logits, layers_of
from .judge import Figures, distance, judge
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
    ask = question_check((_question([0], SHORT),), generation())
    checks = {f"method {method}": _with_method(method, ask) for method in before}
    return checks | {f"inside {method}": _inside_check(method) for method in inside}


def checks_of(full: bool, named: Mapping[str, Body]) -> dict[str, Body]:
    """Return the checks by name, in order; the last one checks that the model is unchanged.

    ``named`` are the checks of further methods that the caller named.
    """
    one, pair = (_question([0], SHORT),), (_question([1], SHORT), _question([2], LONG))
    together = (_question([0, 1], TWO),)
    checks: dict[str, Body] = {
        "everything kept": everything_kept,
        "reduced": question_check(one, generation()),
        "forward": question_check(one, forward_pass),
        "second turn, all ids": question_check(one, second_turn(whole=True)),
        "second turn, new ids": question_check(one, second_turn(whole=False)),
        "batch with padding": question_check(pair, generation()),
        "two images": question_check(together, generation()),
        "video": question_check((_video,), generation()),
        "inside": inside,
        **named,
    }
    if full:
        more: dict[str, dict[str, Any]] = {
            "beams": {"num_beams": 3},
            "sampling with a seed": {"do_sample": True, "top_k": 50},
            "static cache": {"cache_implementation": "static", "disable_compile": True},
        }
        mixed = (_question([0, 1], TWO), _question([3], SHORT), _question([2], LONG))
        checks |= {
            name: question_check(mixed, generation(**options)) for name, options in more.items()
        }
        checks["prompt lookup"] = question_check(together, generation(prompt_lookup_num_tokens=2))
        checks["three images"] = question_check((_question([3, 1, 2], LONG),), generation())
        checks["second turn, two images"] = question_check(together, second_turn(whole=True))
        for name in _KINDS:
            checks.setdefault(
                f"method {name}", _with_method(get_method(name), question_check(pair, generation()))
            )
        for name in _KINDS_INSIDE:
            checks.setdefault(f"inside {name}", _inside_check(get_method(name)))
    return {**checks, "left as it was": _unchanged}


def run(name: str, body: Body, checked: CheckedModel) -> Check:
    """Run a check and return its outcome; an error under a reduction fails it, a refusal skips."""
    try:
        return judge(name, body(checked), checked.model.dtype)
    except SkippedCheck as reason:
        return Check(name, "skipped", reason=str(reason))
    except torch.OutOfMemoryError as error:
        return Check(name, "skipped", reason=f"too little memory: {one_line(error)}")
    except Exception as error:
        return Check(name, "failed", reason=f"{type(error).__name__}: {one_line(error)}")


# ---- prompts -----------------------------------------------------------------------------------

QuestionMaker = Callable[[CheckedModel], MediaAndText]


def _question(which: list[int], question: str) -> QuestionMaker:
    return lambda checked: ([checked.pictures[i] for i in which], question)


def _video(checked: CheckedModel) -> MediaAndText:
    if getattr(checked.processor, "video_processor", None) is None:
        raise SkippedCheck(f"{type(checked.processor).__name__} has no video processor")
    size = checked.pictures[0].size
    frames = [checked.pictures[i % 4].resize(size) for i in range(_FRAMES)]
    return [Clip(tuple(frames), tuple(i / 2 for i in range(_FRAMES)))], SHORT


def question_check(questions: tuple[QuestionMaker, ...], run_function: RunFunction) -> Body:
    """Return a check that compares a run on these questions with the reference."""

    def body(checked: CheckedModel) -> Figures:
        with skip_if_plain_fails():
            prompt = checked.prompt(*(one(checked) for one in questions))
        return compare_with_reference(checked, prompt, run_function)

    return body


def _with_method(method: Method, body: Body) -> Body:
    return lambda checked: body(dataclasses.replace(checked, method=method))


# ---- checks with another reference --------------------------------------------------------------


def everything_kept(checked: CheckedModel) -> Figures:
    """Check that keep=1.0 changes no bit of what ``forward`` and ``generate`` return."""
    with skip_if_plain_fails():
        prompt = checked.prompt(_question([0], SHORT)(checked))
        plain, again = (_everything(checked, prompt) for _ in range(2))
    with skip_if_refused(), checked.reduced(keep=1.0):
        reduced = _everything(checked, prompt)
    fault = "keep=1.0 is not the plain model bit by bit"
    return Figures(
        _largest_difference(reduced, plain), _largest_difference(again, plain), fault=fault
    )


def _everything(checked: CheckedModel, prompt: Prompt) -> dict[str, torch.Tensor]:
    """Return all tensors of the outputs, with hidden states and caches."""
    output = checked.model(**prompt.inputs, output_hidden_states=True, return_dict=True)
    answer = checked.generate(prompt.inputs)
    both = {"forward": output, "logits": answer.logits, "ids": answer.output.sequences}
    return {path: x.clone() for path, x in tensors(both)}


def _largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    if left.keys() != right.keys():
        return float("inf")
    return max(distance(left[path], right[path]) for path in left)


def inside(checked: CheckedModel, method: LayerMethod | None = None) -> Figures:
    """Compare a method inside the language model with masks that hide the dropped columns."""
    model = checked.model
    method = method or checked.inside or _one_cut(checked)
    with skip_if_plain_fails():
        prompt = checked.prompt(_question([0], SHORT)(checked))
        row, columns = prompt.inputs, visual_columns(model, prompt.inputs[IDS][0]).nonzero()[:, 0]
        depth = len(layers_of(model))
        answer = checked.generate(row)
        reference = Reference(model, row, answer.tokens[0][:-1])
        plain = distance(answer.logits[0], hidden_logits(reference, LayerChoices(columns)))
    recorder = LayerRecorder(method)
    with skip_if_refused(), checked.reduced_by(recorder) as reduction:
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


def _inside_check(method: LayerMethod) -> Body:
    return lambda checked: inside(checked, method)


def _one_cut(checked: CheckedModel) -> FastV:
    """Return FastV, which keeps a tenth, at the first layer where the model allows it."""
    weights = checked.weights
    refusal = "the language model has fewer than three layers"
    for layer in range(2, len(layers_of(checked.model))):
        try:
            reduce(checked.model, FastV(layer=layer, keep=0.1), weights=weights).remove()
        except LftrError as error:
            refusal = f"refused: {one_line(error)}"
        else:
            return FastV(layer=layer, keep=0.1)
    raise SkippedCheck(refusal)


def _unchanged(checked: CheckedModel) -> Figures:
    """Check that the model, after a reduction that ended with an error, is as before."""
    with skip_if_plain_fails():
        prompt = checked.prompt(_question([0], SHORT)(checked))
        plain, again = (_everything(checked, prompt) for _ in range(2))
    try:
        with skip_if_refused(), checked.reduced():
            checked.generate(prompt.inputs)
            raise _Stop
    except _Stop:
        pass
    after = _everything(checked, prompt)
    if checked.left:
        raise LftrError(f"attributes or hooks are left on {', '.join(sorted(checked.left))}")
    fault = "its outputs are not bit-identical to those before the reduction"
    return Figures(
        _largest_difference(after, plain), _largest_difference(again, plain), fault=fault
    )


class _Stop(Exception):
    """An error in the body of a ``with`` block of a reduction."""
