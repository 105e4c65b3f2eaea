"""Engines of vLLM in this process, the questions that they are asked, and transformers' answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from hosts.support import Recording
from PIL import Image

import lftr

from . import tiny

if TYPE_CHECKING:
    from vllm import LLM

NEW = 8


@dataclass(frozen=True)
class Question:
    """A prompt with images, and what it asks of the server."""

    sizes: Sequence[tuple[int, int]] = ((40, 36),)
    seed: int = 0
    keep: Any = None
    method: Any = None
    options: Any = None

    @property
    def images(self) -> list[Image.Image]:
        return [tiny.image(*size, seed=self.seed + i) for i, size in enumerate(self.sizes)]

    def prompt(self, sign: str) -> str:
        parts = [tiny.words(self.seed + i) + " " + sign for i in range(len(self.sizes))]
        return "<s>" + "".join(parts) + tiny.words(self.seed + 99)

    def request(self, sign: str) -> dict[str, Any]:
        found: dict[str, Any] = {"prompt": self.prompt(sign)}
        if self.sizes:
            found["multi_modal_data"] = {"image": self.images}
        asked = {"keep": self.keep, "method": self.method, "options": self.options}
        asked = {name: value for name, value in asked.items() if value is not None}
        if asked:
            found["mm_processor_kwargs"] = {"lftr": asked}
        return found


@dataclass(frozen=True)
class Answer:
    """What came of a question."""

    prompt: int
    tokens: list[int]
    cached: int = field(default=0, compare=False)


@contextmanager
def engine(
    checkpoint: tiny.Tiny, architecture: str, setting: Any = None, **options: Any
) -> Iterator[LLM]:
    """An engine in this process, gone afterwards."""
    from vllm import LLM

    overrides: dict[str, Any] = {"architectures": [architecture]}
    if setting is not None:
        overrides["lftr"] = setting
    how: dict[str, Any] = {"max_model_len": tiny.LENGTH, "max_num_seqs": 16, "block_size": 32}
    how["distributed_executor_backend"] = "uni"
    llm = LLM(
        str(checkpoint.folder),
        hf_overrides=overrides,
        enforce_eager=True,
        dtype="float32",
        **how | options,
    )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def ask(llm: LLM, sign: str, *questions: Question) -> list[Answer]:
    """Ask an engine, all at once."""
    from vllm import SamplingParams

    how = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True, detokenize=False)
    outputs = llm.generate([q.request(sign) for q in questions], how, use_tqdm=False)
    return [
        Answer(len(o.prompt_token_ids), list(o.outputs[0].token_ids), o.num_cached_tokens or 0)
        for o in outputs
    ]


def model_of(llm: LLM) -> Any:
    """The model that an engine runs."""
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()


@contextmanager
def recorded() -> Iterator[list[lftr.Selection]]:
    """Write down every decision that the engine in this process makes."""
    from lftr.hosts.vllm import reducing

    found: list[lftr.Selection] = []
    choose = reducing._choose

    def recording(*arguments: Any) -> Any:
        choices = choose(*arguments)
        found.extend(choices[i] for i in sorted(choices))
        return choices

    reducing._choose = recording
    try:
        yield found
    finally:
        reducing._choose = choose


@dataclass
class Served:
    """A family in a reduced engine."""

    tiny: tiny.Tiny
    llm: LLM
    stock: dict[Question, Answer]

    PLAIN: ClassVar[Sequence[Question]] = (
        Question(),
        Question(((24, 24),), 1),
        Question(((20, 64),), 2),
        Question(((90, 20),), 3),
        Question((), 4),
    )
    SETTING: ClassVar[dict[str, str]] = {"method": "lftr", "keep": "1/4"}

    @classmethod
    @contextmanager
    def started(cls, name: str, folder: Path) -> Iterator[Served]:
        """Ask the stock engine first, then leave the reduced one open."""
        checkpoint = tiny.make(name, folder)
        with engine(checkpoint, checkpoint.stock) as llm:
            answers = dict(zip(cls.PLAIN, ask(llm, checkpoint.sign, *cls.PLAIN), strict=True))
            assert type(model_of(llm)).__name__ == checkpoint.stock
        with engine(checkpoint, f"Lftr{checkpoint.stock}", cls.SETTING) as llm:
            yield cls(checkpoint, llm, answers)

    def ask(self, *questions: Question) -> list[Answer]:
        return ask(self.llm, self.tiny.sign, *questions)

    @property
    def positions(self) -> str:
        """What vLLM does with positions, in the words of `lftr.reduce`."""
        return "original" if self.tiny.name in tiny.GRIDDED else "compact"

    def on_transformers(self, question: Question) -> tuple[Answer, list[lftr.Selection]]:
        """The same reduction on transformers, and its decisions."""
        inputs = self.tiny.inputs(question.prompt(self.tiny.sign), question.images)
        full = inputs["input_ids"].shape[1]
        method = Recording(lftr.get_method(question.method, **question.options or {}))
        how = {"keep": question.keep, "positions": self.positions}
        with torch.inference_mode(), lftr.reduce(self.tiny.model, method, **how) as reduction:
            out = self.tiny.model.generate(
                **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None
            )
        report = reduction.report
        answer = Answer(full - report.tokens + report.kept, out[0, full:].tolist())
        return answer, method.selections

    def tokens(self, size: tuple[int, int]) -> int:
        """How many tokens an image has without reduction, by transformers' own processor."""
        inputs = self.tiny.inputs(self.tiny.sign, [tiny.image(*size)])
        return int((inputs["input_ids"] == self.tiny.model.config.image_token_id).sum())
