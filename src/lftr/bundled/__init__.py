"""The small LLaVA inside the package: really trained, loaded without a network.

It demonstrates and tests; what it answers predicts nothing about other models. MODEL_CARD.md
beside this file says how it was made and how well it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ..evidence.text import TextTower

_FOLDER = Path(__file__).parent / "weights"


def path() -> Path:
    """Folder of the model, for anything that takes the name of a Hugging Face model."""
    return _FOLDER


def load(
    device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, Any]:
    """Load the model and its processor.

    Parameters
    ----------
    device : torch.device or str, optional
        Where the model goes; the CPU by default.
    dtype : torch.dtype, optional
        float32 by default, from weights stored as bfloat16.

    Returns
    -------
    model : transformers.LlavaForConditionalGeneration
        In evaluation mode.
    processor : transformers.LlavaProcessor
        With a chat template.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with _without_bars():
        model = AutoModelForImageTextToText.from_pretrained(
            _FOLDER, dtype=dtype or torch.float32, local_files_only=True
        )
    processor = AutoProcessor.from_pretrained(_FOLDER, local_files_only=True)
    return model.to(device or "cpu").eval(), processor


def load_text_tower(model: Any) -> TextTower:
    """Load the CLIP text tower that the bundled vision tower was trained against.

    Parameters
    ----------
    model : transformers.LlavaForConditionalGeneration
        What `load` returned; the tower comes to its device and dtype, and shares its layer norm.

    Returns
    -------
    TextTower
        For ``lftr.reduce(model, ..., text_tower=...)``: patches and texts in one space of 128
        dimensions, compared by cosine.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    from ..evidence.text import TextTower

    folder = _FOLDER / "text_tower"
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
    """Load without transformers' progress bars; what takes no time needs none."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["load", "load_text_tower", "path"]
