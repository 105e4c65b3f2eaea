"""The text of a prompt that guides methods, which an item is known by in vLLM's caches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
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


def with_images(ids: Iterable[int], mark: int, images: Iterator[list[int]]) -> list[int]:
    """Return a prompt's ids with each image's ids in the place of its mark.

    Marks beyond the last image stay; such a prompt is refused later.
    """
    there = ([one] if one != mark else next(images, [one]) for one in ids)
    return list(chain.from_iterable(there))


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
        text = self._words(ids)
        questions: dict[str, list[Tensor]] = {}
        for medium in self.family.media:
            count = counts.get(medium.name, 0)
            texts = [text] * count
            if guide == "first" and count:
                places = medium.placeholders(self.model, ids[None])[0].nonzero()[:count, 0]
                texts[: len(places)] = self._up_to_answers(ids, places)  # others are refused later
            questions[medium.name] = texts
        lengths = {len(text) for texts in questions.values() for text in texts}
        if max(lengths, default=0) > MOST_IDS:
            raise ArgumentError(
                f"a text of {max(lengths)} tokens would guide the method; allowed: {MOST_IDS} "
                '(with "guide": "first" the text after the first answer does not count), or a '
                "method that asks for none"
            )
        if 0 in lengths:
            raise ArgumentError(
                "the prompt has no text; allowed: text for the method to be guided by, or a method "
                "that asks for none"
            )
        return questions

    def _words(self, ids: Tensor) -> Tensor:
        """Return the ids that are text, int32 ``(L,)``."""
        skipped = self.family.visual(self.model, ids[None])[0] | torch.isin(ids, self.marks)
        return ids[~skipped].int()

    def _up_to_answers(self, ids: Tensor, places: Tensor) -> list[Tensor]:
        """Return for each place the text up to the first answer after it, or all text.

        It ends as the prompt did that asked for this answer: with the whole generation prompt.
        """
        mark, generation = self.answer_mark, self.generation_prompt
        begins = torch.empty(0, dtype=torch.int64)
        if len(ids) >= len(mark):
            begins = (ids.unfold(0, len(mark), 1) == mark).all(dim=1).nonzero()[:, 0]
        first = torch.searchsorted(begins, places).tolist()
        ends = {i: torch.cat([ids[: begins[i]], generation]) for i in set(first) if i < len(begins)}
        texts = {i: self._words(ends.get(i, ids)) for i in set(first)}
        return [texts[i] for i in first]

    @cached_property
    def generation_prompt(self) -> Tensor:
        """The ids that the chat template appends where it asks for an answer, int64 ``(L,)``."""
        return torch.tensor(self._after_question(True), dtype=torch.int64)

    @cached_property
    def answer_mark(self) -> Tensor:
        """The ids with which the chat template lets every answer begin, int64 ``(L,)``.

        An answer that is asked for may begin with more (``<think>``) than an earlier one does, and
        the last line break may become one token with those of the answer.

        Raises
        ------
        ArgumentError
            If there is no template, or it has no such words.
        """
        generation = self.generation_prompt.tolist()
        mark = generation[: _alike(generation, self._after_question(False))]
        tokenizer = self.info.get_tokenizer()
        while mark and not tokenizer.decode(mark[-1:]).strip():
            mark.pop()
        if not mark:
            raise ArgumentError.of(
                "guide",
                "first",
                "'last', since this model's chat template does not mark where an answer begins",
            )
        return torch.tensor(mark, dtype=torch.int64)

    def _after_question(self, asks: bool) -> list[int]:
        """Return the ids that the chat template has after a question.

        Parameters
        ----------
        asks : bool
            Whether it asks for an answer; otherwise an answer and another question follow, since
            templates may write the last answer in another way.
        """
        tokenizer, processor = self.info.get_tokenizer(), self.info.get_hf_processor()
        template = getattr(processor, "chat_template", None)
        templated = tokenizer if template is None else processor
        if getattr(templated, "chat_template", None) is None:
            return []
        content: Any = "x" if template is None else [{"type": "text", "text": "x"}]
        roles = ("user", "assistant", "user")
        talk = [{"role": role, "content": content} for role in roles]

        def encoded(messages: list[dict[str, Any]], ends: bool) -> list[int]:
            text = templated.apply_chat_template(
                messages, add_generation_prompt=ends, tokenize=False
            )
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
            return ids

        question = encoded(talk[:1], False)
        whole = encoded(talk[:1], True) if asks else encoded(talk, False)
        return whole[_alike(question, whole) :]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids two prompts begin with alike."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def guided_hash(item: str, question: Tensor, algorithm: Any) -> str:
    """Return the hash of an item under a text, from its hash without one."""
    return str(MultiModalHasher.hash_kwargs(algorithm, item=item, question=question.numpy()))
