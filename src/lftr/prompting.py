"""A model's inputs for pictures, clips and a question, with any processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from .media.clip import Clip
from .media.picture import read_image
from .values.errors import ArgumentError, LftrError, reason_of
from .values.frames import Frames

ImageOrClip = Image.Image | Clip
MediaAndText = tuple[Sequence[ImageOrClip], str]

_PLACEHOLDERS = ("image_token", "video_token", "boi_token", "fake_image_token")
_TICKS = 1000  # ticks per second of the frame times that processors receive


def inputs_of(processor: Any, media: Sequence[ImageOrClip], question: str) -> Any:
    """Return a model's inputs for one question about some images or clips.

    Uses the processor's chat template if it has one; else the image tokens stand before the
    question. A clip goes through the processor's video processor; without one, its frames become
    images, see `frames_as_images`.
    """
    return batch_inputs(processor, [(media, question)])


def batch_inputs(processor: Any, asked: Sequence[MediaAndText]) -> Any:
    """Return a model's inputs for several questions about different media, left-padded.

    The processor is given every image as `lftr.media.read_image` reads a file: upright, in RGB.

    Raises
    ------
    ArgumentError
        If frames become images that could not be told from other images, see `frames_as_images`; a
        question contains the processor's image placeholder; or the processor fails.
    """
    asked = [([_as_viewed(one) for one in media], question) for media, question in asked]
    if frames_as_images(processor, [media for media, _ in asked]):
        asked = [(_frames(media), question) for media, question in asked]
    videos = [[one for one in media if isinstance(one, Clip)] for media, _ in asked]
    options = _video_options(videos) if any(videos) else {}
    if getattr(processor, "chat_template", None):
        conversations = [_conversation(media, question) for media, question in asked]
        return chat_inputs(processor, conversations, **options)
    questions = [question for _, question in asked]
    _check_texts(processor, questions)
    media_inputs: dict[str, Any] = {}
    if any(videos):
        media_inputs["videos"] = [[list(clip.frames) for clip in clips] for clips in videos]
    images = [[one for one in media if not isinstance(one, Clip)] for media, _ in asked]
    if any(images) or not any(videos):
        media_inputs["images"] = images
    with _answerable(processor, questions):
        return processor(
            text=[_bare_prompt(processor, media, question) for media, question in asked],
            return_tensors="pt",
            **media_inputs,
            **options,
            **_padding(len(asked)),
        )


def chat_inputs(
    processor: Any, conversations: Sequence[Sequence[dict[str, Any]]], **options: Any
) -> Any:
    """Return a model's inputs for several conversations as chat templates take them, left-padded.

    Images are parts ``{"type": "image", "image": PIL.Image.Image}`` of a message's content, and are
    given to the processor as `lftr.media.read_image` reads a file; ``options`` go to it as well.

    Raises
    ------
    ArgumentError
        If a text contains the processor's image placeholder, or the processor fails.
    """
    parts = [
        part
        for conversation in conversations
        for message in conversation
        if not isinstance(message["content"], str)
        for part in message["content"]
    ]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    _check_texts(processor, texts)
    with _answerable(processor, texts):
        return processor.apply_chat_template(
            [list(map(_message_as_viewed, conversation)) for conversation in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=_padding(len(conversations)) | options,
        )


def _as_viewed(medium: ImageOrClip) -> ImageOrClip:
    """Return a picture, or the frames of a clip, converted as viewers show them."""
    if isinstance(medium, Clip):
        return replace(medium, frames=tuple(map(read_image, medium.frames)))
    return read_image(medium)


def _message_as_viewed(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    return message | {"content": list(map(_part_as_viewed, message["content"]))}


def _part_as_viewed(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    content = part.get(kind)
    if kind == "image" and isinstance(content, Image.Image):
        return part | {kind: read_image(content)}
    if kind == "video" and isinstance(content, list):
        frames = (read_image(one) if isinstance(one, Image.Image) else one for one in content)
        return part | {kind: list(frames)}
    return part


def _check_texts(processor: Any, texts: Sequence[str]) -> None:
    """Refuse texts with the image placeholder, which the processor inserts itself."""
    for name in _PLACEHOLDERS:
        token = str(getattr(processor, name, None) or "")
        for text in texts:
            if token and token in text:
                allowed = f"a text without {token!r}: images and clips are put in front of it"
                raise ArgumentError.of("question", text, allowed)


@contextmanager
def _answerable(processor: Any, texts: Sequence[str]) -> Iterator[None]:
    """Turn any error of a processor about these questions into one sentence."""
    try:
        yield
    except LftrError:
        raise
    except Exception as error:
        question = texts[0] if len(texts) == 1 else list(texts)
        allowed = f"what {type(processor).__name__} takes with these images ({reason_of(error)})"
        raise ArgumentError.of("question", question, allowed) from error


def frames_as_images(processor: Any, rows: Sequence[Sequence[ImageOrClip]]) -> Frames | None:
    """Return for `lftr.reduce` which rows are clips whose frames a processor is given as images.

    That is so where it has no video processor. All images of such a row are of one clip, even if it
    has one frame. None where no row is a clip of that kind.

    Parameters
    ----------
    rows : sequence of sequence of ImageOrClip
        The media of each question.

    Raises
    ------
    ArgumentError
        If it is so for a row with another picture or clip, or beside a row of several pictures.
    """
    clips = any(isinstance(one, Clip) for media in rows for one in media)
    if not clips or getattr(processor, "video_processor", None) is not None:
        return None
    if any(len(media) > 1 for media in rows):
        raise ArgumentError.of(
            "media",
            max(map(len, rows)),
            f"one clip or one picture for each question: {type(processor).__name__} has no video "
            "processor, so that frames are images, which cannot be told from other images",
        )
    return Frames(rows=[any(isinstance(one, Clip) for one in media) for media in rows])


def _frames(media: Sequence[ImageOrClip]) -> list[Image.Image]:
    return [frame for one in media for frame in (one.frames if isinstance(one, Clip) else (one,))]


def _video_options(videos: Sequence[Sequence[Clip]]) -> dict[str, Any]:
    """Return the options that pass all frames, with their times, to a video processor."""
    return {
        "do_sample_frames": False,
        "video_metadata": [[_metadata(clip) for clip in clips] for clips in videos],
    }


def _metadata(clip: Clip) -> dict[str, Any]:
    ticks = [round(time * _TICKS) for time in clip.times]
    length = ticks[-1] - ticks[0] + round(_TICKS / clip.fps)  # the last frame is shown as long
    width, height = clip.size
    return {
        "total_num_frames": length,
        "fps": float(_TICKS),
        "frames_indices": ticks,
        "duration": length / _TICKS,
        "width": width,
        "height": height,
    }


def _padding(rows: int) -> dict[str, Any]:
    return {"padding": True, "padding_side": "left"} if rows > 1 else {}


def _conversation(media: Sequence[ImageOrClip], question: str) -> list[dict[str, Any]]:
    content = [_part(medium) for medium in media]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _part(medium: ImageOrClip) -> dict[str, Any]:
    if isinstance(medium, Clip):
        return {"type": "video", "video": list(medium.frames)}
    return {"type": "image", "image": medium}


def _bare_prompt(processor: Any, media: Sequence[ImageOrClip], question: str) -> str:
    """Put image tokens in front, unless the processor does so itself (BLIP-2, InstructBLIP)."""
    token = getattr(processor, "image_token", None)
    if not isinstance(token, str) or getattr(processor, "num_query_tokens", None) is not None:
        return question
    tokens = (processor.video_token if isinstance(one, Clip) else token for one in media)
    return "".join(tokens) + "\n" + question
