"""Read a request's setting and shorten the placeholders of its items, before it is encoded.

vLLM plans memory and steps from the prompt's placeholders alone. Each item's count is therefore
computed here, from its size. The setting is passed with the item to the model, which chooses.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldConfig
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems, VideoProcessorItems
from vllm.multimodal.processing import (
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from ....values.errors import ArgumentError, LftrError
from .. import api
from ..architectures import architecture_of, provided
from ..metrics import Counters, Repeats
from ..start_options import StartOptions
from .question import MOST_IDS, Questions, guided_hash
from .request_setting import (
    KEY,
    QUESTIONS,
    RequestSetting,
    field_of,
    of_server,
    question_field_of,
    read,
    setting_of,
    size_field_of,
)

MEDIA = ("image", "video")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Shortened(PromptUpdateDetails):
    """An item's placeholders: ``kept`` of ``total``.

    Where kept tokens keep their positions the whole item takes ``reach``, whatever is kept.
    """

    total: int = 0
    kept: int = 0
    method: str = ""
    reach: int = 0


class WholeItems(BaseProcessingInfo):
    """Reports the sizes of items of which a request keeps every token."""

    def validate_num_items(self, modality: str, num_items: int) -> None:
        """Refuse videos where lftr has none, with the reason; vLLM's is a number alone.

        Raises
        ------
        ArgumentError
            If there are videos; the server answers with status 400.
        """
        if modality == "video" and num_items and "video" not in self.supported_mm_limits:
            stock = architecture_of(self.get_hf_config()).stock
            raise ArgumentError(
                f"videos of {stock} are not reduced on vLLM; allowed: their frames as images"
            )
        super().validate_num_items(modality, num_items)

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Return the most tokens of an item of each modality, without reduction.

        vLLM would otherwise count the placeholders of its dummy inputs, which are reduced.
        """
        sizes: Mapping[str, int] | None = super().get_mm_max_tokens_per_item(seq_len, mm_counts)
        if sizes is not None:
            return sizes
        most: dict[str, Callable[[], int]] = {
            "image": self.get_max_image_tokens,
            "video": lambda: self.get_max_video_tokens(seq_len, mm_counts),
        }
        return {modality: most[modality]() for modality in mm_counts}


def _noted(function: F) -> F:
    """Note calls of a method of `Shortening`, until their order has been checked once."""

    @functools.wraps(function)
    def noted(processor: Shortening, *args: Any, **kwargs: Any) -> Any:
        if processor._calls is not None:
            processor._calls.append(function.__name__)
        return function(processor, *args, **kwargs)

    return noted  # type: ignore[return-value]


