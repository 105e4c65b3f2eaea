"""A small LLaVA, and the CLIP text tower that its vision tower is trained against."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from vocabulary import (
    BOS,
    CHAT_TEMPLATE,
    CLIP_CHAT_TEMPLATE,
    EOS,
    IMAGE,
    PAD,
    clip_words,
    tokenizer,
)

from lftr.lab.suites.tracks import CLIP_SIDE

IMAGE_SIDE, PATCH = 192, 8


@dataclass(frozen=True)
class Size:
    """Widths and depths. The defaults are the shipped model's."""

    vision_width: int = 256
    vision_layers: int = 6
    language_width: int = 256
    language_layers: int = 7
    language_mlp: int = 704
    text_width: int = 128
    text_layers: int = 4
    projection: int = 128
    head: int = 64


SHIPPED = Size()
TINY = Size(32, 2, 32, 4, 64, 32, 1, 16, 16)


class Towers(nn.Module):
    """Everything that is shipped: the LLaVA model, the text tower and the shared projection."""

    def __init__(self, size: Size = SHIPPED) -> None:
        super().__init__()
        vocabulary = len(tokenizer())
        vision = CLIPVisionConfig(
            hidden_size=size.vision_width,
            intermediate_size=4 * size.vision_width,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=size.vision_width // size.head,
            projection_dim=size.projection,
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
            hidden_act="gelu",
        )
        language = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=size.language_width,
            intermediate_size=size.language_mlp,
            num_hidden_layers=size.language_layers,
            num_attention_heads=size.language_width // size.head,
            max_position_embeddings=2048,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            tie_word_embeddings=False,
        )
        text = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=size.text_width,
            intermediate_size=4 * size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=max(1, 2 * size.text_width // size.head),
            projection_dim=size.projection,
            hidden_act="gelu",
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
        self.llava = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=language,
                image_token_index=IMAGE,
                image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
                vision_feature_layer=-2,
                vision_feature_select_strategy="default",
                tie_word_embeddings=False,
                pad_token_id=PAD,
            )
        )
        self.text_tower = CLIPTextModelWithProjection(text)
        self.visual_projection = nn.Linear(size.vision_width, size.projection, bias=False)
        nn.init.normal_(self.visual_projection.weight, std=size.vision_width**-0.5)
        embedding = self.llava.get_input_embeddings()
        nn.init.normal_(embedding.weight, std=0.2)  # of the projected patches' order


class ClipTowers(nn.Module):
    """The clip model: the bundled one, on small frames, with more words.

    Parameters
    ----------
    start : Path, optional
        A folder that `export` wrote, to begin from. Its position embeddings are those of a larger
        picture: the top left corner is taken. Words that it does not know begin at random.
    """

    def __init__(self, size: Size = SHIPPED, start: Path | None = None) -> None:
        super().__init__()
        scenes = Towers(size)
        if start is not None:
            restore(scenes, start)
        old = scenes.llava
        known = tokenizer().get_vocab()
        spelled = tokenizer(known=clip_words()).get_vocab()
        config = copy.deepcopy(old.config)
        config.text_config.vocab_size = len(spelled)
        config.vision_config.image_size = CLIP_SIDE
        config.image_seq_length = (CLIP_SIDE // PATCH) ** 2
        self.llava = LlavaForConditionalGeneration(config)
        state = old.state_dict()
        new = self.llava.state_dict()
        rows = torch.tensor([known.get(token, -1) for token, _ in _by_id(spelled)])
        for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            drawn = torch.randn(new[name].shape) * state[name].std()
            state[name] = torch.where(rows[:, None] >= 0, state[name][rows.clamp(min=0)], drawn)
        (places,) = (name for name in state if name.endswith("position_embedding.weight"))
        state[places] = _corner(state[places], IMAGE_SIDE // PATCH, CLIP_SIDE // PATCH)
        state |= {name: new[name] for name in new if name.endswith("position_ids")}
        self.llava.load_state_dict(state)
        self.llava.model.vision_tower.requires_grad_(False)


def _by_id(vocabulary: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(vocabulary.items(), key=lambda entry: entry[1])


def _corner(places: torch.Tensor, grid: int, corner: int) -> torch.Tensor:
    """Keep the row of CLS and those of the ``corner x corner`` patches at the top left."""
    patches = places[1:].unflatten(0, (grid, grid))[:corner, :corner]
    return torch.cat((places[:1], patches.flatten(0, 1)))


def processor() -> LlavaProcessor:
    """Build the processor of the scenes."""
    return _processor(IMAGE_SIDE, tokenizer(), CHAT_TEMPLATE)


def clip_processor() -> LlavaProcessor:
    """Build the processor of the clips, whose template numbers the frames."""
    return _processor(CLIP_SIDE, tokenizer(known=clip_words()), CLIP_CHAT_TEMPLATE)


def _processor(side: int, words: PreTrainedTokenizerFast, template: str) -> LlavaProcessor:
    """PIL resizes the images, torchvision is not needed."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def export(towers: Towers, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write what `lftr.bundled` loads: a LLaVA folder with the text tower in ``text_tower/``."""
    _export(towers.llava, processor(), folder, dtype)
    tower = folder / "text_tower"
    tokenizer(closed=True).save_pretrained(tower)
    copy.deepcopy(towers.text_tower).to(dtype).save_pretrained(tower)
    weight = towers.visual_projection.weight.detach().to("cpu", dtype).contiguous()
    save_file({"weight": weight}, tower / "visual_projection.safetensors")
    _readable(folder)


def export_clips(towers: ClipTowers, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the clip model that `lftr.bundled` loads."""
    _export(towers.llava, clip_processor(), folder, dtype)
    _readable(folder)


def _export(
    llava: LlavaForConditionalGeneration, words: LlavaProcessor, folder: Path, dtype: torch.dtype
) -> None:
    llava = copy.deepcopy(llava).to(dtype)
    llava.model.language_model.set_attn_implementation("sdpa")
    llava.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    words.save_pretrained(folder)
    llava.save_pretrained(folder)


def _readable(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def restore(towers: Towers, folder: Path) -> None:
    """Read back what `export` wrote."""
    llava = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    towers.llava.load_state_dict(llava.state_dict())
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_tower", dtype=torch.float32)
    towers.text_tower.load_state_dict(text.state_dict())
    weight = load_file(folder / "text_tower" / "visual_projection.safetensors")["weight"]
    towers.visual_projection.weight.data.copy_(weight)
