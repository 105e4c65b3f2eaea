"""The two small trained LLaVAs inside the package; loading them needs no network.

One answers questions about the scenes of `lftr.suites`, one about the clips. They are for
demonstrations and tests; their results do not predict those of other models. MODEL_CARD.md and
MODEL_CARD_CLIPS.md beside this file say how they were made and how well they answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..values.errors import ArgumentError

if TYPE_CHECKING:
    from ..evidence.text import TextTower

_HERE = Path(__file__).parent
_FOLDERS = {"scenes": _HERE / "weights", "clips": _HERE / "clips"}
NAMES = tuple(_FOLDERS)


def path(name: str = "scenes") -> Path:
    """Folder of a model, for anything that takes the name of a Hugging Face model.

    Raises
    ------
    ArgumentError
        If ``name`` is not one of `NAMES`.
    """
    if name not in _FOLDERS:
        raise ArgumentError.unknown("bundled model", name, _FOLDERS)
    return _FOLDERS[name]


def load(
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    name: str = "scenes",
) -> tuple[Any, Any]:
    """Load a model and its processor.

    Parameters
    ----------
    device : torch.device or str, optional
        Where the model goes; the CPU by default.
    dtype : torch.dtype, optional
        float32 by default, from weights stored as bfloat16.
    name : {"scenes", "clips"}
        The suite that it was trained for. A clip is given as its frames: so many images in one
        message, in the order of time.

    Returns
    -------
    model : transformers.LlavaForConditionalGeneration
        In evaluation mode.
    processor : transformers.LlavaProcessor
        With a chat template; that of the clips numbers the frames.

    Raises
    ------
    ArgumentError
        If ``name`` is not one of `NAMES`.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = path(name)
    with _without_bars():
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype or torch.float32, local_files_only=True
        )
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.to(device or "cpu").eval(), processor


def load_text_tower(model: Any) -> TextTower:
    """Load the CLIP text tower that the bundled vision tower was trained against.

    Parameters
    ----------
    model : transformers.LlavaForConditionalGeneration
        What `load` returned, of either name: the vision tower of the clips is that of the scenes.
        The text tower comes to its device and dtype, and shares its layer norm. Words that only
        clips need, such as "vanish", fall apart into letters that it was not trained on.

    Returns
    -------
    TextTower
        For ``lftr.Guidance(text_tower=...)``: patches and texts in one space of 128 dimensions,
        compared by cosine.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    from ..evidence.text import TextTower

    folder = _FOLDERS["scenes"] / "text_tower"
    with _without_bars():
        text = CLIPTextModelWithProjection.from_pretrained(
            folder, dtype=model.dtype, local_files_only=True
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    weight = load_file(folder / "visual_projection.safetensors")["weight"]
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    projection.weight = nn.Parameter(weight.float(), requires_grad=False)
    return TextTower(
        text.to(model.device).eval(),
        tokenizer,
        projection.to(model.device, model.dtype),
        model.model.vision_tower.post_layernorm,
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Load without transformers' progress bars, since loading is fast."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


__all__ = ["NAMES", "load", "load_text_tower", "path"]
