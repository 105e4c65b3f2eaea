"""A LoRA fine-tune under a reduction, with transformers' Trainer and checkpointed layers.

The model inside the package learns a new convention, 1 for yes and 0 for no, from a sixteenth of
its visual tokens. Needs PEFT and accelerate (pip install peft accelerate).

Run: python examples/finetune_lora.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

import lftr
from lftr import suites

CONVENTION = {"yes": "1", "no": "0"}


def collated(processor: Any, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Make a batch of questions and answers, of which only the answers are to be learned."""
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": example.image},
                    {"type": "text", "text": example.question},
                ],
            },
            {
                "role": "assistant",
                "content": [{"type": "text", "text": CONVENTION[example.answer]}],
            },
        ]
        for example in examples
    ]
    batch = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    ids = batch["input_ids"]
    turns = ids.eq(processor.tokenizer.convert_tokens_to_ids("<assistant>")).long()
    asked = (turns.cumsum(dim=1) - turns).eq(0) | batch["attention_mask"].eq(0)
    return {**batch, "labels": ids.masked_fill(asked, -100)}


def train(keep: float | None, steps: int) -> list[float]:
    """Fine-tune for some steps; return each one's loss. Without ``keep`` nothing is reduced."""
    model, processor = lftr.bundled.load()
    torch.manual_seed(0)
    adapters = LoraConfig(r=8, lora_alpha=64, target_modules=r".*language_model.*\.(q|k|v|o)_proj")
    model = get_peft_model(model, adapters)
    examples = [e for e in suites.load("scenes", "train", 400) if e.answer in CONVENTION]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=4,
                learning_rate=1e-3,
                lr_scheduler_type="constant",
                gradient_checkpointing=True,
                remove_unused_columns=False,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=0,
            ),
            train_dataset=examples,
            data_collator=lambda batch: collated(processor, batch),
        )
        with nullcontext() if keep is None else lftr.reduce(model, "lftr", keep=keep) as reduction:
            trainer.train()
            if reduction is not None:
                print(reduction.report)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    losses = train(keep=1 / 16, steps=16)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
