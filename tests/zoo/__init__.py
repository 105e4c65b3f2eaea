"""Tiny random-weight models of the real architectures, and inputs as their processors make them.

    entry = zoo.FAMILIES["llava_next"]
    model = entry.model()                                     # shared; `entry.build()` is new
    rows = [[3, Image("wide"), 4, Image("small"), 5], [6], [2, Image("square"), 3]]
    model.generate(**entry.inputs(model, rows), max_new_tokens=4)

NOTES.md says what each family does that a host must know.
"""

from __future__ import annotations

from .base import ABILITIES, KINDS, TEXT, Image, Row, Segment, Side, Traits, VideoEntry, ZooEntry
from .encoders import Blip2, InstructBlip, Mllama
from .gemma import Gemma3, Gemma4, Gemma4Shared, PaliGemma
from .grids import KimiK25, Mistral3
from .llava import Llava, LlavaNext, LlavaNextVideo, LlavaOnevision, VideoLlava, VipLlava
from .qwen import Glm4v, Glm46V, Qwen2_5VL, Qwen2VL, Qwen3_5, Qwen3VL, Qwen3VLMoe
from .tiles import AyaVision, Cohere2Vision, Idefics3, InternVL, Llama4, SmolVLM
from .video import Videos

FAMILIES: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        Llava(),
        VipLlava(),
        LlavaNext(),
        LlavaNextVideo(),
        VideoLlava(),
        LlavaOnevision(),
        Qwen2VL(),
        Qwen2_5VL(),
        Qwen3VL(),
        Qwen3VLMoe(),
        Qwen3_5(),
        Glm4v(),
        Glm46V(),
        InternVL(),
        Idefics3(),
        SmolVLM(),
        Gemma3(),
        Gemma4(),
        Gemma4Shared(),
        PaliGemma(),
        Mistral3(),
        AyaVision(),
        Cohere2Vision(),
        KimiK25(),
        Llama4(),
        Blip2(),
        InstructBlip(),
        Mllama(),
    )
}

VIDEOS = {str(e): Videos(e) for e in FAMILIES.values() if isinstance(e, VideoEntry)}
"""The families that take clips, shown clips alone."""
MIXED = {
    str(e): Videos(e, mixed=True)
    for e in FAMILIES.values()
    if isinstance(e, VideoEntry) and not e.name.startswith("glm4")  # takes the one or the other
}
"""The same, shown images and clips."""

__all__ = [
    "ABILITIES",
    "FAMILIES",
    "KINDS",
    "MIXED",
    "TEXT",
    "VIDEOS",
    "Image",
    "Row",
    "Segment",
    "Side",
    "Traits",
    "VideoEntry",
    "Videos",
    "ZooEntry",
]
