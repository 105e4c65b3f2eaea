"""From images and a question to a model's inputs, for any processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from .errors import ArgumentError


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    Raises
    ------
    ArgumentError
        If there is none, or it cannot be read; the message names the path.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ArgumentError.of("image", str(path), "a file that exists") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, (IsADirectoryError, PermissionError)):
            raise ArgumentError.of("image", str(path), "a file that can be read") from None
        raise ArgumentError.of(
            "image", str(path), "an image that is whole (PNG, JPEG...)"
        ) from None


def inputs_of(processor: Any, images: Sequence[Image.Image], question: str) -> Any:
    """Return a model's inputs for one question about some images.

    With the processor's chat template where it has one; without, the processor's image tokens come
    before the question.
    """
    return batch_inputs(processor, [(images, question)])


def batch_inputs(processor: Any, asked: Sequence[tuple[Sequence[Image.Image], str]]) -> Any:
    """Return a model's inputs for several questions, each about images of its own, left-padded."""
    if getattr(processor, "chat_template", None):
        return chat_inputs(
            processor, [_conversation(images, question) for images, question in asked]
        )
    return processor(
        images=[list(images) for images, _ in asked],
        text=[_bare_prompt(processor, len(images), question) for images, question in asked],
        return_tensors="pt",
        **_padding(len(asked)),
    )


def chat_inputs(processor: Any, conversations: Sequence[Sequence[dict[str, Any]]]) -> Any:
    """Return a model's inputs for several conversations as chat templates take them, left-padded.

    Images are parts ``{"type": "image", "image": PIL.Image.Image}`` of a message's content.
    """
    return processor.apply_chat_template(
        [list(conversation) for conversation in conversations],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=_padding(len(conversations)),
    )


def _padding(rows: int) -> dict[str, Any]:
    return {"padding": True, "padding_side": "left"} if rows > 1 else {}


def _conversation(images: Sequence[Image.Image], question: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _bare_prompt(processor: Any, images: int, question: str) -> str:
    """Put image tokens in front, unless the processor does so itself (BLIP-2 and its kin)."""
    token = getattr(processor, "image_token", None)
    if not isinstance(token, str) or getattr(processor, "num_query_tokens", None) is not None:
        return question
    return token * images + "\n" + question
