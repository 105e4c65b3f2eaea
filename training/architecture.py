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
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from vocabulary import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, tokenizer

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
TINY = Size(32, 2, 32, 2, 64, 32, 1, 16, 16)


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


def processor() -> LlavaProcessor:
    """Build the processor; PIL resizes the images, torchvision is not needed."""
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE},
        crop_size=side,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def export(towers: Towers, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write what `lftr.bundled` loads: a LLaVA folder with the text tower in ``text_tower/``."""
    towers = copy.deepcopy(towers).to(dtype)
    towers.llava.model.language_model.set_attn_implementation("sdpa")
    towers.llava.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    processor().save_pretrained(folder)
    tokenizer(closed=True).save_pretrained(folder / "text_tower")
    towers.llava.save_pretrained(folder)
    towers.text_tower.save_pretrained(folder / "text_tower")
    save_file(
        {"weight": towers.visual_projection.weight.detach().cpu().contiguous()},
        folder / "text_tower" / "visual_projection.safetensors",
    )
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
