"""What a frozen model teaches: its answers to prompts, their logits, and its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...hosts.transformers.api import end_tokens
from ...hosts.transformers.families import family_of
from ...values.errors import ArgumentError
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from .trainee import Trainee

_IGNORED = -100  # label of what is not part of an answer
# Arguments with a value for each column, of which what stands for padding is known
_PADDED = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True)
class Lesson:
    """A batch of prompts with their answers, as the full model sees them.

    Attributes
    ----------
    inputs : mapping
        Arguments of the model: the prompts, and the answers in the last columns.
    answered : Tensor of bool, shape (B, A)
        Which of the last columns belong to an answer.
    logits : Tensor, shape (B, A, V)
        The full model's logits for them.
    visual : Tensor of bool, shape (B, L)
        Which columns are visual tokens.
    states : list of Tensor, shape (N, C)
        The last hidden states of each item's tokens.
    tokens : list of VisualTokens
        What a method sees of each item.
    """

    inputs: Mapping[str, Any]
    answered: Tensor
    logits: Tensor
    visual: Tensor
    states: Sequence[Tensor]
    tokens: Sequence[VisualTokens]

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: Any, trainee: Trainee, inputs: Mapping[str, Any], max_new_tokens: int
    ) -> Lesson:
        """Let the full model answer; answers in ``labels`` are taken in place of its own.

        Parameters
        ----------
        trainee : Trainee
            The method that reduces ``model``; it keeps all tokens here.

        Raises
        ------
        ArgumentError
            If a prompt has no image, the batch is not padded on the left, or the answers in
            ``labels`` do not follow the prompts.
        """
        inputs = dict(inputs)
        ids, labels = inputs["input_ids"], inputs.pop("labels", None)
        mask = inputs.setdefault("attention_mask", torch.ones_like(ids))
        if not bool(mask[:, -1].all()):
            raise ArgumentError.of("data", "a batch padded on the right", "padding on the left")
        trainee.choices, trainee.tokens = [], []
        if labels is None:
            whole, answered, logits, last = _generated(model, inputs, max_new_tokens)
        else:
            whole, answered, logits, last = _labelled(model, inputs, labels)
        if not trainee.tokens:
            raise ArgumentError.of("data", sorted(inputs), "inputs with an image")
        media = family_of(model).media
        places = [medium.placeholders(model, whole["input_ids"]) for medium in media]
        visual = torch.stack(places).any(dim=0)
        rows = last[visual[:, : last.shape[1]]]
        states = rows.split([one.count for one in trainee.tokens])
        return cls(whole, answered, logits, visual, states, trainee.tokens)


@torch.no_grad()
def with_answers(model: Any, inputs: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Return inputs with the model's own answers after the prompts, and their ``labels``."""
    longer, answered, _, _ = _generated(model, inputs, max_new_tokens)
    ids = longer["input_ids"]
    places = torch.nn.functional.pad(answered, (ids.shape[1] - answered.shape[1], 0))
    return longer | {"labels": ids.masked_fill(~places, _IGNORED)}


def _generated(
    model: Any, inputs: Mapping[str, Any], max_new_tokens: int
) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """Return the inputs with the model's own answers, see `Lesson`, and its last states."""
    out = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
        output_hidden_states=True,
    )
    ids = inputs["input_ids"]
    inputs = {"attention_mask": torch.ones_like(ids), **inputs}
    answers = out.sequences[:, ids.shape[1] :]
    ends = torch.tensor(end_tokens(model), dtype=ids.dtype, device=ids.device)
    ended = torch.isin(answers, ends)
    answered = ended.cumsum(dim=1) - ended.long() == 0  # the first end belongs to the answer
    longer = _continued(inputs, answers)
    logits = torch.stack(out.logits, dim=1)
    return longer, answered, logits, out.hidden_states[0][-1]


