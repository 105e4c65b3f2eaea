"""Models for the command line: the bundled one, or any that transformers knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..evidence.guidance import Guidance
from ..evidence.text import TextTower
from ..hosts.transformers.reduction import Reduction
from ..methods.base import Method
from ..methods.inside import LayerMethod
from ..presets import Preset
from ..prompting import ImageOrClip, frames_as_images, inputs_of
from ..reducing import reduce
from ..values.errors import ArgumentError
from .options import refuse
from .parsing import parse_device, parse_dtype
from .terminal import show_spinner


@dataclass
class Loaded:
    """A model with its processor and, where a method needs one, a text tower."""

    name: str
    model: Any
    processor: Any
    text_tower: TextTower | None

    def inputs(self, media: Sequence[ImageOrClip], question: str) -> Any:
        """Return the inputs for a question about images and clips, on the model's device."""
        inputs = inputs_of(self.processor, media, question)
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def reduce(self, preset: Preset, media: Sequence[ImageOrClip], question: str) -> Reduction:
        """Reduce the model for a question about images and clips, as `lftr.reduce` does."""
        return reduce(
            self.model,
            **preset.arguments(),
            guidance=Guidance(question, self.processor, self.text_tower),
            frames=frames_as_images(self.processor, [media]),
        )


def load_model(
    name: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    methods: Iterable[Method | LayerMethod] = (),
    text_tower: str | None = None,
    clips: bool = False,
) -> Loaded:
    """Load the model that the options of a command name.

    Parameters
    ----------
    name : str, optional
        Hugging Face id or folder, by default the bundled model.
    device, dtype : str
        As `parse_device` and `parse_dtype` read them.
    methods : iterable of Method or LayerMethod
        The methods that will reduce the model; they decide whether it needs a text tower.
    text_tower : str, optional
        Hugging Face id or folder of a CLIP model.
    clips : bool
        Whether the bundled model is the one of clips.

    Raises
    ------
    ArgumentError
        If an option has a wrong value, the model cannot be loaded (with the first line of the
        reason), or no method would use the text tower.
    """
    where, kind, needed = parse_device(device), parse_dtype(dtype), needs_tower(methods)
    if name is None:
        refuse({"--text-tower": text_tower}, "without --model: the bundled model brings its own")
    elif not needed:
        refuse({"--text-tower": text_tower}, "with methods that use no text in CLIP's space")
    _quieten()
    with show_spinner(f"loading {name or 'the bundled model'}"):
        if name is None:
            return _load_bundled(where, kind, needed, "clips" if clips else "scenes")
        tower = None if text_tower is None else _clip_tower(text_tower, where)
        return Loaded(name, *_load(name, where, kind), tower)


def needs_tower(methods: Iterable[Method | LayerMethod]) -> bool:
    """Whether any method asks for text in CLIP's space."""
    before = [method for method in methods if isinstance(method, Method)]
    return any("text_embeds" in names for method in before for names in method.evidence)


def _load_bundled(
    device: torch.device, dtype: torch.dtype | None, needs_tower: bool, name: str
) -> Loaded:
    from .. import bundled
    from ..presets import model_name

    model, processor = bundled.load(device, dtype, name=name)
    tower = bundled.load_text_tower(model) if needs_tower else None
    return Loaded(model_name(model), model, processor, tower)


def _load(name: str, device: torch.device, dtype: torch.dtype | None) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype or "auto")
        return model.to(device).eval(), processor
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _not_loaded("--model", name, error) from None
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError.of(
            "--model", name, f"a model that fits on {device} ({reason})"
        ) from None


def _clip_tower(name: str, device: torch.device) -> TextTower:
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(name).to(device).eval()
        return TextTower.from_clip(model, AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _not_loaded("--text-tower", name, error) from None


def _not_loaded(option: str, name: str, error: Exception) -> ArgumentError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown")
    kind = "an image-text-to-text model" if option == "--model" else "a CLIP model"
    if "torchvision" in str(error).lower():
        reason += " (its processor needs torchvision, of your torch's build: docs/video.md)"
    return ArgumentError.of(
        option, name, f"a Hugging Face id or folder of {kind}; transformers says: {reason}"
    )


def _quieten() -> None:
    """Turn off the progress bars and warnings of transformers and huggingface_hub."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
