"""Embeddings under reduction, and the index built on them."""

from __future__ import annotations

import pytest
import torch

from lftr.lab.evaluation import cosine, embed_all, load_data, recall_agreement, settings_grid
from lftr.methods import get_method
from lftr.prompting import inputs_of
from lftr.values.errors import ArgumentError


def test_cosine_is_row_by_row():
    full = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    reduced = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, -1.0]])
    assert cosine(full, reduced).tolist() == pytest.approx([1, 0, -1])


def test_recall_agreement_counts_what_both_find():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1])
    full = torch.stack([angles.cos(), angles.sin()], 1)
    assert recall_agreement(full, 5 * full, k=2).tolist() == [1] * 5
    moved = full.clone()
    moved[1] = -full[0]  # leaves the first three
    # in full 0 finds 1 and 2; in moved 2 and 3; and so on
    assert recall_agreement(full, moved, k=2).tolist() == [0.5, 0.0, 0.5, 0.5, 0.5]


def test_queries_of_another_kind_look_in_both():
    index = torch.eye(4)
    swapped = index[[1, 0, 2, 3]]
    queries = torch.tensor([[1.0, 0.1, 0.0, 0.0], [0.0, 0.0, 1.0, 0.1]])
    assert recall_agreement(index, swapped, k=1, queries=queries).tolist() == [0, 1]
    assert recall_agreement(index, swapped, k=2, queries=queries).tolist() == [1, 1]


def test_what_cannot_be_compared_is_named():
    with pytest.raises(ArgumentError, match=r"reduced = "):
        cosine(torch.zeros(2, 3), torch.zeros(3, 3))
    for k in (0, 3):
        with pytest.raises(ArgumentError, match=r"k = .*from 1 to 2"):
            recall_agreement(torch.zeros(3, 2), torch.zeros(3, 2), k=k)


def test_embeddings_are_the_last_state_of_the_prompt(subject):
    data = load_data("scenes", split="validation", n=4)
    settings = settings_grid([get_method("lftr")], [1 / 4], controls=["random"])
    full, own, random = embed_all(subject.model, subject.processor, data.items, settings, batch=3)
    item = data.items[1]
    with torch.inference_mode():
        inputs = inputs_of(subject.processor, item.images, item.question)
        states = subject.model(**inputs, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(full[1], states[0, -1])
    assert full.shape == own.shape == (4, states.shape[-1])
    assert cosine(full, full).min() > 0.9999
    assert 0 < cosine(full, random).mean() < cosine(full, own).mean() < 0.99999
    assert recall_agreement(full, own, k=3).tolist() == [1] * 4  # all there are
