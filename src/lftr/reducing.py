"""The one line: put a reduction on a model."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .evidence.text import TextTower
from .methods import get_method
from .methods.base import Method
from .methods.encoder.merges import EncoderMerge
from .methods.inside import LayerMethod
from .methods.inside.options import check_keep
from .presets import Preset, name_of
from .values.budget import Keep, is_auto, parse_keep
from .values.errors import ArgumentError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from .hosts.items import Framing
    from .hosts.module.evidence import ModuleEvidence
    from .hosts.module.reduction import ModuleReduction
    from .hosts.transformers.families import Family
    from .hosts.transformers.reduction import Reduction

AnyMethod = str | Method | LayerMethod
POSITIONS = ("original", "compact")
STAGES = ("llm", "encoder")
WEIGHTS = {"size": 1.0, "none": 0.0}  # words for exponents


def as_method(method: object) -> Method:
    """Return a method given by name or as an object; one that decides before the language model."""
    found = get_method(method) if isinstance(method, str) else method
    if not isinstance(found, Method):
        raise ArgumentError.of(
            "method", method, "a name from lftr.list_methods('before') or a lftr.Method"
        )
    return found


def reduce(
    model: Any,
    method: AnyMethod | Sequence[AnyMethod] = "lftr",
    *,
    keep: object = None,
    positions: str | None = None,
    stage: str = "llm",
    text: str | Sequence[str] | None = None,
    processor: Any = None,
    text_tower: TextTower | None = None,
    preset: str | Path | Preset | None = None,
    encoder: EncoderMerge | None = None,
    images_as_video: bool | Sequence[bool] | Sequence[int] | Sequence[Sequence[int]] = False,
    weights: str | float | None = None,
) -> Reduction:
    """Make a Hugging Face multimodal LLM answer from a fraction of its visual tokens.

    Active at once, until ``remove()`` or the end of a ``with`` block; then the model is exactly as
    it was, also after an error. ``generate`` and ``forward`` are called as ever.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model for image-text-to-text, of a family that `lftr.list_families` names.
    method : str, Method or LayerMethod, or a sequence of them
        Decides which tokens stay: at most one method before the language model, and any number
        inside it (``["lftr", FastV()]``), in the order in which they meet at a layer.
    keep : float, int, Budget or "auto"
        A ratio in (0, 1] (``1/16``), a count for each item (``64``; a whole video is one item),
        `lftr.Budget(total=...)` for each prompt, or the method's own number (TRIM and PruMerge have
        one). Methods inside the language model have schedules of their own, of what reaches them;
        where there is one of them and nothing before, ``keep`` is what a layer has of its tokens on
        average.
    positions : {"original", "compact"}, optional
        Whether kept tokens stay where they were, or are renumbered without gaps. By default where
        they were, but for Q-Former queries, which have no place in the image, and for models that
        are told no positions (Inkling).
    stage : {"llm", "encoder"}
        Which visual tokens: the language model's, or (BLIP-2, InstructBLIP) those of the encoder
        that the Q-Former reads.
    text : str or sequence of str, optional
        What guides text-guided methods: one question, or one for each row of the batch.
    processor : optional
        The model's processor or tokenizer; decodes the prompt where a text tower needs words and
        ``text`` is not given, and embeds ``text`` where there is no text tower.
    text_tower : TextTower, optional
        CLIP's text side, for methods that compare in CLIP's space.
    preset : path or Preset, optional
        What ``lftr tune`` wrote: method, keep, positions and encoder, in their place.
    encoder : EncoderMerge, optional
        Merges tokens while the vision encoder runs (`lftr.EncoderToMe`, `lftr.EncoderFolder`), for
        LLaVA-like models; the method then sees the merged tokens. ``keep`` stays relative to the
        image's own tokens, and ``keep=1.0`` passes all on that the encoder left.
    images_as_video : bool, or sequence of bool or int, or one of int for each row
        Images of a row that follow each other, whatever text stands between, and have the same
        single grid are the frames of one video: one item of grid (T, H, W) for the method, for
        ``keep`` and in the report. For models that are given a clip as several images. Where a
        prompt has several clips, or pictures beside them, how many images each takes, in order:
        ``[8, 8, 1]`` for two clips and a picture. ``[True, False]`` for two rows: all images of the
        first are of one clip, even if it has one frame, those of the second are pictures.
    weights : {"size", "none"} or float, optional
        How a slot counts that stands for ``s`` tokens, because a method merged them: "size" adds
        ``log(s)`` to the logits of its key in each attention layer of the language model, so that
        it counts as ``s`` equal tokens; a number ``e`` adds ``e * log(s)``, and "none" nothing. By
        default "size" where the model's attention can take it, else "none", and the report says so.

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
        If the method needs what this model cannot tell.
    """
    from .hosts.items import Plan
    from .hosts.transformers.encoder.merge import check_merge
    from .hosts.transformers.families import family_of
    from .hosts.transformers.reduction import Reduction
    from .hosts.transformers.wrapped import unwrapped

    notes: tuple[str, ...] = ()
    if preset is not None:
        given = {"method": method, "keep": keep, "positions": positions, "encoder": encoder}
        method, keep, positions, encoder, notes = _preset_of(preset, model, given)
    if positions not in (None, *POSITIONS):
        raise ArgumentError.of("positions", positions, " or ".join(map(repr, POSITIONS)))
    _check_text(text, processor, text_tower)
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
    before, count, inside = _planned(method, keep)
    plan = Plan(
        before,
        count,
        _positions(model, family, positions),
        stage,
        text,
        getattr(processor, "tokenizer", processor),
        text_tower,
        inside,
        notes,
        None if encoder is None else check_merge(model, family, encoder, before),
        _check_frames(family, images_as_video, encoder),
        parse_weights(weights),
    )
    return Reduction(model, family, plan)


def prepare(model: Any, **inputs: Any) -> dict[str, Any]:
    """Return ``inputs`` with the visual tokens reduced, as the reduction that is on would.

    For loops of one's own: ids, mask, positions and encoded images, ready for ``model(**inputs)``.
    """
    from .hosts.transformers.reduction import current
    from .hosts.transformers.wrapped import unwrapped

    return current(unwrapped(model)).prepare(**inputs)


def reductions(model: nn.Module) -> list[Reduction | ModuleReduction]:
    """Return every reduction that is on, whoever holds it.

    Parameters
    ----------
    model : nn.Module
        A model, bare or wrapped, or a module that `reduce_module` was given.

    Returns
    -------
    list of Reduction or ModuleReduction
        In the order of the model's parts; of several on one part, the one that acts comes last.

    Raises
    ------
    ArgumentError
        If ``model`` is no module.
    """
    if "lftr.hosts.transformers.reduction" in sys.modules:
        from .hosts.transformers.reduction import attached_to

        return attached_to(model)
    from .hosts.module.reduction import attached_to as on_modules

    return [*on_modules(model)]  # no model is reduced, and transformers may not be there


def restore(model: nn.Module) -> None:
    """Take every reduction off a model, so that it is as it was before the first.

    For a notebook whose cell ran twice, and whose first handle is gone.
    """
    for reduction in reversed(reductions(model)):
        reduction.remove()


def reduce_module(
    module: nn.Module,
    method: str | Method,
    keep: object,
    *,
    grid: Sequence[Any] | None = None,
    evidence: ModuleEvidence | None = None,
    placeholders: tuple[object, str] | tuple[()] | None = None,
) -> ModuleReduction:
    """Reduce what a module returns, in any code: MiniGPT-4, MiniGPT-v2, LLaVA's own repository.

    It needs torch alone, 2.0 or newer; transformers may be missing, or of any release. The module
    must return visual tokens ``(B, N, C)``: a tensor, a tuple that begins with one, or a
    transformers output with ``last_hidden_state``. Every tensor ``(B, N, C)`` or ``(N, C)`` of a
    list is reduced. Code around it must take the shorter sequence; code that concatenates
    embeddings, as those repositories do, does. Laid on a module that is reduced already, it
    replaces that reduction until it ends.

    Parameters
    ----------
    module : nn.Module
        For MiniGPT-v2 ``model.llama_proj``, which returns ``(B, 256, 4096)`` for LLaMA-2; each
        token is made of four patches side by side in a row, so ``grid=(1, 32, 8)``. For MiniGPT-4
        ``model.llama_proj`` too: 32 Q-Former tokens without a grid or, without a Q-Former at 224
        pixels, ``grid=(1, 16, 4)``. For LLaVA ``model.get_model().mm_projector``, for InternVL
        ``model.mlp1``.
    method : str or Method
        Decides; text-guided methods and those that read attention need ``evidence``.
    keep : float, int
        How many tokens of each row stay.
    grid : (T, H, W) or sequence of them, optional
        How the tokens lie.
    evidence : ModuleEvidence, optional
        The encoder whose attention the method reads, and embeddings of the question.
    placeholders : tuple of (object, str), optional
        The attribute from which code around the module takes the number of placeholders for each
        row of tokens: ``(model, "num_image_token")`` for InternVL. It holds the number of kept
        tokens as long as the reduction is active. ``()`` says that the code has no placeholders;
        only a reduction to a single token asks for that.

    Returns
    -------
    ModuleReduction
        Active at once, with the ``report`` of the last call; ``remove()`` or the end of a ``with``
        block takes it off.

    Raises
    ------
    ArgumentError, MissingEvidenceError
        If an argument is out of range, or the method needs more than features and ``evidence``.
    UnsupportedModelError
        If the encoder's attention cannot be read.
    """
    from .hosts.items import Plan
    from .hosts.module.reduction import ModuleReduction

    plan = Plan(as_method(method), _parse(keep))
    return ModuleReduction(module, plan, grid, evidence, placeholders)


def list_families() -> list[str]:
    """Return the model types that `reduce` takes, sorted."""
    from .hosts.transformers.families import list_families as families

    return families()


def _preset_of(
    preset: object, model: Any, given: Mapping[str, Any]
) -> tuple[Any, Any, Any, Any, tuple[str, ...]]:
    """Return what a preset holds, and its warnings; it stands in for all of ``given``."""
    if given != {"method": "lftr", "keep": None, "positions": None, "encoder": None}:
        beside = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ArgumentError.of(
            "preset", preset, f"no method, keep, positions or encoder beside it ({beside})"
        )
    if not isinstance(preset, Preset):
        if not isinstance(preset, (str, Path)):
            raise ArgumentError.of("preset", preset, "a path or a lftr.Preset")
        preset = Preset.load(preset)
    note = preset.note(name_of(model))
    notes = () if note is None else (note,)
    return preset.method, preset.keep, preset.positions, preset.encoder, notes


def _positions(model: Any, family: Family, asked: str | None) -> str:
    """Return the positions of kept tokens: those asked for, or the family's default.

    Raises
    ------
    UnsupportedModelError
        If the family cannot keep the original ones, and they were asked for.
    """
    if not family.compact_only:
        return asked or "original"
    if asked == "original":
        raise UnsupportedModelError(
            f"positions = {asked!r}; {type(model).__name__} cannot keep tokens at their original "
            f"positions: {family.compact_only}; use 'compact'"
        )
    return "compact"


def _check_text(text: object, processor: object, text_tower: object) -> None:
    """Refuse what cannot guide a method."""
    rows = text if isinstance(text, (list, tuple)) else [text]
    if text is not None and not (rows and all(isinstance(row, str) for row in rows)):
        raise ArgumentError.of("text", text, "a string, or a list of one for each row")
    tokenizer = getattr(processor, "tokenizer", processor)
    if processor is not None and not (callable(tokenizer) or hasattr(tokenizer, "decode")):
        raise ArgumentError.of("processor", processor, "a processor or tokenizer of transformers")
    if text_tower is not None and not isinstance(text_tower, TextTower):
        raise ArgumentError.of("text_tower", text_tower, "a lftr.TextTower")


def _check_frames(family: Family, clips: object, encoder: EncoderMerge | None) -> Framing:
    """Return which images are frames; refuses to make frames of them where that cannot be."""
    found = _as_framing(clips)
    if found is None:
        allowed = "True, False, or how many images each clip has, at least 1 (for each row)"
        raise ArgumentError.of("images_as_video", clips, allowed)
    if found and encoder is not None:
        raise ArgumentError.of(
            "images_as_video", clips, "False with encoder=: merged tokens fill no grid of frames"
        )
    if found and family.kind != "prefill":
        raise ArgumentError.of(
            "images_as_video", clips, "False with a Q-Former or cross-attention: no grid is left"
        )
    return found


def _as_framing(value: object) -> Framing | None:
    """Return a flag as it is, and numbers as tuples; None for anything else."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(one, bool) for one in value):
        return tuple(value) if any(value) else False
    if all(isinstance(one, (list, tuple)) for one in value):
        rows = [tuple(one) for one in value]
        return tuple(rows) if all(map(_are_counts, rows)) else None
    return (tuple(value),) if _are_counts(value) else None