class Shortening(BaseMultiModalProcessor):
    """Reads the settings of requests, and shortens the placeholders of their items."""

    one_run: ClassVar[bool] = False
    """Whether a shortened item with text of its own is one run of placeholders, text included.

    How many tokens an item keeps is known before it is encoded, but not from which of its frames or
    tiles, so the places of text between these are not known either. The model returns embeddings
    for the whole run.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.info.get_hf_config()
        mode = self.info.ctx.get_mm_config().mm_encoder_tp_mode
        self.started = StartOptions.of(config)
        self.provided = provided(config, mode == "data", self.started.text_tower)
        self.weighted = self.started.weights > 0
        self.server = of_server(getattr(config, KEY, None), self.provided, self.weighted)
        if self.server.guide == "first":
            _ = self.questions.answer_mark  # refused at start where there is none
        self._profiling = False
        self._calls: list[str] | None = []  # of a request; None once checked
        self._recorded: list[str] = []
        self._hashes: list[tuple[str, str]] = []
        self._repeats = Repeats()
        Counters.get().begin(self.server.name)

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inputs with which memory is measured; they do not count as a request."""
        self._profiling = True
        try:
            return super().get_dummy_mm_inputs(*args, **kwargs)
        finally:
            self._profiling = False

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a request, with its setting checked and normalised for vLLM's caches.

        Raises
        ------
        ArgumentError
            If the setting or the prompt is not allowed; the server answers with status 400.
        UnsupportedModelError
            If this release of vLLM prepares requests in another way than the plugin knows.
        """
        try:
            setting = self._setting(inputs)
            # with the options of the start, since caches may be shared with servers of others
            plain = {**json.loads(setting.text), **self.started.to_plain()}
            if self._profiling:
                plain["example"] = True
            text = json.dumps(plain, sort_keys=True)
            kwargs = {**inputs.hf_processor_mm_kwargs, KEY: text}
            kwargs.pop(QUESTIONS, None)  # a client's
            if setting.guided(self.provided):
                inputs = replace(inputs, hf_processor_mm_kwargs=kwargs)
                kwargs = {**kwargs, QUESTIONS: self._questions(inputs, setting)}
            inputs = replace(inputs, hf_processor_mm_kwargs=kwargs)
            sent, self._recorded, self._hashes = False, [], []
            self._calls = None if self._calls is None else []
            try:
                processed = super().apply(inputs, timing_ctx)
                self._check_calls(processed)
                self.check(processed)
                # vLLM refuses a longer prompt next, without sending it to the engine
                sent = len(processed["prompt_token_ids"]) < self.info.ctx.model_config.max_model_len
            finally:
                if not sent:
                    self._forget(inputs)
        except ArgumentError:
            Counters.get().refused.inc()
            raise
        if QUESTIONS in kwargs and not self._profiling:
            items = sum(map(len, kwargs[QUESTIONS].values()))
            Counters.get().guided.labels(setting.name).inc(items)
            if sent:
                again = sum(self._repeats.add(*pair) for pair in self._hashes)
                Counters.get().again.labels(setting.name).inc(again)
        return processed

    def _check_calls(self, processed: Any) -> None:
        """Check the order of vLLM's calls, once, for the first request that has items.

        An example counts: vLLM prepares one when a server starts, and to measure memory.
        """
        if self._calls is not None and processed["mm_placeholders"]:
            api.check_order(self._calls)
            self._calls = None

    def _get_cache_missing_items(self, cache: Any, mm_data_items: Any, mm_hashes: Any) -> Any:
        """Note which items vLLM is about to record as received by its engine."""
        missing = super()._get_cache_missing_items(cache, mm_data_items, mm_hashes)
        self._recorded = [
            one
            for medium, hashes in mm_hashes.items()
            for one, cached in zip(hashes, missing[0][medium], strict=True)
            if not cached
        ]
        return missing

    def _forget(self, inputs: Any) -> None:
        """Remove a request's new items from vLLM's record of what its engine has received.

        The record is written before the prompt is looked at. If the request is then refused, the
        next one with the same image would go to the engine without the image, and fail.
        """
        for one in self._recorded:
            inputs.cache.invalidate(one)

    @cached_property
    def questions(self) -> Questions:
        """Finds the text of prompts."""
        return Questions(self.info)

    def _questions(self, inputs: Any, setting: RequestSetting) -> dict[str, list[Tensor]]:
        """Return the text that guides the choice in each item, by medium."""
        counts = inputs.mm_data_items.get_all_counts()
        if self._profiling:  # a prompt of items alone; memory is measured with the longest text
            return {name: [torch.zeros(MOST_IDS).int()] * count for name, count in counts.items()}
        return self.questions.of_items(self.with_item_marks(inputs), counts, setting.guide)

    def with_item_marks(self, inputs: Any) -> Sequence[int]:
        """Return a prompt's ids with the text that the model's processor adds to items.

        Each item has one placeholder.
        """
        prompt: Sequence[int] = inputs.prompt
        return prompt

    @_noted
    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """Return what caches know items by; the text that guides a choice is a part of it.

        Note each guided item's hash without its text, and with it.
        """
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        questions = kwargs.pop(QUESTIONS, None)
        hashes: dict[str, list[str]] = super()._get_mm_hashes(
            replace(inputs, hf_processor_mm_kwargs=kwargs)
        )
        if questions is None:
            return hashes
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        guided = {
            medium: [
                guided_hash(*pair, algorithm) for pair in zip(items, questions[medium], strict=True)
            ]
            for medium, items in hashes.items()
        }
        self._hashes = [pair for m in hashes for pair in zip(hashes[m], guided[m], strict=True)]
        return guided

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Any:
        """Return the arguments for the items that are not cached."""
        kwargs = dict(super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached))
        if QUESTIONS in kwargs:
            kwargs[QUESTIONS] = {
                medium: [texts[i] for i, cached in enumerate(mm_is_cached[medium]) if not cached]
                for medium, texts in kwargs[QUESTIONS].items()
                if medium in mm_is_cached
            }
        return kwargs

    def _setting(self, inputs: Any) -> RequestSetting:
        for medium, items in inputs.mm_data_items.items():
            if isinstance(items, (EmbeddingItems, DictEmbeddingItems)):
                raise ArgumentError(
                    f"{medium}_embeds were given; allowed: {medium}s (methods need more "
                    "than embeddings that were made elsewhere)"
                )
            if isinstance(items, VideoProcessorItems) and any(map(_is_empty, items.get_all())):
                raise ArgumentError(
                    "a video of which no frame could be read; allowed: videos of a frame or more"
                )
        kwargs = inputs.hf_processor_mm_kwargs
        if KEY not in kwargs:
            return self.server
        return read(kwargs[KEY], self.server, self.provided, self.weighted)

    def check(self, processed: Any) -> None:
        """Check that the model can take the processed prompt."""

    @_noted
    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        plain, text = split(hf_kwargs)
        questions = hf_kwargs.get(QUESTIONS)
        try:
            processed = super()._apply_hf_processor_main(mm_items, plain)
        except ValueError as error:
            if error.__cause__ is None:
                raise
            # vLLM's own message would send all pixels back
            media = " and ".join(f"{name}s" for name, n in mm_items.get_all_counts().items() if n)
            reason = " ".join(str(error.__cause__).split())[:300]
            raise ArgumentError(f"the model cannot take these {media}: {reason}") from error
        setting = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        for medium, count in mm_items.get_all_counts().items():
            if count:
                processed[field_of(medium)] = setting.repeat(count, 1)
                if questions is not None:
                    if len(questions[medium]) != count:
                        raise LftrError(f"{count} {medium}s have {len(questions[medium])} texts")
                    processed[question_field_of(medium)] = questions[medium]
        return processed

    @_noted
    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        plain, _ = split(hf_processor_mm_kwargs)
        fields = dict(super()._get_mm_fields_config(hf_inputs, plain))
        for medium in MEDIA:
            for name in (field_of(medium), question_field_of(medium)):
                fields[name] = MultiModalFieldConfig.batched(medium, keep_on_cpu=True)
        return fields

    @_noted
    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        plain, text = split(hf_processor_mm_kwargs)
        setting = setting_of(text)

        def replacement(content: Any, medium: str, item: int) -> Shortened:
            whole = content(item) if callable(content) else content
            processed = out_mm_kwargs[medium][item]
            placeholders = self.shortened(whole, setting, medium, processed)
            size = {size_field_of(medium): torch.tensor(placeholders.total)}  # for the scheduler
            for name, value in (size | self.item_fields(whole)).items():
                field = MultiModalBatchedField(keep_on_cpu=True)
                (processed[name],) = field.build_elems(medium, name, [value])
            return placeholders

        return [
            PromptReplacement(
                one.modality, one.target, partial(replacement, one.content, one.modality)
            )
            for one in super()._get_prompt_updates(mm_items, plain, out_mm_kwargs)
        ]

    def shortened(
        self, content: Any, setting: RequestSetting, medium: str, processed: Mapping[str, Any]
    ) -> Shortened:
        """Return the shorter placeholders of an item.

        Parameters
        ----------
        content : list of int or PromptUpdateDetails
            The placeholders of all its tokens, and maybe text around them.
        setting : RequestSetting
            The method and the budget.
        medium : {"image", "video"}
            The kind of item.
        processed : mapping
            The output of the model's processor for this item.

        Raises
        ------
        TypeError
            If text parts the item, and the class does not say that it is one run.
        """
        marks = content.is_embed if isinstance(content, PromptUpdateDetails) else None
        full = content if marks is None else content.full
        places = range(len(full)) if marks is None else marks(full).nonzero().squeeze(1).tolist()
        first, total = places[0], len(places)
        kept = setting.count(total)
        if self.one_run and marks is not None and kept < total:
            run = [full[first]] * (len(full) - total + kept)
            return Shortened(run, None, total, kept, setting.name)
        if kept < total and places[-1] - first + 1 != total:
            raise TypeError(f"{type(self).__name__} must set one_run: text parts an item")
        shorter = full[: first + kept] + full[first + total :]
        return Shortened(shorter, marks, total, kept, setting.name)

    def item_fields(self, content: Any) -> dict[str, Tensor]:
        """Return further fields that the model receives with an item.

        Parameters
        ----------
        content : list of int or PromptUpdateDetails
            The placeholders of all the item's tokens, and maybe text around them.
        """
        return {}

    @_noted
    def _apply_prompt_updates(self, token_ids: Any, mm_prompt_updates: Any) -> Any:
        """Put placeholders into the prompt, which has to have a place for each item.

        A client can take one away: by a template of its own, or by having the prompt truncated.
        """
        try:
            ids, placeholders = super()._apply_prompt_updates(token_ids, mm_prompt_updates)
        except AssertionError:  # vLLM's only check of it
            placeholders = {}
        for medium, items in mm_prompt_updates.items():
            places = len(placeholders.get(medium, ()))
            if places != len(items):
                raise ArgumentError(
                    f"the prompt has no place for every {medium}, for {places} of {len(items)}; "
                    f"allowed: a {medium} placeholder for each, also after truncation"
                )
        return ids, placeholders

    @_noted
    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        applied = super()._maybe_apply_prompt_updates(mm_items, mm_res)
        items = [updates[0].content for item in mm_res.prompt_updates.values() for updates in item]
        if items and not self._profiling:
            sizes = [(item.total, item.kept) for item in items]
            Counters.get().count(items[0].method, sizes)
        return applied


def _is_empty(video: Any) -> bool:
    """Whether a video, or one with facts beside its frames, has none; one known by name is None."""
    frames = video[0] if isinstance(video, tuple) else video
    return frames is not None and len(frames) == 0


def split(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the arguments of the model's own processor, and the setting."""
    names = (KEY, QUESTIONS)
    return {key: value for key, value in kwargs.items() if key not in names}, kwargs[KEY]
