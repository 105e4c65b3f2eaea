"""Fitting the trainable part of a method to the answers of a frozen model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from ...hosts.transformers.encoder.encode_cache import encode_once
from ...hosts.transformers.eval_mode import evaluating
from ...hosts.transformers.wrapped import unwrapped
from ...methods import get_method
from ...methods.base import Method
from ...methods.inside.dyvte import DyVTE
from ...methods.operations.fitted import Fittable, Fitted
from ...options.checks import Range, check, hints_of
from ...reducing import reduce
from ...values.budget import resolve
from ...values.errors import ArgumentError, LftrError
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..exits.fit import fit_exit
from .checkpoint import load_checkpoint, save_checkpoint
from .lessons import Lesson, visual_states, with_answers
from .objective import answer_loss, relation_loss
from .trainee import Trainee

_EVERY = 25  # steps between checkpoints
_BUDGETS = (1 / 16, 1 / 32)
_RELATION = 0.5
_OF_GATES = ("rule", "draws", "width")  # options of `fit_exit`
_SAMPLE = 16  # values of each parameter of a model, by which a checkpoint knows it
_FIRST = 8  # items from which initial weights are taken
_LARGEST = 1.0  # norm of a gradient, above which it is scaled down
_WARM, _COLD = 1.0, 0.1  # temperature of decisions at the first and the last step


@dataclass(frozen=True)
class Recipe:
    """How a part is fitted; see `fit`."""

    steps: Annotated[int, Range(1)]
    learning_rate: Annotated[float, Range(1e-6)]
    relation: Annotated[float, Range(0.0)]
    max_new_tokens: Annotated[int, Range(1)]
    seed: Annotated[int, Range(0)]

    def __post_init__(self) -> None:
        for name, hint in hints_of(Recipe).items():
            check(name, getattr(self, name), hint)

    def temperature(self, step: int) -> float:
        """Return the temperature of decisions at a step; it falls geometrically."""
        return float(_WARM * (_COLD / _WARM) ** (step / max(1, self.steps - 1)))

    def rate(self, step: int) -> float:
        """Return the learning rate at a step; it falls with a cosine."""
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


def fit(
    model: Any,
    data: Iterable[Mapping[str, Any]],
    method: str | Fittable | DyVTE = "scorer",
    *,
    keep: float | Sequence[float] | None = None,
    steps: int = 300,
    learning_rate: float = 3e-3,
    relation: float | None = None,
    max_new_tokens: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_progress: Callable[[str, int, float], None] = lambda what, number, value: None,
    **options: Any,
) -> Any:
    """Fit the trainable part of a method to a model's own answers; the model stays as it is.

    The full model answers every prompt once. The part then learns decisions under which the reduced
    model gives the same probabilities to the tokens of these answers (KL divergence), and relates
    visual tokens as the full model does. Right answers are not needed.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that `lftr.reduce` takes before its language model.
    data : iterable of mapping
        Outputs of the model's processor, each for a prompt or a batch that is padded on the left.
        They stay in memory with the encoder's output. ``labels`` are optional: answers that end the
        inputs, in place of the model's own, -100 at the prompt.
    method : str, Fittable or DyVTE
        ``"scorer"``, ``"visual-grouping"`` (VisToG's semantic slots), ``"two-expert"``
        (LLaVA-Meteor's), ``"region-router"`` (FocusLLaVA's samplers) or ``"dyvte"``, whose gates
        `fit_exit` trains on the same answers; its other options are kept.
    keep : float or sequence of float, optional
        The budgets it is fitted at, ratios or counts, one drawn for each step; by default 1/16 and
        1/32. Not for gates.
    steps : int
        Steps of AdamW, each on one batch and one budget.
    learning_rate : float
        At the first step; it falls to zero with a cosine.
    relation : float, optional
        Weight of the visual tokens' relation beside the answers; by default 0.5. Not for gates.
    max_new_tokens : int
        Length of an answer.
    seed : int
        Of the initial weights, the order of batches and budgets, and the noise.
    checkpoint : str or Path, optional
        A file that is written while fitting. If it is there, fitting goes on from it, and ends with
        the same weights as without the interruption. Not for gates, which start again.
    on_progress : callable
        Called as ``on_progress("answered", batches, prompts)`` for each batch that the full model
        has answered, and as ``on_progress("step", step, loss)`` after each step.
    **options : int
        Of the part: ``width``, and of slots ``slots``; of gates those of `fit_exit`.

    Returns
    -------
    Fittable or DyVTE
        The method with its part in ``fitted``, or its gates in ``gates``, for `lftr.reduce`; their
        ``save`` writes a file that the option of this name takes in their place.

    Raises
    ------
    LftrError
        If an argument is out of its range, a batch is none, or the model cannot be reduced so.

    Notes
    -----
    Source of the objective: LLaVA-KD (arXiv 2410.16236). The weight of the relation is chosen here.
    """
    weight = _RELATION if relation is None else relation
    recipe = Recipe(steps, learning_rate, weight, max_new_tokens, seed)
    blank = _fittable(method)
    if isinstance(data, Mapping):
        raise ArgumentError.of("data", sorted(data), "several examples, a mapping each")
    model = unwrapped(model)
    if isinstance(blank, DyVTE):
        unused = {"keep": keep, "relation": relation, "checkpoint": checkpoint}
        for name, value in (unused | options).items():
            if value is not None and name not in _OF_GATES:
                allowed = f"no such argument for the gates of {blank.name!r}"
                raise ArgumentError.of(name, value, allowed)
        return _fit_gates(model, data, blank, recipe, on_progress, options)
    keep = _BUDGETS if keep is None else keep
    budgets = [keep] if isinstance(keep, (int, float)) else list(keep)
    if not budgets:
        raise ArgumentError.of("keep", keep, "at least one budget")
    for budget in budgets:
        resolve(budget, 1)
    trainee = Trainee(blank.fits.needs)
    with (
        evaluating(model),
        encode_once(model),
        reduce(model, trainee, keep="auto", weights="size"),
    ):
        lessons: list[Lesson] = []
        for inputs in data:
            lessons.append(Lesson.of(model, trainee, inputs, recipe.max_new_tokens))
            on_progress("answered", len(lessons), sum(len(one.answered) for one in lessons))
        if not lessons:
            raise ArgumentError.of("data", data, "at least one example")
        part = _initial(blank.fits, lessons, recipe.seed, options)
        optimizer = torch.optim.AdamW(part.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
        path, start = None if checkpoint is None else Path(checkpoint), 0
        if path is not None:
            config = {
                "recipe": asdict(recipe),
                "keep": budgets,
                "part": type(part).__name__,
                "data": _digest([(one.inputs, one.answered) for one in lessons]),
                "model": _digest(_sample(model)),
            }
            if path.exists():
                start = load_checkpoint(path, part, optimizer, config)
        for step in range(start, recipe.steps):
            loss = _step(model, trainee, part, optimizer, lessons, budgets, recipe, step)
            on_progress("step", step + 1, loss)
            if path is not None and (step + 1 == recipe.steps or not (step + 1) % _EVERY):
                save_checkpoint(path, part, optimizer, config, step + 1)
    return replace(blank, fitted=part.eval().requires_grad_(False))


def fittable() -> list[str]:
    """Return the names of the methods with a part that `fit` trains."""
    parts = [name for name, cls in Method.registry.items() if issubclass(cls, Fittable)]
    return sorted([*parts, DyVTE.name])


def _fittable(method: str | Fittable | DyVTE) -> Fittable | DyVTE:
    blank = get_method(method) if isinstance(method, str) else method
    if isinstance(blank, DyVTE):
        return replace(blank, gates=None)
    if not isinstance(blank, Fittable):
        raise ArgumentError.of("method", str(method), f"one of {', '.join(fittable())}")
    return replace(blank, fitted=None)


def _fit_gates(
    model: Any,
    data: Iterable[Mapping[str, Any]],
    blank: DyVTE,
    recipe: Recipe,
    on_progress: Callable[[str, int, float], None],
    options: Mapping[str, Any],
) -> DyVTE:
    """Train gates of exits on the model's own answers, or on those in ``labels``."""

    def answered() -> Iterator[Mapping[str, Any]]:
        for number, inputs in enumerate(data, 1):
            labelled = "labels" in inputs
            yield inputs if labelled else with_answers(model, inputs, recipe.max_new_tokens)
            on_progress("answered", number, number)

    shared: dict[str, Any] = {
        "steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
    }
    return replace(blank, gates=fit_exit(model, answered(), **shared, **options))


def _initial(
    cls: type[Fitted], lessons: Sequence[Lesson], seed: int, options: Mapping[str, int]
) -> Fitted:
    """Return a part with initial weights on the items' device; all global generators stay.

    The weights are drawn on the CPU, so that a seed gives the same on every device.
    """
    items = [_patches(one) for lesson in lessons for one in lesson.tokens][:_FIRST]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too
        try:
            part = cls.fresh(items[0], **options)
        except TypeError:
            raise ArgumentError.of("options", sorted(options), f"those of {cls.__name__}") from None
    part.to(items[0].features.device).initialise(_alike(items))
    return part


def _alike(items: Sequence[VisualTokens]) -> VisualTokens:
    """Return those items that are of the first one's size, as a stack."""
    first = items[0].layout
    return VisualTokens.stack([item.item(0) for item in items if item.layout == first])


def _step(
    model: Any,
    trainee: Trainee,
    part: Fitted,
    optimizer: torch.optim.Optimizer,
    lessons: Sequence[Lesson],
    budgets: Sequence[float],
    recipe: Recipe,
    step: int,
) -> float:
    """Take one step, and return its loss. All chance comes from the seed and the step."""
    chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    round_, place = divmod(step, len(lessons))
    order = torch.Generator().manual_seed(recipe.seed * 1_000_003 + round_)
    lesson = lessons[int(torch.randperm(len(lessons), generator=order)[place])]
    keep = budgets[int(torch.randint(len(budgets), (), generator=chance))]
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    with torch.enable_grad():
        loss = lesson_loss(
            model, trainee, part, lesson, keep, recipe.temperature(step), chance, recipe.relation
        )
        if not bool(loss.isfinite()):
            raise LftrError(f"the loss of step {step + 1} is {loss.item()}: fit with a lower rate")
        # not backward(): the model's own parameters get no gradients
        grads = torch.autograd.grad(loss, list(part.parameters()), allow_unused=True)
    size = torch.stack([g.norm() for g in grads if g is not None]).norm()
    for parameter, grad in zip(part.parameters(), grads, strict=True):
        parameter.grad = None if grad is None else grad * (_LARGEST / size.clamp_min(_LARGEST))
    optimizer.step()
    return loss.item()


def lesson_loss(
    model: Any,
    trainee: Trainee,
    part: Fitted,
    lesson: Lesson,
    keep: float,
    temperature: float,
    chance: torch.Generator,
    relation: float,
) -> Tensor:
    """Return the loss of the reduced model on a batch, with a gradient for ``part``."""
    trainee.tokens = list(lesson.tokens)
    trainee.choices = [
        _relaxed(part, tokens, keep, temperature, chance) for tokens in lesson.tokens
    ]
    out = model(**lesson.inputs, use_cache=False, output_hidden_states=relation > 0)
    answers = lesson.answered.shape[1]
    loss = answer_loss(out.logits[:, -answers - 1 : -1], lesson.logits, lesson.answered)
    if relation:
        states = visual_states(lesson, out.hidden_states[-1], trainee.choices)
        losses = [
            relation_loss(some, choice.apply(full), _gates(choice))
            for some, full, choice in zip(states, lesson.states, trainee.choices, strict=True)
        ]
        loss = loss + relation * torch.stack(losses).mean()
    return loss


def _relaxed(
    part: Fitted, tokens: VisualTokens, keep: float, temperature: float, chance: torch.Generator
) -> Selection:
    count = resolve(keep, tokens.count)
    patches = _patches(tokens)
    if count >= patches.count:
        chosen = Selection.everything(patches.count)
    else:
        chosen = part.relax(patches, count, temperature, chance).item(0)
    if tokens.separator is None:
        return chosen
    return chosen.through((~tokens.separator).nonzero().squeeze(1))


def _patches(tokens: VisualTokens) -> VisualTokens:
    return tokens.as_batch().without_separators()


def _gates(choice: Selection) -> Tensor | None:
    """Return by how much each slot is there: in part if it stands for less than a token."""
    return None if choice.slot_weight is None else choice.slot_weight.clamp_max(1.0)


def _digest(values: Any) -> str:
    """Return a hash of tensors, to the bit, and of what else is in mappings and sequences."""
    held = hashlib.sha256()
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            held.update(f"{value.dtype}{tuple(value.shape)}".encode())
            held.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            waiting.extend(sorted(value.items()))
        elif isinstance(value, (list, tuple)):
            held.update(f"{len(value)}".encode())
            waiting.extend(value)
        else:
            held.update(repr(value).encode())
    return held.hexdigest()


def _sample(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Return the first values of each parameter, which tell models apart at little cost."""
    return [
        (name, parameter.detach().flatten()[:_SAMPLE])
        for name, parameter in model.named_parameters()
        if not parameter.is_meta  # offloaded by accelerate
    ]
