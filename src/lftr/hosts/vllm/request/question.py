"""The text of a prompt that guides methods, which an item is known by in vLLM's caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.hasher import MultiModalHasher

from ....values.errors import ArgumentError
from ...transformers.families import Family
from ...transformers.prompt.text_evidence import mark_ids
from ..architectures import architecture_of
from .request_setting import Guide

MOST_IDS = 2048
"""The most ids of a text that guides a method, and of texts that are embedded at the same time.

An id becomes a row of the language model's width, beside what vLLM has planned memory for.
"""


class Questions:
    """Finds the text that guides methods, in the prompts of a model's requests.

    It is the text that guides on transformers: what is neither the place of an item nor a mark
    (begin, end, padding, those around items).

    Parameters
    ----------
    info : vllm.multimodal.processing.BaseProcessingInfo
        What vLLM's processor knows of the model.
    """

    def __init__(self, info: Any) -> None:
        config = info.get_hf_config()
        generation = SimpleNamespace(**info.ctx.model_config.try_get_generation_config())
        self.info = info
        self.model: Any = SimpleNamespace(config=config)  # all that families look for places in
        self.family = Family.registry[architecture_of(config).model_type]
        self.marks = torch.tensor(mark_ids(config, generation), dtype=torch.int64)

    def of_items(
        self, prompt: Sequence[int], counts: Mapping[str, int], guide: Guide
    ) -> dict[str, list[Tensor]]:
        """Return the text that guides the choice in each item, int32 ``(L,)``, by medium.

        Parameters
        ----------
        prompt : sequence of int
            The prompt's ids, with one placeholder for each item; vLLM has checked their number.
        counts : mapping
            The number of items of each medium.
        guide : {"last", "first"}
            Whether it is all text of the prompt, or the text up to the first answer after the item.

        Raises
        ------
        ArgumentError
            If there is no text, or one of more than `MOST_IDS` ids.
        """
        ids = torch.tensor(prompt, dtype=torch.int64)
        words = ~self.family.visual(self.model, ids[None])[0] & ~torch.isin(ids, self.marks)
        questions: dict[str, list[Tensor]] = {}
        for medium in self.family.media:
            count = counts.get(medium.name, 0)
            ends = [len(ids)] * count
            if guide == "first" and count:
                places = medium.placeholders(self.model, ids[None])[0].nonzero()[:, 0].tolist()
                ends = [self._first_answer(ids, place) for place in places[:count]]
                ends += [len(ids)] * (count - len(ends))  # refused later: items without a place
            questions[medium.name] = [ids[:end][words[:end]].int() for end in ends]
        lengths = {len(text) for texts in questions.values() for text in texts}
        if max(lengths, default=0) > MOST_IDS:
            raise ArgumentError(
                f"a text of {max(lengths)} tokens would guide the method; allowed: {MOST_IDS} "
                "(with \"guide\": \"first\" the text after the first answer does not count), or a "
                "method that asks for none"
            )
        if 0 in lengths:
            raise ArgumentError(
                "the prompt has no text; allowed: text for the method to be guided by, or a method "
                "that asks for none"
            )
        return questions

    def _first_answer(self, ids: Tensor, place: int) -> int:
        """Return where the first answer after a place begins; the prompt's end if none is there."""
        mark = self.answer_mark
        if len(ids) - place < len(mark):
            return len(ids)
        begins = (ids[place:].unfold(0, len(mark), 1) == mark).all(dim=1).nonzero()[:, 0]
        return place + int(begins[0]) + len(mark) if len(begins) else len(ids)

    @cached_property
    def answer_mark(self) -> Tensor:
        """The ids with which the chat template lets an answer begin, int64 ``(L,)``.

        Raises
        ------
        ArgumentError
            If there is no template, or it has no such words.
        """
        tokenizer, processor = self.info.get_tokenizer(), self.info.get_hf_processor()
        template = getattr(processor, "chat_template", None)
        content: Any = "x" if template is None else [{"type": "text", "text": "x"}]
        templated = tokenizer if template is None else processor
        ids: list[int] = []
        before: list[int] = []
        if getattr(templated, "chat_template", None) is not None:
            talk = [{"role": "user", "content": content}]
            before, ids = (
                tokenizer.encode(
                    templated.apply_chat_template(talk, add_generation_prompt=ends, tokenize=False),
                    add_special_tokens=False,
                )
                for ends in (False, True)
            )
        pairs = enumerate(zip(ids, before, strict=False))
        common = next((i for i, (token, other) in pairs if token != other), len(before))
        if len(ids) <= common:
            raise ArgumentError.of(
                "guide",
                "first",
                "'last', since this model's chat template does not mark where an answer begins",
            )
        return torch.tensor(ids[common:], dtype=torch.int64)


def guided_hash(item: str, question: Tensor, algorithm: Any) -> str:
    """Return the hash of an item under a text, from its hash without one."""
    return str(MultiModalHasher.hash_kwargs(algorithm, item=item, question=question.numpy()))
