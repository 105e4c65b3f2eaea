"""Training through a reduction: labels follow their tokens, and gradients reach everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from zoo.base import VOCAB

import lftr

from .oracle import gathered
from .support import Prompt, ZooEntry, distance, fresh, reduced


def labelled(prompt: Prompt, side: Any) -> dict[str, Any]:
    inputs = prompt.inputs(side)
    ids = inputs["input_ids"]
    first = inputs["attention_mask"].cumsum(dim=1) <= 1  # nothing real is before it
    ignored = (inputs["attention_mask"] == 0) | prompt.visual(ids) | first
    ignored |= ids >= VOCAB  # Molmo 2's marks, which no head predicts
    return inputs | {"labels": ids.masked_fill(ignored, -100)}


def true_loss(prompt: Prompt, choices: list[Any]) -> Tensor:
    logits, labels = [], []
    for row, chosen in enumerate(choices):
        inputs = labelled(prompt.alone(row), "left")
        visual = prompt.visual(inputs["input_ids"][0])
        keep, found = gathered(prompt.model, inputs, visual, chosen, placed=prompt.placed(row))
        logits.append(found[:-1])
        labels.append(inputs["labels"][0, keep][1:])
    return cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=-100)


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss(entry: ZooEntry, side: str) -> None:
    prompt = Prompt(entry)
    plain = prompt.model(**labelled(prompt, side)).loss
    with reduced(prompt.model) as run:
        loss = prompt.model(**labelled(prompt, side)).loss
    choices = [run.choices(row) for row in range(len(prompt.rows))]
    assert distance(loss, true_loss(prompt, choices)) < 5e-5
    assert distance(loss, plain) > 2e-4


def test_training_step(entry: ZooEntry) -> None:
    """A step down the gradient, vision tower included, lowers the loss."""
    prompt = Prompt(entry, model=fresh(entry))
    model = prompt.model.requires_grad_(True)
    inputs = labelled(prompt, "right")
    tower = [p for n, p in model.named_parameters() if "vision" in n or "visual" in n]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.enable_grad(), lftr.reduce(model, "random", keep=0.4):
        before = model(**inputs).loss
        before.backward()
        reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in tower)
        assert reached != entry.traits.codes  # a code has no gradient
        optimizer.step()
        after = model(**inputs).loss
    assert after < before
