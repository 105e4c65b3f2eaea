"""The architectures of vLLM that lftr serves, and the evidence that their encoders provide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...values.errors import ArgumentError, UnsupportedModelError
from ...values.evidence import fields_from

_ATTENTIVE = fields_from("features", "projector", "attention", "prompt")
_CLIP = "clip_vision_model"
_TOWERS = {
    _CLIP: _ATTENTIVE | fields_from("cls", "frames"),
    "siglip_vision_model": _ATTENTIVE,
    # its CLS output is narrower than its features, of which a token has four patches' side by side
    "internvl_vision": _ATTENTIVE | fields_from("cls"),
    "idefics3_vision": _ATTENTIVE,
    "smolvlm_vision": _ATTENTIVE,
}


@dataclass(frozen=True)
class Architecture:
    """A reduced architecture.

    Parameters
    ----------
    stock : str
        The architecture of vLLM that it extends.
    model_type : str
        Transformers' name of the models, under which that host knows their family.
    module : str
        The module of `families` that defines it.
    counted_positions : bool
        Whether positions count tokens, in one dimension; otherwise they are those of M-RoPE.
    videos : bool
        Whether it takes videos; then an image, too, is a frame with a descriptor.
    """

    stock: str
    model_type: str
    module: str
    counted_positions: bool
    videos: bool

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return f"Lftr{self.stock}"


ARCHITECTURES = {
    one.stock: one
    for one in (
        Architecture("LlavaForConditionalGeneration", "llava", "llava", True, False),
        Architecture("LlavaNextForConditionalGeneration", "llava_next", "anyres", True, False),
        Architecture(
            "LlavaOnevisionForConditionalGeneration", "llava_onevision", "anyres", True, True
        ),
        Architecture("InternVLForConditionalGeneration", "internvl", "internvl", True, False),
        Architecture("Idefics3ForConditionalGeneration", "idefics3", "idefics", True, False),
        Architecture("SmolVLMForConditionalGeneration", "smolvlm", "idefics", True, False),
        Architecture("Gemma3ForConditionalGeneration", "gemma3", "gemma", True, False),
        Architecture("Qwen2VLForConditionalGeneration", "qwen2_vl", "qwen", False, True),
        Architecture("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", "qwen", False, True),
        Architecture("Qwen3VLForConditionalGeneration", "qwen3_vl", "qwen3", False, True),
        Architecture("Glm4vForConditionalGeneration", "glm4v", "glm", False, False),
        Architecture("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe", "qwen3", False, True),
        Architecture("Qwen3_5ForConditionalGeneration", "qwen3_5", "qwen3_5", False, True),
        Architecture("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "qwen3_5", False, True),
    )
}


def architecture_of(config: Any) -> Architecture:
    """Return the reduced architecture for a model's configuration, stock or reduced.

    Raises
    ------
    UnsupportedModelError
        If there is none.
    """
    names = list(getattr(config, "architectures", None) or ())
    for name in names:
        architecture = ARCHITECTURES.get(str(name).removeprefix("Lftr"))
        if architecture is not None:
            return architecture
    raise UnsupportedModelError(
        f"architectures = {names}; those that lftr serves on vLLM: {', '.join(ARCHITECTURES)}"
    )


def provided(
    config: Any, sharded_by_image: bool = False, text_tower: str | None = None
) -> frozenset[str]:
    """Return the fields of `lftr.VisualTokens` that a served model can fill.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's configuration.
    sharded_by_image : bool
        Whether each device encodes other images (``--mm-encoder-tp-mode data``). Then devices share
        only the encoder's output, and no evidence is read from the encoder.
    text_tower : str, optional
        The CLIP whose text side methods compare with.

    Raises
    ------
    ArgumentError
        If a text tower is named for another vision tower than CLIP's, or for devices that encode
        other images.
    UnsupportedModelError
        If the vision tower is none that is hosted.
    """
    architecture = architecture_of(config)
    fields = _ATTENTIVE
    tower = str(getattr(config.vision_config, "model_type", None))
    if architecture.counted_positions:
        if tower not in _TOWERS:
            raise UnsupportedModelError(
                f"vision tower {tower!r}; those that lftr serves on vLLM: {', '.join(_TOWERS)}"
            )
        fields = _TOWERS[tower]
    if text_tower is not None:
        if tower != _CLIP or sharded_by_image:
            why = "mm_encoder_tp_mode = 'data'" if sharded_by_image else f"a vision tower {tower!r}"
            raise ArgumentError.of("text_tower", text_tower, f"none with {why}")
        fields |= fields_from("tower")
    if sharded_by_image:
        fields = fields_from("features", "prompt")
    elif architecture.videos:
        fields |= fields_from("frames")
    return fields | fields_from("language") if _attends_at_first(config) else fields


def _attends_at_first(config: Any) -> bool:
    """Whether the language model's first layer has attention, and no linear one."""
    kinds = getattr(config.get_text_config(), "layer_types", None)
    return not kinds or kinds[0] != "linear_attention"
