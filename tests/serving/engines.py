"""Engines of vLLM in this process, the questions that they are asked, and transformers' answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from hosts.support import Recording
from PIL import Image

import lftr
from lftr.hosts.vllm.request.request_setting import UNWEIGHTED
from lftr.values.budget import as_arguments

from . import tiny
from .linear_attention import in_float32

if TYPE_CHECKING:
    from vllm import LLM

NEW = 8


Size = tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """A prompt with images ``(width, height)`` and clips ``(frames, width, height)``."""

    sizes: Sequence[Size] = ((40, 36),)
    seed: int = 0
    keep: Any = None
    method: Any = None
    options: Any = None

    @property
    def images(self) -> list[Image.Image]:
        sizes = [(i, size) for i, size in enumerate(self.sizes) if len(size) == 2]
        return [tiny.image(*size, seed=self.seed + i) for i, size in sizes]

    @property
    def clips(self) -> list[tiny.Clip]:
        sizes = [(i, size) for i, size in enumerate(self.sizes) if len(size) == 3]
        return [tiny.clip(*size, seed=self.seed + i) for i, size in sizes]

    def prompt(self, sign: str, film: str) -> str:
        signs = [sign if len(size) == 2 else film for size in self.sizes]
        parts = [tiny.words(self.seed + i) + " " + one for i, one in enumerate(signs)]
        return "<s>" + "".join(parts) + tiny.words(self.seed + 99)

    def inputs(self, checkpoint: tiny.Tiny) -> dict[str, Any]:
        """The same for transformers."""
        prompt = self.prompt(checkpoint.sign, checkpoint.film)
        return checkpoint.inputs(prompt, self.images, self.clips)

    def request(self, checkpoint: tiny.Tiny) -> dict[str, Any]:
        found: dict[str, Any] = {"prompt": self.prompt(checkpoint.sign, checkpoint.film)}
        media = {"image": self.images, "video": self.clips}
        found["multi_modal_data"] = {name: items for name, items in media.items() if items}
        asked = as_arguments(self.keep) | {"method": self.method, "options": self.options}
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


@dataclass(frozen=True)
class Spelled(Question):
    """A question whose prompt is given."""

    text: str = ""

    def prompt(self, sign: str, film: str) -> str:
        return self.text


@contextmanager
def engine(
    checkpoint: tiny.Tiny,
    architecture: str,
    setting: Any = None,
    overrides: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[LLM]:
    """An engine in this process, gone afterwards."""
    from vllm import LLM

    overrides = {"architectures": [architecture], **(overrides or {})}
    if setting is not None:
        overrides["lftr"] = setting
    how: dict[str, Any] = {"max_model_len": tiny.LENGTH, "max_num_seqs": 16, "block_size": 32}
    how |= {"distributed_executor_backend": "uni", "enforce_eager": True, "dtype": "float32"}
    how |= options
    linear = checkpoint.name.startswith("qwen3_5")
    if linear:  # transformers makes its own tokenizer of any that lies beside its configuration
        how["tokenizer"] = str(checkpoint.folder / tiny.TOKENIZER)
    with in_float32() if linear and how["dtype"] == "float32" else nullcontext():
        llm = LLM(str(checkpoint.folder), hf_overrides=overrides, **how)
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()


def ask(llm: LLM, checkpoint: tiny.Tiny, *questions: Question) -> list[Answer]:
    """Ask an engine, all at once."""
    return answers(llm, [question.request(checkpoint) for question in questions])


def answers(llm: LLM, requests: Sequence[Any], **options: Any) -> list[Answer]:
    """Return an engine's answers to requests, all at once."""
    from vllm import SamplingParams

    how = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True, detokenize=False)
    outputs = llm.generate(list(requests), how, use_tqdm=False, **options)
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
    from lftr.hosts.vllm.model import reducing

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

    TEXT: ClassVar[Question] = Question((), 4)
    PLAIN: ClassVar[Sequence[Question]] = (
        Question(),
        Question(((24, 24),), 1),
        Question(((20, 64),), 2),
        Question(((90, 20),), 3),
        TEXT,
    )
    FILMED: ClassVar[Sequence[Question]] = (
        Question(((5, 32, 24),), 50),
        Question(((40, 36), (4, 32, 24)), 51),
        Question(((4, 24, 60), (40, 36)), 52),
        Question(((4, 32, 24), (4, 24, 32)), 53),
    )
    SETTING: ClassVar[dict[str, str]] = {"method": "lftr", "keep": "1/4"}
    positions: str = "original"
    weights: str = "size"
    guidance: lftr.Guidance | None = None

    @classmethod
    @contextmanager
    def started(cls, name: str, folder: Path) -> Iterator[Served]:
        """Ask the stock engine first, then leave the reduced one open."""
        checkpoint = tiny.make(name, folder)
        with engine(checkpoint, checkpoint.stock) as llm:
            asked = (*cls.PLAIN, *(cls.FILMED if checkpoint.takes_clips else ()))
            answers = {one: ask(llm, checkpoint, one)[0] for one in asked}
            assert not type(model_of(llm)).__name__.startswith("Lftr")
        with engine(checkpoint, f"Lftr{checkpoint.stock}", cls.SETTING) as llm:
            yield cls(checkpoint, llm, answers)

    def ask(self, *questions: Question) -> list[Answer]:
        return ask(self.llm, self.tiny, *questions)

    def ask_together(self, *questions: Question) -> list[Answer]:
        """Answers of one batch, which are those of each question alone and of small steps."""
        together = self.ask(*questions)
        self.forget()
        assert [self.ask(one)[0] for one in questions] == together
        model = model_of(self.llm)
        most, model.most = model.most, 60  # as much as the encoder may see at once
        try:
            self.forget()
            assert self.ask(*questions) == together
        finally:
            model.most = most
        return together

    def ask_as(self, *requests: Any) -> list[Answer]:
        return answers(self.llm, requests)

    def forget(self) -> None:
        """Empty every cache: of prompts, of preprocessed items and of what was encoded."""
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def on_transformers(self, question: Question) -> tuple[Answer, list[lftr.Selection]]:
        """The same reduction on transformers, and its decisions."""
        return self.answered(question, question.inputs(self.tiny))

    def answered(
        self, question: Question, inputs: dict[str, Any]
    ) -> tuple[Answer, list[lftr.Selection]]:
        """The same of inputs that were made of the question in another way."""
        full = inputs["input_ids"].shape[1]
        defaults = UNWEIGHTED.get(question.method, {}) if self.weights == "none" else {}
        options = defaults | (question.options or {})
        method = Recording(lftr.get_method(question.method, **options))
        how = as_arguments(question.keep)
        how |= {"positions": self.positions, "weights": self.weights, "guidance": self.guidance}
        with torch.inference_mode(), lftr.reduce(self.tiny.model, method, **how) as reduction:
            out = self.tiny.model.generate(
                **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None
            )
        report = reduction.report
        answer = Answer(full - report.tokens + report.kept, out[0, full:].tolist())
        return answer, method.selections

    def tokens(self, size: Size) -> int:
        """How many tokens an item has without reduction, by transformers' own processor."""
        ids = Question((size,)).inputs(self.tiny)["input_ids"]
        config = self.tiny.model.config
        name = "image" if len(size) == 2 else "video"
        token = getattr(config, f"{name}_token_id", None) or getattr(config, f"{name}_token_index")
        return int((ids == token).sum())
