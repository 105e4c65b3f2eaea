"""Tiny checkpoints of the served families, as hubs have them: weights, tokenizer, processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata
from zoo import FAMILIES, ZooEntry
from zoo.base import BOS, EOS, NEWLINE, PAD, VOCAB
from zoo.parts import CLOSE, END, IMAGE, OPEN, START, VIDEO, siglip

LENGTH = 1024
TOKENIZER = "tokenizer"
"""The folder of a checkpoint's tokenizer, without a configuration of its model."""


WIDTH, HEAD = 128, 32
"""Of the language model; vLLM's attention on a CPU has no narrower heads."""


def widened(entry: ZooEntry, **changes: Any) -> ZooEntry:
    """Return a family of the zoo with heads that vLLM's attention can compute."""

    class Widened(type(entry)):  # type: ignore[misc]
        def config(self) -> Any:
            config = super().config()
            text, vision = config.text_config, config.vision_config
            text.hidden_size, text.head_dim = WIDTH, HEAD
            if "mrope_section" in (text.rope_parameters or {}):
                halved = "partial_rotary_factor" in text.rope_parameters
                text.rope_parameters["mrope_section"] = [2, 3, 3] if halved else [4, 6, 6]
            if entry.name == "gemma3":
                text.sliding_window = 40  # vLLM looks back alone where an image is longer
            if entry.name == "glm4v":
                text.num_attention_heads = WIDTH // HEAD
                text.attention_bias = True  # as hubs have it, and as transformers computes
            if entry.name == "qwen3_vl_moe":
                text.norm_topk_prob = True  # as hubs have it, and as transformers computes
            if entry.name == "qwen2_vl":
                vision.hidden_size = WIDTH
            elif entry.name in (*GRIDDED, "glm4v"):
                vision.out_hidden_size = WIDTH
            for key, value in changes.items():
                setattr(config, key, value)
            return config

    return Widened()