def _are_counts(values: Sequence[object]) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in values)


def check_budget(method: object, keep: object) -> None:
    """Refuse a method and a budget that `reduce` would refuse on any model, before one is loaded.

    Raises
    ------
    ArgumentError
        As `reduce` raises it.
    """
    _planned(method, keep)


def by_place(method: object) -> tuple[list[object], list[LayerMethod]]:
    """Return the methods before the language model, unchecked, and those inside it.

    Parameters
    ----------
    method : str, Method or LayerMethod, or a sequence of them
        As `reduce` takes it; names become objects.
    """
    given = method if isinstance(method, (list, tuple)) else [method]
    found = [get_method(one) if isinstance(one, str) else one for one in given]
    inside = [one for one in found if isinstance(one, LayerMethod)]
    return [one for one in found if not isinstance(one, LayerMethod)], inside


def _planned(
    method: object, keep: object
) -> tuple[Method, Keep | Literal["auto"], tuple[LayerMethod, ...]]:
    """Return the method before the language model, what it keeps, and the methods inside.

    Where only methods inside are given, everything is kept before the language model.
    """
    before, within = by_place(method)
    inside = tuple(within)
    if len(before) > 1:
        raise ArgumentError.of(
            "method",
            method,
            "one method before the language model; lftr.methods.Then joins several",
        )
    if before or not inside:
        return as_method(before[0] if before else method), _parse(keep), inside
    if keep is not None:
        if len(inside) > 1:
            raise ArgumentError.of("keep", keep, "None where several methods have their schedules")
        inside = (inside[0].averaging(check_keep("keep", keep)),)
    return get_method("uniform"), 1.0, inside


def parse_weights(weights: object) -> float | None:
    """Return the exponent of the slots' weights; None for the default.

    Raises
    ------
    ArgumentError
        If it is neither a word of `reduce` nor a finite number from 0 on.
    """
    if weights is None:
        return None
    word = str(weights)
    try:
        exponent = WEIGHTS[word] if word in WEIGHTS else float(word)
    except ValueError:
        exponent = math.nan
    if isinstance(weights, bool) or not 0.0 <= exponent < math.inf:
        raise ArgumentError.of("weights", weights, "'size', 'none' or a number from 0 on")
    return exponent


def _parse(keep: object) -> Keep | Literal["auto"]:
    return "auto" if is_auto(keep) else parse_keep(keep)
