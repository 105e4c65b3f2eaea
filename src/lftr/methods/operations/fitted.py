"""Parts of methods that `lftr.fit` trains: how they are saved, loaded and checked."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...options.checks import Range, check
from ...values.errors import ArgumentError, LftrError
from ...values.evidence import FIELDS
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Evidence, Method

_FORMAT = "lftr.fitted."
_NO_WIDTH = Annotated[int, Range(0, 0)]
_SIZE = Annotated[int, Range(1)]


class Fitted(nn.Module, ABC):
    """A small network that reads the evidence about tokens, with weights of its own.

    A subclass defines ``needs``, `decide` and `relax`, and an ``__init__`` that passes its options
    on. All of them see stacks of patches without separators, as `Method.choose` does. All tensors
    of a part are in its ``state_dict``, since `load` takes none from ``__init__``.

    Parameters
    ----------
    widths : mapping of str to int
        The fields of evidence that it reads, with the number of channels of each; 0 for fields of
        one value for each token or each head.
    **options : int
        What else determines the shapes of its weights, at least 1.

    Attributes
    ----------
    needs : Evidence
        The evidence that it can be fitted on, as in `Method.evidence`.

    Raises
    ------
    ArgumentError
        If the fields are not those of ``needs``, or a number is out of its range.
    """

    kinds: ClassVar[dict[str, type[Fitted]]] = {}
    needs: ClassVar[Evidence]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Fitted.kinds[cls.__name__] = cls

    def __init__(self, widths: Mapping[str, int], **options: int) -> None:
        super().__init__()
        if tuple(widths) not in {tuple(dict.fromkeys(names)) for names in product(*self.needs)}:
            raise ArgumentError.of("widths", widths, f"one field of each of {self.needs}, in order")
        for name, width in widths.items():
            check(name, width, _SIZE if _has_channels(name) else _NO_WIDTH)
        for name, value in options.items():
            check(name, value, _SIZE)
        self.widths = dict(widths)
        self.options = options

    @classmethod
    def fresh(cls, tokens: VisualTokens, **options: int) -> Self:
        """Return one with initial weights for stacks of tokens such as these.

        Random weights come from the global generator, as those of any module.

        Raises
        ------
        MissingEvidenceError
            If the tokens lack evidence.
        """
        fields = dict(tokens.evidence(*names) for names in cls.needs)
        return cls({name: _width(name, value) for name, value in fields.items()}, **options)

    @property
    def evidence(self) -> Evidence:
        """The evidence that it was fitted on, with no field in place of another."""
        return tuple((name,) for name in self.widths)

    @abstractmethod
    def decide(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose ``keep`` tokens of each item of a stack."""

    @abstractmethod
    def relax(
        self, tokens: VisualTokens, keep: int, temperature: float, noise: torch.Generator
    ) -> Selection:
        """Choose as `decide` does, but in a way that has a gradient with respect to the weights.

        Parameters
        ----------
        temperature : float
            How soft the decision is; at 0 it is that of `decide`.
        noise : torch.Generator
            What the decision is perturbed with, on the CPU.
        """

    def initialise(self, tokens: VisualTokens) -> None:
        """Set initial weights that depend on examples; by default there are none."""

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose ``keep`` tokens of each item of a stack that may be of another kind or device.

        Raises
        ------
        LftrError
            If the tokens are not such as it was fitted on.
        """
        for name, width in self.widths.items():
            _, value = tokens.evidence(name)
            if _width(name, value) != width:
                raise LftrError(
                    f"{self} was fitted on {name} of {width} channels; these tokens have "
                    f"{_width(name, value)}: fit one on this model"
                )
        place = tokens.features.device
        if next(self.parameters()).device == place:
            return self.decide(tokens, keep)
        moved = {name: x.to(place) for name, x in self.state_dict(keep_vars=True).items()}
        chosen: Selection = functional_call(self, moved, (tokens, keep))
        return chosen

    def forward(self, tokens: VisualTokens, keep: int) -> Selection:
        """Call `decide`, for weights that are on another device."""
        return self.decide(tokens, keep)

    def __repr__(self) -> str:
        options = {"widths": self.widths, **self.options}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def save(self, path: str | Path) -> None:
        """Write it as safetensors.

        Raises
        ------
        LftrError
            If the file cannot be written.
        """
        write_tensors(path, self.state_dict(), self.known)

    @property
    def known(self) -> dict[str, str]:
        """What a file says of it beside its weights."""
        kind = _FORMAT + type(self).__name__
        return {"format": kind, "shape": json.dumps([self.widths, self.options])}

    @staticmethod
    def load(path: str | Path) -> Fitted:
        """Read what `save` wrote.

        Raises
        ------
        LftrError
            If the file cannot be read, or holds something else.
        """
        tensors, known = read_tensors("fitted", path)
        foreign = ArgumentError.of("fitted", str(path), "a file that lftr.fit wrote")
        try:
            cls = {_FORMAT + name: kind for name, kind in Fitted.kinds.items()}[known["format"]]
            widths, options = json.loads(known["shape"])
            with torch.device("meta"):  # the sizes in the file allocate nothing
                part = cls(widths, **options)
            expected = part.state_dict()
            if _shapes(expected) != _shapes(tensors):
                raise foreign
            weights = {name: x.to(expected[name].dtype) for name, x in tensors.items()}
            part.load_state_dict(weights, assign=True)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
            raise foreign from None
        if not all(bool(x.isfinite().all()) for x in weights.values()):
            raise foreign
        return part.eval().requires_grad_(False)


@dataclass(frozen=True)
class Fittable(Method, spelled=False):
    """A method with a part that `lftr.fit` trains, and a rule of its own without it.

    Parameters
    ----------
    fitted : Fitted or path
        What `lftr.fit` trained, or the file that ``Fitted.save`` wrote. It takes the place of the
        method's own rule, with the other options, and reads the evidence that it was fitted on.
    """

    fits: ClassVar[type[Fitted]]
    fitted: Fitted | str | Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        # the exact type: a subclass reads other evidence, and is the part of another method
        if self.fitted is not None and type(self.part) is not self.fits:
            allowed = f"{self.fits.__name__}, as lftr.fit returns it for {self.name!r}, or its file"
            raise ArgumentError.of("fitted", self.fitted, allowed)

    @cached_property
    def part(self) -> Fitted:
        """The fitted part, read from its file once."""
        if isinstance(self.fitted, (str, Path)):
            return Fitted.load(self.fitted)
        return self.fitted  # type: ignore[return-value]  # anything else is refused

    @property
    def evidence(self) -> Evidence:
        return self.rule_evidence if self.fitted is None else self.part.evidence

    @property
    def rule_evidence(self) -> Evidence:
        """The evidence that the method needs without a fitted part."""
        return ()

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        if self.fitted is None:
            return self.choose_by_rule(tokens, keep)
        return self.part.choose(tokens, keep)

    def choose_by_rule(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose without a fitted part."""
        raise TypeError(f"{type(self).__name__} must define choose_by_rule(tokens, keep)")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], known: dict[str, str]) -> None:
    """Write tensors and texts as safetensors, the whole file or nothing.

    Raises
    ------
    LftrError
        If the file cannot be written.
    """
    from safetensors import SafetensorError  # research environments may lack it
    from safetensors.torch import save_file

    part = Path(path).with_name(Path(path).name + ".part")
    try:
        held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
        save_file(held, part, known)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArgumentError.of("path", str(path), f"a file to write ({error})") from None


def read_tensors(name: str, path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts of a safetensors file; ``name`` is the argument's.

    Raises
    ------
    LftrError
        If the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ArgumentError.of(name, str(path), f"a file that lftr.fit wrote ({error})") from None


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (x.shape, x.is_floating_point()) for name, x in tensors.items()}


def _width(name: str, value: Tensor) -> int:
    """Return the number of channels of a field ``(B, ..., N, channels)``, 0 where it has none."""
    return value.shape[-1] if _has_channels(name) else 0


def _has_channels(name: str) -> bool:
    return not FIELDS[name].shape.endswith("N")
