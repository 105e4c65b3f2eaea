"""A small Qwen2.5-VL of the bundled model's widths, its processor, and its forward passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from architecture import IMAGE_SIDE, PATCH
from data import SLOT
from losses import Batch, packed_mask
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from vocabulary import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, USER, tokenizer

WIDTH, HEADS, HEAD = 256, 4, 64
GRID, SIDE = IMAGE_SIDE // PATCH // 2, IMAGE_SIDE // PATCH  # tokens and patches of a row
TOKENS = GRID**2
WINDOW = 8  # patches of a row of a window
ADDED = ("<vision_start>", "<vision_end>", "<video>")
START, END, VIDEO = range(len(tokenizer()), len(tokenizer()) + len(ADDED))
VOCABULARY = VIDEO + 1
BEFORE = 3  # tokens before the image: <s> <user> <vision_start>
PREFIX = BEFORE + TOKENS + 1
# Time has the two fastest of 32 frequencies, height the next six, width the rest. Both sides of an
# image are then a fair part of a turn of their fastest one.
SECTIONS = [2, 6, 24]
FULL = (1, 2, 4)  # blocks with full attention


def build(depth: int = 5, units: int = 792, layers: int = 8) -> Qwen2_5_VLForConditionalGeneration:
    """Make the model, of at most 25 MB in bfloat16."""
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 704,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": SECTIONS,
        },
    }
    vision = {
        "depth": depth,
        "hidden_size": WIDTH,
        "intermediate_size": units,
        "num_heads": HEADS,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": WINDOW * PATCH,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": list(FULL),
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)
    model.model.language_model.set_attn_implementation("packed")
    return model


class ImagesOnlyProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """Qwen2.5-VL's processor for images alone: its part for clips needs torchvision."""

    def __init__(
        self, image_processor: Any, tokenizer: Any, chat_template: str, **options: Any
    ) -> None:
        self.image_token, self.video_token = tokenizer.image_token, "<video>"
        self.image_token_id, self.video_token_id = IMAGE, VIDEO
        super(Qwen2_5_VLProcessor, self).__init__(
            image_processor, tokenizer, chat_template=chat_template
        )


def processor() -> ImagesOnlyProcessor:
    """Build the processor: a picture of any size is brought to the size of the scenes."""
    words = tokenizer()
    words.add_tokens([AddedToken(token, special=True) for token in ADDED], special_tokens=True)
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": IMAGE_SIDE**2, "longest_edge": IMAGE_SIDE**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    template = CHAT_TEMPLATE.replace("<image>", "<vision_start><image><vision_end>")
    return ImagesOnlyProcessor(images, words, template)


