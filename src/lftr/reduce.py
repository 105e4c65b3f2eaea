"""The one line: put a reduction on a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from .budget import Keep, is_auto, parse_keep
from .errors import ArgumentError, UnsupportedModelError
from .methods import get_method
from .methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from .evidence.text import TextTower
    from .hosts.transformers.module import ModuleReduction
    from .hosts.transformers.session import Reduction

POSITIONS = ("original", "compact")
STAGES = ("llm", "encoder")


def as_method(method: object) -> Method:
    """Return a method given by name or as an object."""
    if isinstance(method, str):
        return get_method(method)
    if isinstance(method, Method):
        return method
    raise ArgumentError.of("method", method, "a name from lftr.list_methods() or a lftr.Method")


def reduce(
    model: Any,
    method: str | Method = "lftr",
    *,
    keep: object,
    positions: str | None = None,
    stage: str = "llm",
    text: str | Sequence[str] | None = None,
    processor: Any = None,
    text_tower: TextTower | None = None,
) -> Reduction:
    """Make a Hugging Face multimodal LLM answer from a fraction of its visual tokens.

    Active at once, until ``remove()`` or the end of a ``with`` block; then the model is exactly as
    it was, also after an error. ``generate`` and ``forward`` are called as ever.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model for image-text-to-text, of a family that `lftr.list_families` names.
    method : str or Method
        Decides which tokens stay.
    keep : float, int, Budget or "auto"
        A ratio in (0, 1] (``1/16``), a count for each item (``64``), `lftr.Budget(total=...)` for
        each prompt, or the method's own number (TRIM and PruMerge have one).
    positions : {"original", "compact"}, optional
        Whether kept tokens stay where they were, or are renumbered without gaps. By default where
        they were, but for Q-Former queries, which have no place in the image.
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
    from .hosts.transformers.families import family_of
    from .hosts.transformers.plan import Plan
    from .hosts.transformers.session import Reduction

    if positions not in (None, *POSITIONS):
        raise ArgumentError.of("positions", positions, " or ".join(map(repr, POSITIONS)))
    if text is not None and not isinstance(text, str) and not all(isinstance(t, str) for t in text):
        raise ArgumentError.of("text", text, "a string, or one for each row")
    model = getattr(model, "_orig_mod", model)  # what torch.compile(model) wraps
    family = family_of(model)
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"model = {type(model).__name__}; allowed: the model with its head, as "
            "AutoModelForImageTextToText loads it"
        )
    stages = STAGES if family.kind == "qformer" else STAGES[:1]
    if stage not in stages:
        raise ArgumentError.of("stage", stage, " or ".join(map(repr, stages)))
    plan = Plan(
        as_method(method),
        _parse(keep),
        positions or family.default_positions,
        stage,
        text,
        getattr(processor, "tokenizer", processor),
        text_tower,
    )
    return Reduction(model, family, plan)


def prepare(model: Any, **inputs: Any) -> dict[str, Any]:
    """Return ``inputs`` with the visual tokens reduced, as the reduction that is on would.

    For loops of one's own: ids, mask, positions and encoded images, ready for ``model(**inputs)``.
    """
    from .hosts.transformers.session import current

    return current(getattr(model, "_orig_mod", model)).prepare(**inputs)


def reduce_module(
    module: nn.Module,
    method: str | Method,
    keep: object,
    *,
    grid: Sequence[Any] | None = None,
) -> ModuleReduction:
    """Reduce what a module returns, in any code: MiniGPT-4, MiniGPT-v2, LLaVA's own repository.

    The module must return visual tokens ``(B, N, C)``: a tensor, a tuple that begins with one, or
    a transformers output with ``last_hidden_state``. Code around it must take the shorter sequence;
    code that concatenates embeddings, as those repositories do, does. Laid on a module that is
    reduced already, it replaces that reduction until it ends.

    Parameters
    ----------
    module : nn.Module
        For MiniGPT-v2 ``model.llama_proj``, which returns ``(B, 256, 4096)`` for LLaMA-2 (a 16 x 16
        grid after its 2 x 2 merge, ``grid=(1, 16, 16)``); for MiniGPT-4 ``model.llama_proj``, 32
        Q-Former tokens without a grid; for LLaVA ``model.get_model().mm_projector``.
    method : str or Method
        Decides; text-guided methods and those that read attention need a hosted model.
    keep : float, int
        How many tokens of each row stay.
    grid : (T, H, W) or sequence of them, optional
        How the tokens lie.

    Returns
    -------
    ModuleReduction
        Active at once, with the ``report`` of the last call; ``remove()`` or the end of a ``with``
        block takes it off.

    Raises
    ------
    ArgumentError, MissingEvidenceError
        If an argument is out of range, or the method needs more than features.
    """
    from .hosts.transformers.module import ModuleReduction
    from .hosts.transformers.plan import Plan

    return ModuleReduction(module, Plan(as_method(method), _parse(keep)), grid)


def list_families() -> list[str]:
    """Return the model types that `reduce` takes, sorted."""
    from .hosts.transformers.families import list_families as families

    return families()


def _parse(keep: object) -> Keep | Literal["auto"]:
    return "auto" if is_auto(keep) else parse_keep(keep)
