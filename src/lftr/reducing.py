"""Attach a reduction to a model or a module, list reductions, and remove them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from .decoding.only import ONLY
from .evidence.guidance import Guidance, as_guidance
from .evidence.text import TextTower
from .methods import get_method
from .methods.base import Method
from .methods.encoder.merges import EncoderMerge
from .methods.inside import LayerMethod
from .methods.inside.options import check_keep
from .methods.lookup import as_method
from .presets import Preset
from .values.budget import Budget, Keep, budget_of, parse_keep
from .values.errors import ArgumentError, UnsupportedModelError
from .values.frames import Frames, as_frames
from .values.positions import check_positions
from .values.weights import parse_weights

if TYPE_CHECKING:
    from torch import nn

    from .hosts.module.evidence import ModuleEvidence
    from .hosts.module.reduction import ModuleReduction
    from .hosts.transformers.families import Family
    from .hosts.transformers.reduction import Reduction

AnyMethod = str | Method | LayerMethod
STAGES = ("llm", "encoder")


class OlderArguments(TypedDict, total=False):
    """Arguments that `reduce` had in earlier releases and still takes."""

    text: str | Sequence[str] | None
    processor: Any
    text_tower: TextTower | None
    preset: str | Path | Preset | None
    images_as_video: Frames | bool | Sequence[bool] | Sequence[int] | Sequence[Sequence[int]] | None


def reduce(
    model: Any,
    method: AnyMethod | Sequence[AnyMethod] = "lftr",
    *,
    keep: float | Budget | str | None = None,
    tokens: int | None = None,
    positions: str | None = None,
    stage: str = "llm",
    guidance: Guidance | str | Sequence[str] | None = None,
    encoder: EncoderMerge | None = None,
    frames: Frames | None = None,
    weights: str | float | None = None,
    decoding: ONLY | None = None,
    **older: Unpack[OlderArguments],
) -> Reduction:
    """Make a Hugging Face multimodal LLM answer from a fraction of its visual tokens.

    The reduction is active at once, until ``remove()`` or the end of a ``with`` block; then the
    model is exactly as it was before, also after an error. Calls of ``generate`` and ``forward``
    need no change. On a model that is reduced already, the new reduction acts in place of the other
    one until it ends; methods that should act together belong into one call.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model for image-text-to-text, of a type that `lftr.list_families` names or that the
        general host takes (docs/compatibility.md).
    method : str, Method or LayerMethod, or a sequence of them
        Decides which tokens are kept: at most one method before the language model, and any number
        inside it (``["lftr", FastV()]``). At a layer where several act, they act in this order.
    keep : float, Budget or "auto", optional
        A ratio in (0, 1] (``1/16``), `lftr.Budget(total=...)` for each prompt, or "auto", with
        which the method itself determines the number (TRIM, PruMerge and some others can). Methods
        inside the language model have their own schedules, relative to the tokens that reach them.
        If there is only one method and it is inside the language model, the budget is the mean
        share over all layers.
    tokens : int, optional
        In place of ``keep``, a count for each item (``64``); a whole video is one item.
    positions : {"original", "compact"}, optional
        Whether kept tokens keep their positions ("original") or are renumbered without gaps
        ("compact"). The default is "original", except for models that cannot keep positions, such
        as Q-Formers, whose queries have no place in the image, and models that take no
        ``position_ids`` (Inkling).
    stage : {"llm", "encoder"}
        Which visual tokens are reduced: the language model's, or (BLIP-2, InstructBLIP) those of
        the encoder that the Q-Former reads.
    guidance : Guidance, or str or a sequence of them, optional
        The text for text-guided methods, by default the prompt: one text, one for each row, or a
        `lftr.Guidance`, which also holds the processor and a text tower.
    encoder : EncoderMerge, optional
        Merges tokens while the vision encoder runs (`lftr.EncoderToMe`, `lftr.EncoderFolder`,
        `lftr.EncoderFlowCut`, `lftr.EncoderFiCoCo`), for LLaVA, VipLLaVA and PaliGemma; the method
        then sees the merged tokens. ``keep`` is relative to the image's tokens without merging, and
        ``keep=1.0`` keeps every merged token.
    frames : Frames, optional
        Which images are frames of clips, for models that are given a clip as several images:
        ``lftr.Frames()`` for one clip in each prompt.
    weights : {"size", "none"} or float, optional
        How attention counts a slot into which a method merged ``s`` tokens. "size" adds ``log(s)``
        to the logits of its key in each attention layer of the language model, so that it counts as
        ``s`` equal tokens; a number ``e`` adds ``e * log(s)``, and "none" adds nothing. The default
        is "size" where the model's attention allows it, else "none", which the report notes.
    decoding : ONLY, optional
        Corrects the logits of each token that ``generate`` makes, against hallucination
        (`lftr.ONLY`); with ``keep=1.0`` on the full prompt.
    **older
        Arguments of earlier releases: ``text``, ``processor`` and ``text_tower``, now fields of
        ``guidance``; ``preset``, a path or a Preset, now ``**preset.arguments()``;
        ``images_as_video``, True or what `lftr.Frames` is made of, now ``frames``.

    Returns
    -------
    Reduction
        With the ``report`` of the last call.

    Raises
    ------
    ArgumentError
        If an argument is out of its range.
    UnsupportedModelError
        If the model has no visual tokens or its family is not hosted.
    MissingEvidenceError
        If the method needs evidence (attention, text features) that this model does not provide.
    """
    from .hosts.items import ReductionPlan
    from .hosts.transformers.encoder.merge import check_merge
    from .hosts.transformers.families import family_of
    from .hosts.transformers.reduction import Reduction
    from .hosts.transformers.wrapped import unwrapped

    for name in older:
        if name not in OlderArguments.__annotations__:
            raise TypeError(f"reduce() got an unexpected keyword argument {name!r}")
    notes: tuple[str, ...] = ()
    if (preset := older.pop("preset", None)) is not None:
        arguments: dict[str, Any] = {"method": method, "keep": keep, "tokens": tokens}
        arguments |= {"positions": positions, "encoder": encoder, "weights": weights}
        method, keep, tokens, positions, encoder, weights, notes = _preset_of(
            preset, model, arguments
        )
    if (framed := as_frames(older.pop("images_as_video", None))) is not None:
        if frames is not None:
            raise ArgumentError.of("images_as_video", framed, "one of frames and images_as_video")
        frames = framed
    guidance = as_guidance(guidance, **older)
    check_positions(positions)
    if not isinstance(decoding, ONLY | None):
        raise ArgumentError.of("decoding", decoding, "an lftr.ONLY, or None")
    model = unwrapped(model)
    family = family_of(model)
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"model = {type(model).__name__}; allowed: the model with its head, as "
            "AutoModelForImageTextToText loads it"
        )
    stages = STAGES if family.kind == "qformer" else STAGES[:1]
    if stage not in stages:
        raise ArgumentError.of("stage", stage, " or ".join(map(repr, stages)))
    before, budget, inside = _plan_methods(method, budget_of(keep, tokens))
    plan = ReductionPlan(
        before,
        budget,
        _positions(model, family, positions),
        stage,
        guidance,
        inside,
        notes,
        None if encoder is None else check_merge(model, family, encoder, before),
        _check_frames(family, frames, encoder),
        parse_weights(weights),
        decoding=decoding,
    )
    return Reduction(model, family, plan)


def prepare(model: Any, **inputs: Any) -> dict[str, Any]:
    """Return ``inputs`` with the visual tokens reduced by the model's active reduction.

    For decoding loops that call ``model(**inputs)`` themselves: ids, mask, positions and encoded
    images.
    """
    from .hosts.transformers.reduction import current
    from .hosts.transformers.wrapped import unwrapped

    return current(unwrapped(model)).prepare(**inputs)


def reductions(model: nn.Module) -> list[Reduction | ModuleReduction]:
    """Return every active reduction of a model or a module.

    Parameters
    ----------
    model : nn.Module
        A model, bare or wrapped, or a module that `reduce_module` was given.

    Returns
    -------
    list of Reduction or ModuleReduction
        In the order of the model's parts. Of several on one part, only the last one acts.

    Raises
    ------
    ArgumentError
        If ``model`` is no module.
    """
    if "lftr.hosts.transformers.reduction" in sys.modules:
        from .hosts.transformers.reduction import attached_to

        return attached_to(model)
    from .hosts.module.reduction import attached_to as on_modules

    return [*on_modules(model)]  # no model is reduced, and transformers may not be installed


def restore(model: nn.Module) -> None:
    """Remove every reduction from a model, so that it is as it was before the first.

    Useful in a notebook, where a cell that runs twice overwrites the variable with the first
    reduction.
    """
    for reduction in reversed(reductions(model)):
        reduction.remove()


def reduce_module(
    module: nn.Module,
    method: str | Method,
    keep: float | Budget | str | None = None,
    *,
    tokens: int | None = None,
    grid: Sequence[Any] | None = None,
    evidence: ModuleEvidence | None = None,
    placeholders: tuple[object, str] | tuple[()] | None = None,
) -> ModuleReduction:
    """Reduce the output of a module in any code: MiniGPT-4, MiniGPT-v2, LLaVA's own repository.

    Requires only torch, 2.6 or newer; transformers may be missing, or of any release. The module
    must return visual tokens ``(B, N, C)``: a tensor, a tuple that begins with one, or a
    transformers output with ``last_hidden_state``. Every tensor ``(B, N, C)`` or ``(N, C)`` of a
    list, and every ``(B, N, C)`` of a tuple of such, is reduced; the report names what else an
    output holds and stays as it is. Code around it must take the shorter sequence; code that
    concatenates embeddings, as those repositories do, does. On a module that is already reduced,
    the new reduction replaces the other one until it ends.

    `Selection.weight` is not applied: attention after the module counts a slot that a method made
    of several tokens as one token. The report notes it.

    Parameters
    ----------
    module : nn.Module
        For MiniGPT-v2 ``model.llama_proj``, which returns ``(B, 256, 4096)`` for LLaMA-2; each
        token is made of four patches side by side in a row, so ``grid=(1, 32, 8)``. For MiniGPT-4
        ``model.llama_proj`` too: 32 Q-Former tokens without a grid or, without a Q-Former at 224
        pixels, ``grid=(1, 16, 4)``. For LLaVA ``model.get_model().mm_projector``, for InternVL
        ``model.mlp1``.
    method : str or Method
        Decides which tokens are kept; text-guided methods and those that read attention need
        ``evidence``.
    keep : float, optional
        The share of each row's tokens that is kept, in (0, 1].
    tokens : int, optional
        In place of ``keep``, the number of tokens of each row that are kept.
    grid : (T, H, W) or sequence of them, optional
        Frames, rows and columns in which the tokens are arranged.
    evidence : ModuleEvidence, optional
        The encoder whose attention the method reads, and embeddings of the question.
    placeholders : tuple of (object, str), optional
        The attribute from which code around the module takes the number of placeholders for each
        row of tokens: ``(model, "num_image_token")`` for InternVL. It holds the number of kept
        tokens as long as the reduction is active. ``()`` means that the code has no placeholders;
        it is required only for a reduction to a single token.

    Returns
    -------
    ModuleReduction
        Active at once, with the ``report`` of the last call; ``remove()`` or the end of a ``with``
        block detaches it.

    Raises
    ------
    ArgumentError, MissingEvidenceError
        If an argument is out of range, or the method needs more than features and ``evidence``; in
        a call, if it is not clear what are visual tokens in the module's output.
    UnsupportedModelError
        If the encoder's attention cannot be read.
    """
    from .hosts.items import ReductionPlan
    from .hosts.module.reduction import ModuleReduction

    plan = ReductionPlan(
        as_method(method),
        _require_budget(budget_of(keep, tokens)),
        unweighted="slots have no weights: lftr.reduce_module does not change the attention after "
        "the module",
    )
    return ModuleReduction(module, plan, grid, evidence, placeholders)


def list_families() -> list[str]:
    """Return the model types that `reduce` takes, sorted."""
    from .hosts.transformers.families import list_families as families

    return families()


def _preset_of(preset: object, model: Any, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the preset's values for ``arguments``, and its warnings.

    Raises
    ------
    ArgumentError
        If one of ``arguments`` is not at its default.
    """
    if arguments != dict.fromkeys(arguments) | {"method": "lftr"}:
        beside = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ArgumentError.of(
            "preset",
            preset,
            f"no method, keep, tokens, positions, encoder or weights beside it ({beside})",
        )
    if not isinstance(preset, Preset):
        if not isinstance(preset, (str, Path)):
            raise ArgumentError.of("preset", preset, "a path or a lftr.Preset")
        preset = Preset.load(preset)
    note = preset.note(model)
    notes = () if note is None else (note,)
    return (*(preset.arguments().get(name) for name in arguments), notes)


