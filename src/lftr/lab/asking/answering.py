"""Answers under several reductions, each image encoded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...hosts.transformers.api import end_tokens
from ...hosts.transformers.encoder.encode_cache import encode_once
from ...methods.encoder.merges import EncoderMerge
from ...prompting import batch_inputs
from ...values.errors import LftrError, TooLittleMemoryError
from ...values.report import ItemReport, Report
from .items import QuestionLike
from .settings import Setting


@dataclass(frozen=True)
class Timing:
    """Milliseconds per question; the time of a batch is divided equally among its questions.

    Attributes
    ----------
    encode : float
        The vision encoder, with merging inside it if the setting has it. A setting that reuses the
        encoder's output of an earlier setting counts that setting's time.
    method, host : float
        The method, and the host's work on positions, masks and inputs.
    total : float
        All of these and the language model, until the end of the answer.
    """

    encode: float
    method: float
    host: float
    total: float


@dataclass(frozen=True)
class Answer:
    """One answer under one setting.

    Attributes
    ----------
    text : str
        The generated text, stripped.
    items : tuple of ItemReport
        The report of each image of the prompt; with methods inside the language model, the state in
        the last layer.
    kept : float
        Number of the prompt's visual tokens in a decoder layer, mean over the layers.
    ms : Timing
        Times of the question.
    ended : bool
        Whether the model generated an end token; if not, ``max_new_tokens`` cut the answer short.
    """

    text: str
    items: tuple[ItemReport, ...]
    kept: float
    ms: Timing
    ended: bool

    @property
    def tokens(self) -> int:
        """Number of visual tokens of the prompt without reduction."""
        return sum(item.tokens for item in self.items)


def inputs_for(model: Any, processor: Any, questions: Sequence[QuestionLike]) -> Any:
    """Return a model's inputs for several questions, on its device and in its dtype."""
    inputs = batch_inputs(processor, [(one.images, one.question) for one in questions])
    return inputs.to(model.device, dtype=model.dtype)


@contextmanager
def one_batch(
    model: Any,
    processor: Any,
    asked: Sequence[QuestionLike],
    *,
    text_tower: Any = None,
    max_new_tokens: int = 8,
) -> Iterator[Callable[[Setting], list[Answer]]]:
    """Prepare a batch of questions whose images are encoded once for all settings.

    Yields
    ------
    callable
        Takes a setting, returns an answer to each question under it. Raises `ArgumentError` if the
        device has too little memory for the batch, and an `LftrError` that names the setting if the
        model cannot do it.
    """
    inputs = inputs_for(model, processor, asked)
    first_ms: dict[EncoderMerge | None, float] = {}  # of the pass that the others remember

    @torch.inference_mode()
    def ask(setting: Setting) -> list[Answer]:
        try:
            guided = setting.reduce(model, asked, processor=processor, text_tower=text_tower)
            start = time.perf_counter()
            with guided as reduction:
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
                new = ids[:, inputs["input_ids"].shape[1] :].cpu()
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
            raise TooLittleMemoryError.of(
                "batch", len(asked), f"fewer questions at a time on this device ({reason})"
            ) from None
        except LftrError as error:
            raise setting.named(error) from None
        wall_ms = (time.perf_counter() - start) * 1e3
        report = reduction.report
        encode_ms = first_ms.setdefault(setting.encoder, report.encode_ms)
        ms = _share(report, wall_ms, encode_ms, len(asked))
        texts = processor.batch_decode(new, skip_special_tokens=True)
        return [
            Answer(text.strip(), _items_of(report, row), report.kept_by(row), ms, ended)
            for row, (text, ended) in enumerate(zip(texts, _rows_with_end(model, new), strict=True))
        ]

    with encode_once(model):
        yield ask


def answer_batch(
    model: Any,
    processor: Any,
    asked: Sequence[QuestionLike],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    max_new_tokens: int = 8,
) -> Iterator[tuple[int, list[Answer]]]:
    """Answer some questions in one batch under every setting, as `one_batch` does.

    Yields
    ------
    setting : int
        Position in ``settings``.
    answers : list of Answer
        One for each question.
    """
    together = one_batch(
        model, processor, asked, text_tower=text_tower, max_new_tokens=max_new_tokens
    )
    with together as ask:
        for number, setting in enumerate(settings):
            yield number, ask(setting)


def _rows_with_end(model: Any, new: Tensor) -> list[bool]:
    """Return for each row of generated ids whether it contains an end token."""
    ends = torch.tensor(end_tokens(model), dtype=new.dtype, device=new.device)
    ended: list[bool] = torch.isin(new, ends).any(dim=1).tolist()
    return ended


def _items_of(report: Report, row: int) -> tuple[ItemReport, ...]:
    """Return a row's items in the last layer that still has them."""
    return tuple(report.innermost(item) or item for item in report.items if item.row == row)


def _share(report: Report, wall_ms: float, encode_ms: float, count: int) -> Timing:
    """Divide the times among the questions, as if each setting had run the encoder itself."""
    encode = max(encode_ms, report.encode_ms)
    total = wall_ms - report.encode_ms + encode
    return Timing(encode / count, report.method_ms / count, report.host_ms / count, total / count)


def answer_all(
    model: Any,
    processor: Any,
    asked: Sequence[QuestionLike],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    batch: int = 8,
    max_new_tokens: int = 8,
) -> Iterator[tuple[int, list[Answer]]]:
    """Answer every question under every setting, batch by batch, as `answer_batch` does."""
    for start in range(0, len(asked), batch):
        yield from answer_batch(
            model,
            processor,
            asked[start : start + batch],
            settings,
            text_tower=text_tower,
            max_new_tokens=max_new_tokens,
        )
