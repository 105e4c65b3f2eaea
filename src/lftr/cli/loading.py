"""Models for the command line: the bundled one, or any that transformers knows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from ..evidence.text import TextTower
from ..values.errors import ArgumentError
from .options import refuse
from .terminal import working


@dataclass
class Loaded:
    """A model with what is needed to ask it."""

    name: str
    model: Any
    processor: Any
    text_tower: TextTower | None


def load_model(
    name: str | None,
    device: torch.device,
    dtype: torch.dtype | None,
    text_tower: str | None = None,
    needs_tower: bool = False,
    clips: bool = False,
) -> Loaded:
    """Load a model by Hugging Face id or folder; a bundled one without a name.

    Parameters
    ----------
    clips : bool
        Whether it is asked about clips: which of the bundled ones.

    Raises
    ------
    ArgumentError
        If it cannot be loaded, with the first line of the reason; or a text tower is named that
        nothing would ask.
    """
    given = {"--text-tower": text_tower}
    if name is None:
        refuse(given, "without --model: the bundled model brings its own")
    elif not needs_tower:
        refuse(given, "with methods that ask for no text in CLIP's space")
    _quieten()
    with working(f"loading {name or 'the bundled model'}"):
        if name is None:
            return _bundled(device, dtype, needs_tower, "clips" if clips else "scenes")
        tower = None if text_tower is None else _clip_tower(text_tower, device)
        return Loaded(name, *_load(name, device, dtype), tower)


def _bundled(
    device: torch.device, dtype: torch.dtype | None, needs_tower: bool, name: str
) -> Loaded:
    from .. import bundled
    from ..presets import name_of

    model, processor = bundled.load(device, dtype, name=name)
    tower = bundled.load_text_tower(model) if needs_tower else None
    return Loaded(name_of(model), model, processor, tower)


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
    """Leave the terminal to this program's own progress."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