def _positions(model: Any, family: Family, positions: str | None) -> str:
    """Return the positions of kept tokens: the argument, or the family's default.

    Raises
    ------
    UnsupportedModelError
        If they should be original and the family cannot keep those.
    """
    if not family.compact_only:
        return positions or "original"
    if positions == "original":
        raise UnsupportedModelError(
            f"positions = {positions!r}; {type(model).__name__} cannot keep tokens at their "
            f"original positions: {family.compact_only}; use 'compact'"
        )
    return "compact"


def _check_frames(family: Family, frames: object, encoder: EncoderMerge | None) -> Frames | None:
    """Return ``frames``; refuses them where no grid of frames is left."""
    if frames is None:
        return None
    if not isinstance(frames, Frames):
        raise ArgumentError.of("frames", frames, "a lftr.Frames, or None")
    if encoder is not None:
        allowed = "None with encoder=: merged tokens fill no grid of frames"
        raise ArgumentError.of("frames", frames, allowed)
    if family.kind != "prefill":
        allowed = "None with a Q-Former or cross-attention: no grid is left"
        raise ArgumentError.of("frames", frames, allowed)
    return frames


def check_budget(method: object, budget: Keep | Literal["auto"] | None) -> None:
    """Refuse a method and a budget that `reduce` would refuse on any model, before one is loaded.

    Parameters
    ----------
    budget : float, int, Budget, "auto" or None
        As `lftr.values.budget.budget_of` returns it.

    Raises
    ------
    ArgumentError
        As `reduce` raises it.
    """
    _plan_methods(method, budget)


