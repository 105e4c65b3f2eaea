"""Score the bundled model on the test split: ``python training/evaluate.py [--n 1600]``.

Full: plain ``generate``, eight questions at a time. Random: one forward pass over a few patches of
each image, chosen blindly, at their own positions; what any selection has to beat.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from data import encode
from losses import answer, see

from lftr import bundled, suites
from lftr.suites import Example


def generate(model: Any, processor: Any, examples: list[Example]) -> list[str]:
    """Answer from all visual tokens, as anyone would."""
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": example.image},
                    {"type": "text", "text": example.question},
                ],
            }
        ]
        for example in examples
    ]
    inputs = processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )
    ids = model.generate(**inputs.to(model.device, model.dtype))
    said = ids[:, inputs["input_ids"].shape[1] :]
    return [str(text) for text in processor.batch_decode(said, skip_special_tokens=True)]


def guess(
    model: Any, processor: Any, examples: list[Example], keep: int, generator: torch.Generator
) -> list[str]:
    """Answer from ``keep`` random visual tokens."""
    images = processor.image_processor([e.image for e in examples], return_tensors="pt")
    slots, at = zip(*(encode(e.question, e.answer) for e in examples), strict=True)
    batch = {
        "slots": torch.stack([torch.from_numpy(slot) for slot in slots])[:, None],
        "ask_at": torch.tensor(at)[:, None],
    }
    model.model.language_model.set_attn_implementation("packed")
    patches, _ = see(SimpleNamespace(llava=model), images["pixel_values"].to(model.dtype))
    kept: Tensor = torch.rand(patches.shape[:2], generator=generator).topk(keep, 1).indices
    logits = answer(SimpleNamespace(llava=model), patches, batch, kept.sort(1).values)
    model.model.language_model.set_attn_implementation("sdpa")
    return [str(text) for text in processor.batch_decode(logits[:, 0, :1].argmax(-1))]


@torch.no_grad()
def main() -> None:
    """Read the command line and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1600, help="questions")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--keep", type=int, default=36, help="random visual tokens, of 576")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model, processor = bundled.load()
    examples = suites.load("scenes", split="test", n=chosen.n)
    generator = torch.Generator().manual_seed(0)
    right: dict[str, dict[str, list[bool]]] = {
        "full": defaultdict(list),
        "random": defaultdict(list),
    }
    spent = 0.0
    for start in range(0, chosen.n, chosen.batch):
        some = list(examples[start : start + chosen.batch])
        before = time.process_time()
        said = {"full": generate(model, processor, some)}
        spent += time.process_time() - before
        said["random"] = guess(model, processor, some, chosen.keep, generator)
        for way, texts in said.items():
            for example, text in zip(some, texts, strict=True):
                right[way][example.category].append(example.is_correct(text))
    scores = {
        way: {category: sum(hits) / len(hits) for category, hits in found.items()}
        for way, found in right.items()
    }
    for table in scores.values():
        table["all"] = sum(table.values()) / len(table)
    relative = scores["random"]["all"] / scores["full"]["all"]
    seconds = spent / chosen.n
    print(json.dumps({**scores, "relative": relative, "cpu_seconds_a_question": seconds}, indent=1))


if __name__ == "__main__":
    main()
