"""Rows of a comparison: which method, at which budget."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...decoding.only import ONLY
from ...evidence.guidance import Guidance
from ...methods import get_method
from ...methods.base import Method
from ...methods.encoder.merges import EncoderMerge
from ...methods.encoder.spelling import spell_merge
from ...methods.inside import LayerMethod
from ...prompting import frames_as_images
from ...reducing import reduce
from ...values.budget import Keep, as_arguments, spell
from ...values.errors import ArgumentError, LftrError
from .items import QuestionLike

if TYPE_CHECKING:
    from ...hosts.transformers.reduction import Reduction

CONTROLS = ("random", "uniform", "pool", "downsample")


@dataclass(frozen=True)
class Setting:
    """One row of a comparison.

    Attributes
    ----------
    label : str
        Name of the row.
    method : Method or LayerMethod
        The method, before the language model or inside it.
    keep : float, int or Budget
        How much stays: a ratio (float), a count (int) or a total, inside the language model on
        average over its layers; ``1.0`` is the full model, whatever the method.
    positions : {"original", "compact"}, optional
        As `lftr.reduce` takes it.
    encoder : EncoderMerge, optional
        Merges tokens inside the vision encoder.
    weights : float or str, optional
        As `lftr.reduce` takes it.
    decoding : ONLY, optional
        As `lftr.reduce` takes it.
    """

    label: str
    method: Method | LayerMethod
    keep: Keep
    positions: str | None = None
    encoder: EncoderMerge | None = None
    weights: float | str | None = None
    decoding: ONLY | None = None

    @property
    def full(self) -> bool:
        """Whether this is the model without reduction."""
        changed = self.encoder is not None or self.decoding is not None
        return isinstance(self.keep, float) and self.keep == 1.0 and not changed

    @property
    def name(self) -> str:
        """What is done, as a text; ``"full"`` for the model without reduction."""
        whole = isinstance(self.keep, float) and self.keep == 1.0
        merge = [] if self.encoder is None else [spell_merge(self.encoder)]
        parts = merge if whole else [str(self.method), *merge]
        decoding = "" if self.decoding is None else f" with {self.decoding}"
        return (" + ".join(parts) or "full") + decoding

    def reduce(
        self,
        model: Any,
        asked: Sequence[QuestionLike],
        *,
        processor: Any,
        text_tower: Any = None,
    ) -> Reduction:
        """Reduce a model by this setting, for a batch of questions; see `lftr.reduce`."""
        return reduce(
            model,
            self.method,
            **as_arguments(self.keep),
            positions=self.positions,
            guidance=Guidance([one.question for one in asked], processor, text_tower),
            encoder=self.encoder,
            frames=frames_as_images(processor, [one.images for one in asked]),
            weights=self.weights,
            decoding=self.decoding,
        )

    def named(self, error: LftrError) -> LftrError:
        """Return an error of the same type whose message names this setting."""
        return type(error)(f"{self.label}: {error}")


def is_control(name: str) -> bool:
    """Whether the name of a setting is that of a control, with any options and without a merge."""
    return re.fullmatch(rf"({'|'.join(CONTROLS)})(\(.*\))?", name) is not None


def full_model() -> Setting:
    """Return the setting of the full model."""
    return Setting("full", get_method("uniform"), 1.0)


def settings_of(
    ratios: Sequence[float], method: str | Method = "lftr", controls: Sequence[str] = CONTROLS
) -> list[Setting]:
    """Return the full model, then for each ratio the method and the controls.

    A label is the text of the method.

    Parameters
    ----------
    ratios : sequence of float
        Reduction ratios: 16 keeps a sixteenth of the tokens.
    """
    chosen = get_method(method) if isinstance(method, str) else method
    methods = _with_controls([chosen], controls)
    rows = [Setting(label, one, 1 / ratio) for ratio in ratios for label, one in methods.items()]
    return [full_model(), *rows]


def settings_grid(
    methods: Iterable[Method | LayerMethod | str],
    keeps: Iterable[Keep],
    controls: Sequence[str] = CONTROLS,
    positions: str | None = None,
) -> list[Setting]:
    """Return the full model, then for each budget every method and the controls.

    Methods are objects, or spelled as on the command line. Labels are like ``"lftr 1/16"`` and
    ``"lftr(diversity=0.2) 1/16"``. A control that is among ``methods`` has its place and options
    there.

    Raises
    ------
    ArgumentError
        If two different methods have one text.
    """
    rows = _with_controls(methods, controls)
    return [
        full_model(),
        *(
            Setting(f"{name} {spell(keep)}", method, keep, positions)
            for keep in {spell(keep): keep for keep in keeps}.values()
            for name, method in rows.items()
        ),
    ]


def with_merges(
    settings: Sequence[Setting], merges: Iterable[EncoderMerge], methods: Iterable[Method] = ()
) -> list[Setting]:
    """Return settings and, after each but the controls, the same with each encoder merge.

    After the full model this is the merge alone. A control that is among ``methods`` is treated as
    a method.
    """
    rows, others = [], list(merges)
    compared = {method.name for method in methods}
    for setting in settings:
        rows.append(setting)
        if is_control(setting.name) and setting.method.name not in compared:
            continue
        for merge in others:
            name, budget = spell_merge(merge), f" {spell(setting.keep)}"
            shorter = setting.label.removesuffix(budget)
            both = f"{shorter} + {name}{budget if shorter != setting.label else ''}"
            label = name if setting.full else both
            rows.append(replace(setting, label=label, encoder=merge))
    return rows


def with_weights(settings: Iterable[Setting], weights: float | str | None) -> list[Setting]:
    """Return settings, all but the full model with these weights of slots."""
    return [one if one.full else replace(one, weights=weights) for one in settings]


def _with_controls(
    methods: Iterable[Method | LayerMethod | str], controls: Sequence[str]
) -> Mapping[str, Method | LayerMethod]:
    rows: dict[str, Method | LayerMethod] = {}
    for one in methods:
        method = get_method(one) if isinstance(one, str) else one
        text = str(method)
        if rows.setdefault(text, method) != method:
            allowed = "methods that are written differently; two that differ are both written so"
            raise ArgumentError.of("methods", text, allowed)
    names = {method.name for method in rows.values()}
    return rows | {name: get_method(name) for name in controls if name not in names}
