"""A model class for lmms-eval: any image-text-to-text model of transformers, reduced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from .... import bundled
from ....evidence.guidance import Guidance
from ....methods import get_method
from ....methods.encoder.merges import EncoderMerge
from ....methods.encoder.spelling import MERGES, parse_merge
from ....prompting import batch_inputs, chat_inputs
from ....reducing import reduce
from ....values.budget import as_arguments, budget_of
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.weights import parse_weights

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

BUNDLED = "bundled"
_PASSED = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p", "top_k")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_MERGE = "encoder_"  # prefix of the options of the merge
_LENGTH = 256  # new tokens at most, if the task sets no limit


class LftrHf(lmms):
    """The model ``--model lftr_hf`` of lmms-eval; its parameters are those of ``--model_args``.

    Parameters
    ----------
    pretrained : str
        Hugging Face id or folder; ``bundled`` for the model inside the package.
    method : str
        A name that ``lftr methods`` lists; its options are further arguments (``seed=3``).
    keep : float or str, optional
        As `lftr.reduce` takes it, by default ``1/16``; ``1.0`` is the full model.
    tokens : int, optional
        In place of ``keep``, a count for each image.
    positions : {"original", "compact"}, optional
        As `lftr.reduce` takes it.
    weights : str or float, optional
        As `lftr.reduce` takes it.
    encoder : str, optional
        Merging inside the vision encoder, ``tome``, ``folder``, ``flowcut`` or ``ficoco``; its
        options are further arguments that begin with ``encoder_`` (``encoder_r=8``).
    batch_size : int
        Questions per batch.
    device : str, optional
        By default a GPU if there is one; under ``accelerate launch`` each process has its own.
    device_map : str, optional
        For a model over several GPUs in one process (``auto``).
    dtype : str
        ``auto`` (the checkpoint's own), ``float32``, ``bfloat16``, ``float16``.
    attn_implementation : str, optional
        As transformers takes it.
    system_prompt : str, optional
        Put in front of every conversation.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = BUNDLED,
        method: str = "lftr",
        keep: float | str | None = None,
        tokens: int | None = None,
        positions: str | None = None,
        weights: str | float | None = None,
        encoder: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        system_prompt: str | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ArgumentError.of("batch_size", batch_size, "a whole number >= 1")
        self.batch_size = int(batch_size)
        merge = {name: value for name, value in options.items() if name.startswith(_MERGE)}
        self.method = get_method(method, **{k: v for k, v in options.items() if k not in merge})
        self.encoder = _merge(encoder, merge)
        budget = budget_of(keep, tokens)
        self.keep = 1 / 16 if budget is None else budget
        self.positions = positions
        parse_weights(weights)  # refused before a model is loaded
        self.weights = weights
        self.system_prompt = system_prompt
        on_cpu = device == "cpu" or not torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=on_cpu)  # else processes on CPUs do not connect
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        self.device = torch.device(
            device if device and self._world_size == 1 else self.accelerator.device
        )
        self.model, self.processor = self._load(pretrained, dtype, device_map, attn_implementation)
        self.text_tower = None
        if pretrained == BUNDLED and any("text_embeds" in need for need in self.method.evidence):
            self.text_tower = bundled.load_text_tower(self.model)

    def _load(
        self, pretrained: str, dtype: str, device_map: str | None, attention: str | None
    ) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if dtype not in _DTYPES:
            raise ArgumentError.of("dtype", dtype, ", ".join(_DTYPES))
        if pretrained == BUNDLED:
            return bundled.load(self.device, None if dtype == "auto" else getattr(torch, dtype))
        processor = AutoProcessor.from_pretrained(pretrained)
        tokenizer = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModelForImageTextToText.from_pretrained(
            pretrained, dtype=dtype, device_map=device_map, attn_implementation=attention
        ).eval()
        return (model if device_map else model.to(self.device)), processor

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer requests; those with equal generation arguments are batched."""
        answers: dict[int, str] = {}
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="answering")
        for numbers, conversations, kwargs in self._batches(requests):
            for number, text in zip(numbers, self._answer(conversations, kwargs), strict=True):
                answers[number] = text
                context, _, options, *_ = requests[number].args
                self.cache_hook.add_partial("generate_until", (context, options), text)
            bar.update(len(numbers))
        bar.close()
        return [answers[number] for number in range(len(requests))]

    def _batches(
        self, requests: Sequence[Instance]
    ) -> Iterator[tuple[list[int], list[list[dict[str, Any]]], Mapping[str, Any]]]:
        """Yield batches of requests with equal generation arguments; images are read per batch."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            key = json.dumps(request.args[2], sort_keys=True, default=str)
            groups.setdefault(key, []).append(number)
        for numbers in groups.values():
            for start in range(0, len(numbers), self.batch_size):
                members = numbers[start : start + self.batch_size]
                conversations = [self._conversation(requests[number]) for number in members]
                yield members, conversations, requests[members[0]].args[2]

    def _conversation(self, request: Instance) -> list[dict[str, Any]]:
        _, messages_of, _, document, task, split = request.args
        messages = ChatMessages(messages=messages_of(self.task_dict[task][split][document]))
        _, videos, audios = messages.extract_media()
        if videos or audios:
            raise UnsupportedModelError(f"task = {task!r}; allowed: tasks of images and text")
        conversation: list[dict[str, Any]] = messages.to_hf_messages()
        if self.system_prompt:
            content = [{"type": "text", "text": self.system_prompt}]
            conversation.insert(0, {"role": "system", "content": content})
        return conversation

    @torch.inference_mode()
    def _answer(
        self, conversations: Sequence[list[dict[str, Any]]], kwargs: Mapping[str, Any]
    ) -> list[str]:
        """Answer a batch; `generate` returns the full prompt, then the new tokens."""
        questions = [_parts(conversation, "text") for conversation in conversations]
        inputs = self._inputs(conversations).to(self.model.device, dtype=self.model.dtype)
        guided = reduce(
            self.model,
            self.method,
            **as_arguments(self.keep),
            positions=self.positions,
            weights=self.weights,
            guidance=Guidance(
                ["\n".join(texts) for texts in questions], self.processor, self.text_tower
            ),
            encoder=self.encoder,
        )
        with guided:
            ids = self.model.generate(**inputs, **_generation(kwargs))
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        return [_until(text.strip(), kwargs.get("until", ())) for text in texts]

    def _inputs(self, conversations: Sequence[list[dict[str, Any]]]) -> Any:
        if getattr(self.processor, "chat_template", None):
            return chat_inputs(self.processor, conversations)
        pairs = [(_parts(one, "image"), "\n".join(_parts(one, "text"))) for one in conversations]
        return batch_inputs(self.processor, pairs)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse: only generated answers are supported, not likelihoods of given texts."""
        raise UnsupportedModelError("output_type = 'loglikelihood'; allowed: 'generate_until'")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse: in tasks of several rounds, code of the task makes each next prompt."""
        raise UnsupportedModelError(
            "output_type = 'generate_until_multi_round'; allowed: 'generate_until'"
        )