def split_by_place(method: object) -> tuple[list[object], list[LayerMethod]]:
    """Return the methods before the language model, unchecked, and those inside it.

    Parameters
    ----------
    method : str, Method or LayerMethod, or a sequence of them
        As `reduce` takes it; names become objects.
    """
    several = method if isinstance(method, (list, tuple)) else [method]
    methods = [get_method(one) if isinstance(one, str) else one for one in several]
    inside = [one for one in methods if isinstance(one, LayerMethod)]
    return [one for one in methods if not isinstance(one, LayerMethod)], inside


def _plan_methods(
    method: object, budget: Keep | Literal["auto"] | None
) -> tuple[Method, Keep | Literal["auto"], tuple[LayerMethod, ...]]:
    """Return the method before the language model, what it keeps, and the methods inside.

    Where only methods inside are given, everything is kept before the language model.
    """
    before, within = split_by_place(method)
    inside = tuple(within)
    if len(before) > 1:
        raise ArgumentError.of(
            "method",
            method,
            "one method before the language model; lftr.methods.Then joins several",
        )
    if before or not inside:
        return as_method(before[0] if before else method), _require_budget(budget), inside
    if budget is not None:
        if len(inside) > 1:
            allowed = "None where several methods have their schedules"
            raise ArgumentError.of("keep", budget, allowed)
        inside = (inside[0].averaging(check_keep("keep", budget)),)
    return get_method("uniform"), 1.0, inside


def _require_budget(budget: Keep | Literal["auto"] | None) -> Keep | Literal["auto"]:
    """Refuse None: a method before the language model needs a budget."""
    return parse_keep(None) if budget is None else budget
