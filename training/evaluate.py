"""Score a bundled model on the test split: ``python training/evaluate.py [--suite clips]``.

Full: plain ``generate``, eight questions at a time. Random: one forward pass over a few patches of
each example, chosen blindly, at their own positions; what any selection has to beat. Blind: the
usual answer to the very question, or to its category, in the train split; nothing is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from clip_losses import answer_clip, see_clip
from data import encode
from losses import Batch, answer, pixels, see

from lftr import bundled, suites

Choose = Callable[[Tensor], Tensor]


def generate(model: Any, processor: Any, examples: Sequence[Any]) -> list[str]:
    """Answer from all visual tokens, as anyone would."""
    chats = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": image} for image in example.images),
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


def answer_scenes(model: Any, images: Tensor, batch: Batch, choose: Choose) -> Tensor:
    """Logits from some patches of each scene."""
    patches, _ = see(model, pixels(images[:, 0]))
    return answer(model, patches, batch, choose(patches))


def answer_clips(model: Any, images: Tensor, batch: Batch, choose: Choose) -> Tensor:
    """Logits from some patches of each clip."""
    patches = see_clip(model, images)
    return answer_clip(model, patches, batch, choose(patches.flatten(1, 2)))[0]


@dataclass(frozen=True)
class Subject:
    """What differs between the suites."""

    answer: Callable[[Any, Tensor, Batch, Choose], Tensor]
    tokens: int


SUBJECTS = {"scenes": Subject(answer_scenes, 576), "clips": Subject(answer_clips, 800)}


def glimpse(
    suite: str, model: Any, processor: Any, examples: Sequence[Any], choose: Choose
) -> list[str]:
    """Answer from the visual tokens that ``choose`` leaves."""
    slots, at = zip(
        *(encode(e.question, e.answer, clips=suite == "clips") for e in examples), strict=True
    )
    batch = {
        "slots": torch.stack([torch.from_numpy(slot) for slot in slots])[:, None],
        "ask_at": torch.tensor(at)[:, None],
    }
    images = torch.from_numpy(np.stack([[np.asarray(i) for i in e.images] for e in examples]))
    language = model.model.language_model
    language.set_attn_implementation("packed")
    logits = SUBJECTS[suite].answer(SimpleNamespace(llava=model), images, batch, choose)
    language.set_attn_implementation("sdpa")
    return [str(text) for text in processor.batch_decode(logits[:, 0, :1].argmax(-1))]


def blind(suite: str, n: int) -> Callable[[Any], str]:
    """Learn from ``n`` examples of the train split what is usually answered."""
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for example in suites.load(suite, "train", n):
        known[example.question][example.answer] += 1
        known[example.category][example.answer] += 1

    def usual(example: Any) -> str:
        found = known.get(example.question) or known[example.category]
        return max(example.choices, key=lambda choice: found[choice])

    return usual


@torch.no_grad()
def main() -> None:
    """Read the command line and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUBJECTS, default="scenes")
    parser.add_argument("--n", type=int, default=1600, help="questions")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--keep", type=int, help="random visual tokens; a sixteenth by default")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep = chosen.keep or SUBJECTS[chosen.suite].tokens // 16
    model, processor = bundled.load(name=chosen.suite)
    examples = suites.load(chosen.suite, "test", chosen.n)
    generator = torch.Generator().manual_seed(0)
    usual = blind(chosen.suite, 2 * chosen.n)

    def choose(patches: Tensor) -> Tensor:
        chance = torch.rand(patches.shape[:2], generator=generator)
        return chance.topk(keep, 1).indices.sort(1).values

    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    spent = 0.0
    for start in range(0, chosen.n, chosen.batch):
        some = list(examples[start : start + chosen.batch])
        before = time.process_time()
        said = {"full": generate(model, processor, some)}
        spent += time.process_time() - before
        said["random"] = glimpse(chosen.suite, model, processor, some, choose)
        said["blind"] = [usual(example) for example in some]
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