def _merge(name: str | None, options: Mapping[str, Any]) -> EncoderMerge | None:
    """Return the merge inside the encoder, from its name and the ``encoder_`` arguments."""
    if name is None:
        if options:
            allowed = f"{', '.join(MERGES)}; without one there is no {', '.join(options)}"
            raise ArgumentError.of("encoder", None, allowed)
        return None
    kind, _, stated = name.partition(":")
    more = [f"{key.removeprefix(_MERGE)}={value}" for key, value in options.items()]
    return parse_merge(f"{kind}:{','.join([stated, *more])}")


def _parts(conversation: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """Return the texts or images of a conversation, in order, without the system's."""
    return [
        part[kind]
        for message in conversation
        if message["role"] != "system"
        for part in message["content"]
        if part["type"] == kind
    ]


def _generation(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a task's generation arguments; temperature 0 is greedy, as tasks mean it."""
    options = {name: kwargs[name] for name in _PASSED if kwargs.get(name) is not None}
    sampled = options.get("do_sample", True) and options.get("temperature", 0) > 0
    if not sampled:
        options = {k: v for k, v in options.items() if k not in ("temperature", "top_p", "top_k")}
    return {"max_new_tokens": _LENGTH, **options, "do_sample": sampled}


def _until(text: str, stops: str | Sequence[str]) -> str:
    """Cut a text at the first of its stops."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if stop else text
    return text