def export(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Write weights in bfloat16, and the tokenizer."""
    model = copy.deepcopy(model).to(torch.bfloat16)
    model.model.language_model.set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, do_sample=False
    )
    model.save_pretrained(folder)
    processor().save_pretrained(folder)


def load(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, ImagesOnlyProcessor]:
    """Read what `export` wrote, in float32, and build its processor."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), processor()


# Forward passes that equal plain inference. Patches are in the order of the encoder (windows, in
# them groups of 2x2 that become one token), unless said otherwise.


def order() -> Tensor:
    """Return the number of each patch, counted row by row, in the encoder's order."""
    windows, groups = SIDE // WINDOW, WINDOW // 2
    places = torch.arange(SIDE**2).view(windows, groups, 2, windows, groups, 2)
    return places.permute(0, 3, 1, 4, 2, 5).flatten()


def grouped(patches: Tensor) -> Tensor:
    """``(B, SIDE ** 2, C)`` row by row to ``(B, TOKENS, 4, C)``: the four of each token."""
    cells = patches.unflatten(1, (GRID, 2, GRID, 2))
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def squares(images: Tensor) -> Tensor:
    """Cut ``(B, 3, H, W)`` into patches, row by row: ``(B, SIDE ** 2, 3 * PATCH ** 2)``."""
    cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def embed(vision: Any, images: Tensor) -> Tensor:
    """Embed patches. Both moments that a patch has are the one picture."""
    weight = vision.patch_embed.proj.weight.sum(2).flatten(1)
    return squares(images)[:, order()] @ weight.T


def rotation(vision: Any) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the patches' places."""
    at = order()
    return vision.rotary_pos_emb(at, torch.stack((at // SIDE, at % SIDE), -1))


def attend(vision: Any, number: int, hidden: Tensor) -> Tensor:
    """Return what the heads of a block give, before its output map: as ``hidden``."""
    block, (cosine, sine) = vision.blocks[number], rotation(vision)
    qkv = block.attn.qkv(block.norm1(hidden)).unflatten(2, (3, HEADS, HEAD))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    query, key = (x * cosine + _half_turned(x) * sine for x in (query, key))
    if number in FULL:
        seen = F.scaled_dot_product_attention(query, key, value)
    else:
        apart = [x.unflatten(2, (-1, WINDOW**2)).transpose(1, 2) for x in (query, key, value)]
        seen = F.scaled_dot_product_attention(*apart).transpose(1, 2).flatten(2, 3)
    return seen.transpose(1, 2).flatten(2)


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def gated(mlp: Any, x: Tensor) -> Tensor:
    """Return the units of a gated MLP, before its output map."""
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


def see(vision: Any, images: Tensor) -> Tensor:
    """Run the encoder up to the merger: patches row by row, ``(B, SIDE ** 2, WIDTH)``."""
    hidden = embed(vision, images)
    for number, block in enumerate(vision.blocks):
        hidden = hidden + block.attn.proj(attend(vision, number, hidden))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return hidden[:, order().argsort()]


def merge(vision: Any, patches: Tensor) -> Tensor:
    """Run the merger on patches that stand row by row: ``(B, TOKENS, WIDTH)``."""
    return vision.merger.mlp(vision.merger.ln_q(grouped(patches)).flatten(2))


def places(words: int) -> Tensor:
    """M-RoPE positions of a prompt with an image and of packed questions: ``(3, PREFIX + words)``.

    The questions begin at the position after ``<vision_end>``, each as if it was alone.
    """
    before = torch.arange(BEFORE).expand(3, -1)
    row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    image = BEFORE + torch.stack((torch.zeros_like(row), row, column)).flatten(1)
    end = BEFORE + GRID
    after = torch.cat((torch.tensor([end]), end + 1 + torch.arange(words) % SLOT))
    return torch.cat((before, image, after.expand(3, -1)), 1)


def prompt(model: Any, tokens: Tensor, slots: Tensor) -> Tensor:
    """Embed a prompt with the visual ``tokens`` and packed questions behind it."""
    table = model.model.language_model.embed_tokens
    before, end = (table(torch.tensor(ids)).expand(len(tokens), -1, -1) for ids in _AROUND)
    return torch.cat((before, tokens, end, table(slots.flatten(1))), 1)


_AROUND = ([BOS, USER, START], [END])


def read(model: Any, tokens: Tensor, batch: Batch) -> Tensor:
    """Answer packed questions from visual tokens: ``(B, slots, 2, vocabulary)``, as `answer`."""
    language = model.model.language_model
    hidden = prompt(model, tokens, batch["slots"])
    words = hidden.shape[1] - PREFIX
    mask = packed_mask(PREFIX, torch.arange(words))[None, None]
    turned = language.rotary_emb(hidden, places(words)[:, None])
    for layer in language.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=turned)
    hidden = language.norm(hidden)[:, PREFIX:].unflatten(1, batch["slots"].shape[1:])
    at = torch.stack((batch["ask_at"], batch["ask_at"] + 1), -1)
    return model.lm_head(hidden.gather(2, at[..., None].expand(-1, -1, -1, WIDTH)))