def _labelled(
    model: Any, inputs: Mapping[str, Any], labels: Tensor
) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """Return the same for the answers in ``labels``, which are part of the inputs."""
    mask = inputs["attention_mask"]
    taught = (labels != _IGNORED) & mask.bool()
    starts = taught.int().argmax(dim=1)
    first = int(starts.min())
    if not first or not bool(taught.any(dim=1).all()):
        raise ArgumentError.of("data", labels.tolist(), "labels of an answer after each prompt")
    prompts = _prompts(inputs, starts)
    out = model(**inputs, output_hidden_states=True, use_cache=False)
    model(**prompts, use_cache=False)  # shows the tokens once more, with the question alone
    return (
        dict(inputs),
        taught[:, first:],
        out.logits[:, first - 1 : -1],
        out.hidden_states[-1],
    )


def _prompts(inputs: Mapping[str, Any], starts: Tensor) -> dict[str, Any]:
    """Return the inputs before each row's answer, padded on the left again.

    Parameters
    ----------
    starts : Tensor of int64, shape (B,)
        The column at which each row's answer begins.

    Raises
    ------
    ArgumentError
        If rows need padding, and an argument with a value for each column has none.
    """
    ids, prompts = inputs["input_ids"], dict(inputs)
    width = int(starts.max())
    columns = torch.arange(width, device=ids.device) - (width - starts).unsqueeze(1)
    padding = columns < 0
    padded = bool(padding.any())
    for name, x in inputs.items():
        if not isinstance(x, Tensor) or ids.shape not in (x.shape[:2], x.shape[-2:]):
            continue
        if x.shape[-2:] != ids.shape or (padded and not name.endswith(_PADDED)):
            allowed = f"answers of one length, or no {name}, for which no padding is known"
            raise ArgumentError.of("data", f"labels beside {name} {tuple(x.shape)}", allowed)
        cut = x.gather(-1, columns.clamp_min(0).expand(*x.shape[:-1], width))
        # the mask hides the padding; its ids are of the answer, since those of an image would count
        fill = ids.gather(1, starts.unsqueeze(1)) if name == "input_ids" else 0
        prompts[name] = torch.where(padding, fill, cut)
    return prompts


def _continued(inputs: Mapping[str, Any], answers: Tensor) -> dict[str, Any]:
    """Return the inputs with answers after the prompts, which are text."""
    ids, longer = inputs["input_ids"], dict(inputs)
    for name, x in inputs.items():
        if not isinstance(x, Tensor) or x.shape[-2:] != ids.shape:
            continue
        if name == "input_ids":
            more = answers
        elif name == "attention_mask":
            more = torch.ones_like(answers)
        elif name == "position_ids":  # (B, L), or (axes, B, L)
            further = torch.arange(1, answers.shape[1] + 1, device=x.device)
            more = x.amax(dim=-1, keepdim=True) + further
        else:
            more = torch.zeros_like(answers)  # the token type of text
        longer[name] = torch.cat([x, more.to(x.dtype)], dim=-1)
    return longer


def visual_states(lesson: Lesson, last: Tensor, choices: Sequence[Selection]) -> list[Tensor]:
    """Return the states ``(K, C)`` of each item's slots in the last states of the reduced model.

    Parameters
    ----------
    last : Tensor, shape (B, L', C)
        The states of the shorter prompts, which are padded on the left.
    choices : sequence of Selection
        The decision about each item.
    """
    kept = lesson.inputs["attention_mask"].bool().clone()
    anchors, start = [], 0
    for one, choice in zip(lesson.tokens, choices, strict=True):
        anchors.append(choice.index + start)
        start += one.count
    marks = torch.zeros(start, dtype=torch.bool, device=kept.device)
    marks[torch.cat(anchors)] = True
    kept = kept.masked_scatter(lesson.visual, marks)
    rows = []
    for row, columns in enumerate(kept):
        slots = lesson.visual[row, columns]
        rows.append(last[row, last.shape[1] - len(slots) :][slots])
    return list(torch.cat(rows).split([choice.count for choice in choices]))
