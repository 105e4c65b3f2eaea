"""What a denoising step of a diffusion model costs beside a full and a reduced prompt.

    python benchmarks/diffusion.py [--rounds 15] [--json]

DiffusionGemma encodes the prompt once; every denoising step then attends to its cached keys from
all tokens of a block. A model of its architecture at a moderate width with random weights (time
does not depend on them): six layers, five of them with the checkpoint's window of 512 columns,
blocks of 256 tokens. Prompts of one image of 256 visual tokens, and of sixteen. One CPU thread.
Only the step is timed, beside caches that were filled before.
"""

from __future__ import annotations

from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

import lftr

COMMAND = "python benchmarks/diffusion.py"
KEEPS = {"full": 1.0, "4x": 1 / 4, "16x": 1 / 16}
IMAGE, SIDE, WORDS = 8, 48, 40
TOKENS = (SIDE // 3) ** 2


def moderate() -> Any:
    """Six layers of width 512, two of eight experts a token."""
    text = {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "global_head_dim": 128,
        "sliding_window": 512,
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 256,
        "use_bidirectional_attention": "vision",
    }
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 64,
    }
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, image_token_id=IMAGE)
    torch.manual_seed(0)
    return DiffusionGemmaForBlockDiffusion(config).eval()


def prompt(images: int) -> dict[str, Any]:
    """Images with a word before each, and a question."""
    generator = torch.Generator().manual_seed(0)
    one = torch.full((TOKENS,), IMAGE)
    parts = [torch.cat([torch.tensor([20 + number]), one]) for number in range(images)]
    text = torch.randint(100, 8000, (WORDS,), generator=generator)
    ids = torch.cat([*parts, text]).unsqueeze(0)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.rand(images, SIDE * SIDE, 48, generator=generator),
        "image_position_ids": places.expand(images, -1, -1),
    }


@torch.inference_mode()
def steps(model: Any, images: int, rounds: int) -> dict[str, Any]:
    """Time one denoising step beside the cache of each prompt, in turns."""
    inputs = prompt(images)
    length, count = inputs["input_ids"].shape[1], model.config.canvas_length
    canvas = torch.randint(100, 8000, (1, count), generator=torch.Generator().manual_seed(1))
    places = torch.arange(length, length + count).unsqueeze(0)
    given = {"decoder_input_ids": canvas, "decoder_position_ids": places}
    caches, figures = [], {"images": images, "columns": length, "rows": {}}
    for keep in KEEPS.values():
        with lftr.reduce(model, "lftr", keep=keep):
            caches.append(model(**inputs, **given).past_key_values)
    times = paired([lambda c=c: model(past_key_values=c, **given) for c in caches], rounds)
    for name, cache, own in zip(KEEPS, caches, times, strict=True):
        figures["rows"][name] = {
            "cached": int(cache.get_seq_length()),
            "step_ms": median(own),
            "full_over": ratio(times[0], own),
        }
    return figures


def measure(rounds: int) -> list[dict[str, Any]]:
    """Measure prompts of one image and of sixteen."""
    model = moderate()
    return [steps(model, images, rounds) for images in (1, 16)]


def report(figures: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    rows = []
    for one in figures:
        for name, own in one["rows"].items():
            (middle, spread), (times, low, high) = own["step_ms"], own["full_over"]
            rows.append(
                [
                    f"{one['images']}",
                    name,
                    f"{own['cached']:,}",
                    f"{middle:.0f} ({spread:.0f})",
                    f"{times:.2f} ({low:.2f} to {high:.2f})",
                ]
            )
    head = ("images", "prompt", "columns", "step, ms (IQR)", "full over it (quartiles)")
    return table(head, rows)


if __name__ == "__main__":
    timed("diffusion", COMMAND, __doc__, 15, measure, report)