GRIDDED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
TAGGED = ("idefics3", "smolvlm")
FILMED = ("llava_onevision", *GRIDDED)
ENTRIES: dict[str, ZooEntry] = {
    "llava": widened(FAMILIES["llava"]),
    "llava_siglip": widened(
        FAMILIES["llava"], vision_config=siglip(24), vision_feature_select_strategy="full"
    ),
    "llava_next": widened(FAMILIES["llava_next"]),
    "llava_onevision": widened(  # vLLM shrinks images of more than nine tiles, whatever it says
        FAMILIES["llava_onevision"], vision_aspect_ratio="anyres_max_9"
    ),
    "internvl": widened(FAMILIES["internvl"]),
    **{name: widened(FAMILIES[name], tie_word_embeddings=False) for name in TAGGED},
    "gemma3": widened(FAMILIES["gemma3"], vision_config=siglip(48), mm_tokens_per_image=36),
    "glm4v": widened(FAMILIES["glm4v"]),
    **{name: widened(FAMILIES[name]) for name in GRIDDED},
}
SIGNS = {196: "<|vision_start|>", 197: "<|vision_end|>", 198: "<|video_pad|>", 199: "<|image_pad|>"}
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }} {% elif part['type'] == 'video' %}FILM {% else %}SIGN {% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def sign_of(name: str) -> str:
    if name == "internvl":
        return "<IMG_CONTEXT>"
    if name == "glm4v":
        return "<|begin_of_image|><|image|><|end_of_image|>"
    if name == "gemma3":
        return "<start_of_image>"
    return "<|vision_start|><|image_pad|><|vision_end|>" if name in GRIDDED else "<image>"


def film_of(name: str) -> str:
    return "<|vision_start|><|video_pad|><|vision_end|>" if name in GRIDDED else "<video>"


@dataclass(frozen=True)
class Tiny:
    """A checkpoint, and the model that it holds.

    Attributes
    ----------
    name : str
        A key of `ENTRIES`.
    folder : Path
        What vLLM is given.
    model : transformers model
        Float32.
    processor : transformers processor
        Loaded from the folder.
    two_way : bool
        Whether tokens of an image of Gemma 3 see each other in both directions, as on transformers
        and on GPUs; vLLM's attention on CPUs looks back alone.
    """

    name: str
    folder: Path
    model: Any
    processor: Any
    two_way: bool = False

    @property
    def sign(self) -> str:
        """What stands for an image in a prompt."""
        return sign_of(self.name)

    @property
    def film(self) -> str:
        """What stands for a clip."""
        return film_of(self.name)

    @property
    def takes_clips(self) -> bool:
        return self.name in FILMED

    @property
    def stock(self) -> str:
        """The architecture's name."""
        return type(self.model).__name__

    def inputs(
        self,
        prompt: str,
        images: Sequence[Image.Image] = (),
        clips: Sequence[Clip] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """What transformers' model is given."""
        given: dict[str, Any] = {"images": list(images) or None, **options}
        if clips:
            given["videos"] = [shots for shots, _ in clips]
            given["videos_kwargs"] = {"do_sample_frames": False}
            if self.name in GRIDDED:
                told = [{k: v for k, v in about.items() if k != SAMPLING} for _, about in clips]
                given["videos_kwargs"]["video_metadata"] = [VideoMetadata(**one) for one in told]
        inputs = dict(self.processor(text=[prompt], return_tensors="pt", **given))
        if "token_type_ids" in inputs and not self.two_way:
            inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
        return inputs


def words(seed: int, count: int = 6) -> str:
    """Random words of the vocabulary."""
    generator = np.random.default_rng(seed)
    return "".join(f" t{n}" for n in generator.integers(10, 170, count))


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return coarse noise, so that pixels differ as much as those of pictures."""
    generator = np.random.default_rng([seed, width, height])
    coarse = generator.integers(0, 256, (max(2, height // 4), max(2, width // 4), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


SAMPLING = "do_sample_frames"
Clip = tuple[np.ndarray, dict[str, Any]]
"""Frames, sampled already, and what vLLM wants to be told of them."""


def clip(frames: int, width: int, height: int, seed: int = 0) -> Clip:
    """Return a clip of coarse noise, of which each second frame is nearly the one before."""
    shots = [np.asarray(image(width, height, seed=seed + i // 2)) for i in range(frames)]
    # at this rate a clip takes fewer positions in time than in columns: with more, text follows the
    # last frame on vLLM, and the last column on transformers
    told = {
        "fps": 8.0,
        "duration": frames / 8,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        SAMPLING: False,
    }
    return np.stack(shots) // 2 + 8 * np.arange(frames, dtype=np.uint8)[:, None, None, None], told


def make(name: str, folder: Path) -> Tiny:
    """Write a checkpoint."""
    entry = ENTRIES[name]
    model = entry.build()
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string(use_diff=False))
    config |= {"architectures": [type(model).__name__], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {
            key if name == "internvl" else _hub_name(key): _hub_value(name, key, value)
            for key, value in model.state_dict().items()
        },
        str(folder / "model.safetensors"),
        metadata={"format": "pt"},
    )
    processor = _processor(name, entry, model, _tokenizer(name))
    processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder / TOKENIZER)
    return Tiny(name, folder, model, processor)


def _hub_name(key: str) -> str:
    tower = "model.vision_tower."
    return key.replace(tower, tower + "vision_model.") if key.startswith(tower) else key


def _hub_value(name: str, key: str, value: Tensor) -> Tensor:
    if name == "qwen3_vl_moe" and ".experts." in key:  # hubs have them transposed
        value = value.transpose(1, 2)
    return value.contiguous()


def _tokenizer(name: str) -> Any:
    vocabulary = {f"t{n}": n for n in range(VOCAB)}
    signs = SIGNS if name in GRIDDED else {IMAGE: "<image>", IMAGE - 1: "<video>"}
    roles = {}
    if name == "internvl":
        signs = {OPEN: "<img>", CLOSE: "</img>", IMAGE: "<IMG_CONTEXT>", START: "<video>"}
        names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
        roles = {"extra_special_tokens": dict(zip(names, signs.values(), strict=True))}
    if name == "glm4v":
        marks = ("begin_of_video", "end_of_video", "begin_of_image", "end_of_image")
        signs = {n: f"<|{sign}|>" for n, sign in zip((194, 195, START, END), marks, strict=True)}
        signs |= {VIDEO: "<|video|>", IMAGE: "<|image|>"}
    if name == "gemma3":
        signs = {OPEN: "<start_of_image>", CLOSE: "<end_of_image>", IMAGE: "<image_soft_token>"}
        named = dict(zip(("boi_token", "eoi_token", "image_token"), signs.values(), strict=True))
        roles = {"extra_special_tokens": named}
        signs |= {190 + count: "\n" * count for count in range(1, 5)}
    if name in TAGGED:
        entry: Any = FAMILIES[name]
        signs = {IMAGE: "<image>", entry.fake: "<fake_token_around_image>", NEWLINE: "\n"}
        signs |= {entry.global_tag: "<global-img>", entry.global_tag - 1: "<end_of_utterance>"}
        places = [(row, column) for row in range(4) for column in range(4)]
        signs |= {entry.places + 4 * r + c: f"<row_{r + 1}_col_{c + 1}>" for r, c in places}
    signs = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", **signs}
    for number, sign in signs.items():
        del vocabulary[f"t{number}"]
        vocabulary[sign] = number
    spaces = r"\s+"
    if name == "gemma3":  # a space between two crops is a token
        spaces = r"^\s+(?=\S)|(?<=\S)\s+"
        vocabulary[" "] = vocabulary.pop("t195")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t4"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(spaces), "removed")
    tokenizer.decoder = decoders.Fuse()
    special = [sign for number, sign in signs.items() if number > EOS]
    tokenizer.add_special_tokens(special)
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special,
        model_max_length=LENGTH,
        **roles,
    )
    found.chat_template = TEMPLATE.replace("SIGN", sign_of(name)).replace("FILM", film_of(name))
    return found


def _processor(name: str, entry: Any, model: Any, tokenizer: Any) -> Any:
    import transformers as t

    template = {"chat_template": tokenizer.chat_template}
    if name in GRIDDED:
        size = {"shortest_edge": 8 * 8 * 4, "longest_edge": 8 * 8 * 64}
        how = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": size}
        # vLLM normalises clips as images, whatever their own processor says; hubs have one for both
        how |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        kinds = {
            "qwen2_vl": (t.Qwen2VLProcessor, t.Qwen2VLVideoProcessor),
            "qwen2_5_vl": (t.Qwen2_5_VLProcessor, t.Qwen2VLVideoProcessor),
        }
        processor, video = kinds.get(name, (t.Qwen3VLProcessor, t.Qwen3VLVideoProcessor))
        return processor(t.Qwen2VLImageProcessor(**how), tokenizer, video(**how), **template)
    if name == "glm4v":
        how = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
        how["size"] = {"shortest_edge": 8 * 8 * 4 * 2, "longest_edge": 8 * 8 * 64 * 2}
        images, videos = t.Glm4vImageProcessor(**how), t.Glm4vVideoProcessor(**how)
        return t.Glm4vProcessor(images, tokenizer, videos, **template)
    side = model.config.vision_config.image_size
    if name == "internvl":
        square = {"height": side[0], "width": side[1]}
        images = t.GotOcr2ImageProcessor(size=square, crop_to_patches=True, max_patches=4)
        videos = t.InternVLVideoProcessor(size=square)
        return t.InternVLProcessor(images, tokenizer, videos, image_seq_length=16, **template)
    if name == "gemma3":
        images = t.Gemma3ImageProcessor(size={"height": side, "width": side})
        return t.Gemma3Processor(images, tokenizer, image_seq_length=36, **template)
    if name in TAGGED:
        # a real one enlarges images to four tiles along their longer edge
        edges = {"size": {"longest_edge": side * 2}, "max_image_size": {"longest_edge": side}}
        how = {"image_seq_len": 16, **template}
        if name == "idefics3":
            return t.Idefics3Processor(t.Idefics3ImageProcessor(**edges), tokenizer, **how)
        videos = t.SmolVLMVideoProcessor(**edges)
        return t.SmolVLMProcessor(t.SmolVLMImageProcessor(**edges), tokenizer, videos, **how)
    square = {"height": side, "width": side}
    if name.startswith("llava_") and name != "llava_siglip":
        pinpoints = model.config.image_grid_pinpoints
        how = {"size": {"shortest_edge": side}, "crop_size": square}
        how["image_grid_pinpoints"] = pinpoints
        if name == "llava_next":
            return t.LlavaNextProcessor(
                t.LlavaNextImageProcessor(**how),
                tokenizer,
                patch_size=4,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                **template,
            )
        how = {"size": square, "image_grid_pinpoints": pinpoints}
        return t.LlavaOnevisionProcessor(
            t.LlavaOnevisionImageProcessor(**how),
            tokenizer,
            t.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_9",
            **template,
        )
    images = t.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square)
    if name == "llava_siglip":
        images = t.SiglipImageProcessor(size=square)
    return t.LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1 if name == "llava" else 0,
        **template,
    )
