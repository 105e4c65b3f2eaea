"""Gates of DyVTE, one for each layer, that decide from text whether visual tokens are needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ...values.errors import ArgumentError, LftrError

_FORMAT = "lftr.exits.Gates"


@dataclass(frozen=True)
class MadeFor:
    """The language model that gates were trained on.

    Attributes
    ----------
    model_type : str
        ``model_type`` of its configuration.
    hidden_size, depth : int
        Width of its states, and number of its layers.
    """

    model_type: str
    hidden_size: int
    depth: int

    @classmethod
    def of(cls, config: Any) -> MadeFor:
        """Describe a language model by its configuration, or by that of the whole model."""
        text = config.get_text_config()
        return cls(str(text.model_type), int(text.hidden_size), int(text.num_hidden_layers))


class Gates(nn.Module):
    """A small network for every layer but the first, which decides whether to exit before it.

    New gates never exit: both of their logits are equal.

    Parameters
    ----------
    made_for : MadeFor
        The language model whose states the gates read.
    width : int
        Number of features between the two linear maps.
    """

    def __init__(self, made_for: MadeFor, width: int) -> None:
        super().__init__()
        self.made_for = made_for
        self.width = width
        self.gates = nn.ModuleList(
            nn.Sequential(
                _zeros(2 * made_for.hidden_size, width, bias=False), nn.GELU(), _zeros(width, 2)
            )
            for _ in range(1, made_for.depth)
        )

    @property
    def device(self) -> torch.device:
        """Device of the gates."""
        return next(self.parameters()).device

    def forward(self, layer: int, features: Tensor) -> Tensor:
        """Return the logits ``(..., 2)`` of going on and of exiting before ``layer``, from 1 on.

        Parameters
        ----------
        features : Tensor, shape (..., 2 C)
            What `features_of` returns.
        """
        logits: Tensor = self.gates[layer - 1](features)
        return logits

    def save(self, path: str | Path) -> None:
        """Write the gates, and the language model they were trained on, as safetensors."""
        from safetensors import SafetensorError  # research environments may lack it
        from safetensors.torch import save_file

        known = dataclasses.asdict(self.made_for) | {"width": self.width, "format": _FORMAT}
        tensors = {name: x.cpu().contiguous() for name, x in self.state_dict().items()}
        try:
            save_file(tensors, path, {name: str(value) for name, value in known.items()})
        except (OSError, SafetensorError) as error:
            raise ArgumentError.of("path", str(path), f"a file to write ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read gates that `save` wrote.

        Raises
        ------
        LftrError
            If the file cannot be read, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                known = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ArgumentError.of("gates", str(path), f"gates that were saved ({error})") from None
        try:
            if known["format"] != _FORMAT:
                raise ValueError(known["format"])
            size, depth, width = (int(known[name]) for name in ("hidden_size", "depth", "width"))
            made_for = MadeFor(known["model_type"], size, depth)
            shapes = _shapes(made_for, width, len(tensors))
            if shapes != {name: tuple(x.shape) for name, x in tensors.items()}:
                raise ValueError(shapes)
            if not all(bool(x.isfinite().all()) for x in tensors.values()):
                raise ValueError("weights that are not finite")
            gates = cls(made_for, width)
            gates.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError):
            raise ArgumentError.of("gates", str(path), "a file that Gates.save wrote") from None
        return gates.eval().requires_grad_(False)

    def check(self, config: Any) -> None:
        """Raise an error for a language model of another kind than that of the gates.

        Raises
        ------
        LftrError
            If its type, its width or its depth is another.
        """
        other = MadeFor.of(config)
        if other != self.made_for:
            raise LftrError(f"gates trained for {self.made_for} cannot serve {other}")


def features_of(states: Tensor, text: Tensor) -> Tensor:
    """Return the mean of the text's states without the last, and the last, each at length ``√C``.

    Parameters
    ----------
    states : Tensor, shape (L, C)
        Hidden states before a layer.
    text : Tensor of int64, shape (M,)
        Rows of text after the image, at least one. One alone is its own mean.

    Returns
    -------
    Tensor, shape (2 C,)
        Float32, detached.
    """
    text_states = states[text].detach().float()
    before = text_states[:-1] if len(text_states) > 1 else text_states
    return torch.cat([_normal(before.mean(dim=0)), _normal(text_states[-1])])


def _normal(x: Tensor) -> Tensor:
    return x / x.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def _shapes(made_for: MadeFor, width: int, most: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of gates' tensors, of which there are no more than ``most``."""
    gate = {"0.weight": (width, 2 * made_for.hidden_size), "2.weight": (2, width), "2.bias": (2,)}
    layers = range(min(made_for.depth - 1, most))
    return {f"gates.{layer}.{name}": shape for layer in layers for name, shape in gate.items()}


def _zeros(size: int, width: int, bias: bool = True) -> nn.Linear:
    """Return a linear map to zero, without using the global random generator."""
    linear: nn.Linear = skip_init(nn.Linear, size, width, bias=bias)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
