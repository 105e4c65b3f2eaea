"""What every test of the host speaks of: a prompt of rows, a reduced run, the truth about it."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from families import CORE
from torch import Tensor, nn
from transformers import DynamicCache
from zoo import FAMILIES, MIXED, VIDEOS, Image, Row, Side, Videos, ZooEntry
from zoo.base import images_of

import lftr
from lftr.values.budget import as_arguments

from .oracle import Choice, true_logits

IMAGES = [entry for entry in FAMILIES.values() if not entry.traits.encoder_side]
ALL = [*IMAGES, *VIDEOS.values(), *MIXED.values()]
# in images, others are as they are
ALIKE = ("llava_next_video", "video_llava", "glm46v", "glm_ocr", "cosmos3_omni")
# identity, the oracle, second turns and the truth inside run over these; what two families of clips
# share is tested on one of them
EVERY = [
    *(entry for entry in IMAGES if entry.name not in ALIKE),
    VIDEOS["llava_onevision"],
    VIDEOS["qwen2_5_vl"],
    MIXED["qwen3_vl"],
    # frames in pairs, rows with newlines, fractions of a position, one placeholder for both
    *(VIDEOS[n] for n in ("ernie4_5_vl_moe", "hy_v4_vl", "qwen3_omni_moe_thinker") if n in VIDEOS),
    *(MIXED[n] for n in ("glm5_next",) if n in MIXED),
]
# all other tests run over CORE. With the environment variable LFTR_EVERY_FAMILY=1 they run over
# EVERY, which is 9000 tests more: for whoever adds a family, and for nightly runs
HOSTED = [e for e in EVERY if os.environ.get("LFTR_EVERY_FAMILY") == "1" or str(e) in CORE]
# those whose encoder's attention can be read
TAPPED = [entry for entry in HOSTED if entry.traits.reads == "attention"]
WIDE: Row = [3, Image("wide"), 4, Image("small", 1), 5]
PLAIN: Row = [6]
SQUARE: Row = [2, Image("square", 2), 3]
ROWS: list[Row] = [WIDE, PLAIN, SQUARE]
NEW = 4


class Recording(lftr.Method):
    """Hands every decision on to another method and writes it down."""

    def __init__(self, method: str | lftr.Method) -> None:
        self.inner = lftr.get_method(method) if isinstance(method, str) else method
        self.tokens: list[lftr.VisualTokens] = []
        self.selections: list[lftr.Selection] = []

    @property
    def evidence(self) -> Any:
        return self.inner.evidence

    def allot(self, items: Sequence[lftr.VisualTokens], counts: Sequence[int]) -> list[int]:
        return self.inner.allot(items, counts)

    def select_all(
        self, items: Sequence[lftr.VisualTokens], counts: Sequence[int]
    ) -> list[lftr.Selection]:
        self.tokens = list(items)
        self.selections = self.inner.select_all(items, counts)
        return self.selections


class Asking(lftr.Method):
    """Needs fields, and takes the first tokens."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @property
    def evidence(self) -> Any:
        return tuple((name,) for name in self.names)

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        return lftr.Selection(torch.arange(keep).expand(len(tokens.features), keep))


@dataclass
class Run:
    """A reduction that is on, and what it decided."""

    reduction: Any
    method: Recording

    @property
    def report(self) -> Any:
        return self.reduction.report

    def choices(self, row: int = 0) -> list[Choice]:
        """Decisions of the last call about a row's items."""
        items = self.report.items
        chosen = self.method.selections
        if self.report.kept == self.report.tokens:  # then no method was asked
            chosen = [lftr.Selection.everything(item.tokens) for item in items]
        pairs = zip(items, chosen, strict=True)
        return [Choice(item.tokens, choice) for item, choice in pairs if item.row == row]


@contextmanager
def reduced(
    model: Any, method: str | lftr.Method = "random", keep: Any = 0.4, **options: Any
) -> Iterator[Run]:
    """`lftr.reduce`, with every decision written down; an int is a count."""
    recording = Recording(method)
    with lftr.reduce(model, recording, **as_arguments(keep), **options) as reduction:
        yield Run(reduction, recording)


@dataclass
class Prompt:
    """Rows of a family, and its model."""

    entry: ZooEntry
    rows: list[Row] = field(default_factory=lambda: list(ROWS))
    model: Any = None

    def __post_init__(self) -> None:
        self.rows = self.entry.rows(self.rows)
        self.model = self.entry.model() if self.model is None else self.model

    def inputs(self, side: Side = "left") -> dict[str, Any]:
        return self.entry.inputs(self.model, self.rows, side)

    def alone(self, row: int) -> Prompt:
        return Prompt(self.entry, [self.rows[row]], self.model)

    def visual(self, ids: Tensor) -> Tensor:
        return self.entry.is_visual(self.model, ids)

    def truth(
        self,
        row: int,
        choices: list[Choice],
        new: Sequence[int] = (),
        positions: str = "original",
        exponent: float = 1.0,
    ) -> Tensor:
        """Logits `(1 + len(new), V)` after a row and after each of `new`."""
        inputs = self.alone(row).inputs()
        visual = self.visual(inputs["input_ids"][0])
        placed = self.placed(row)
        return true_logits(self.model, inputs, visual, choices, new, positions, placed, exponent)

    def placed(self, row: int) -> Callable[[Tensor], Tensor]:
        """What makes the positions of a row alone those that it has in the batch."""
        earlier = sum(len(images_of(one)) for one in self.rows[:row])
        return functools.partial(self.entry.placed, earlier=earlier)

    def generate(self, new: int = NEW, side: Side = "left", **options: Any) -> Any:
        """A greedy `generate` with the raw logits of every step."""
        settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        return self.model.generate(**self.inputs(side), max_new_tokens=new, **settings | options)

    def forward(self, side: Side = "left", **options: Any) -> Any:
        return self.model(**self.inputs(side) | options)


def cached(model: Any, inputs: dict[str, Any]) -> Any:
    """A forward whose output has a cache: Granite 4 Vision's makes none, and is given one."""
    output = model(**inputs, use_cache=True)
    if output.past_key_values is None:
        cache = DynamicCache(config=model.config.get_text_config())
        output = model(**inputs, use_cache=True, past_key_values=cache)
    return output


@contextmanager
def interleaved(module: nn.Module, work: Callable[[], Any], times: int = 2) -> Iterator[list[Any]]:
    """Let another thread do all of ``work`` each time this thread calls ``module``.

    Yields what ``work`` returned, or raised; after ``times`` calls the module is called as usual.
    """
    thread, results = threading.get_ident(), []  # type: ignore[var-annotated]

    def run() -> None:
        try:
            with torch.no_grad():
                results.append(work())
        except Exception as error:
            results.append(error)

    def wait(*_: Any) -> None:
        if threading.get_ident() == thread and len(results) < times:
            other = threading.Thread(target=run)
            other.start()
            other.join()

    handle = module.register_forward_pre_hook(wait)
    try:
        yield results
    finally:
        handle.remove()


def seen(prompt: Prompt, *names: str, keep: object = 0.4, **options: Any) -> list[Any]:
    """What a method that needs these fields is shown of every item."""
    with reduced(prompt.model, Asking(*names), keep, **options) as run:
        prompt.generate(1)
    return run.method.tokens


def conversation(
    entry: ZooEntry, model: Any, ids: Sequence[int], images: Sequence[Image]
) -> dict[str, Any]:
    """Inputs of one row whose ids are given; every image is cut as if it were alone."""
    made = entry.batch(model, [list(ids)], [list(images)])
    if "batch_num_images" in made:
        made["batch_num_images"] = torch.ones(int(made["batch_num_images"]), dtype=torch.long)
    return made


def last_columns(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits of the last token of every row, wherever its padding is."""
    places = torch.arange(mask.shape[1]) * mask
    return logits[torch.arange(len(logits)), places.argmax(dim=1)]


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def assert_close(entry: ZooEntry, found: Tensor, expected: Tensor, slack: float = 1.0) -> None:
    """Equal as float32 computations of the same thing are: to about 1e-5 of the logits' size."""
    ruled_out = torch.finfo(expected.dtype).min  # Chameleon's codes of images
    size = float(expected[expected > ruled_out].abs().max())
    allowed = slack * entry.traits.tolerance * max(1.0, size)
    assert found.shape == expected.shape
    assert distance(found, expected) <= allowed, f"{distance(found, expected)} > {allowed}"


def assert_true(prompt: Prompt, run: Run, output: Any, positions: str = "original") -> None:
    """Prompt ids untouched, and the logits of every row at every step the truth."""
    length = prompt.inputs()["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], prompt.inputs()["input_ids"])
    for row in range(len(prompt.rows)):
        new = output.sequences[row, length:].tolist()
        found = torch.stack([step[row] for step in output.logits])
        expected = prompt.truth(row, run.choices(row), new[:-1], positions)
        assert_close(prompt.entry, found, expected)
        assert expected.argmax(dim=-1).tolist() == new


def skip_unasked(entry: ZooEntry, positions: str) -> None:
    """Skip a test of positions that the model is not told."""
    if entry.traits.unplaced and positions == "original":
        pytest.skip("refused, as test_positions_that_a_model_does_not_ask_for shows")


def fresh(entry: ZooEntry) -> Any:
    """A copy of the family's model that a test may change."""
    return copy.deepcopy(entry.model())


__all__ = [
    "ALL",
    "EVERY",
    "FAMILIES",
    "HOSTED",
    "IMAGES",
    "MIXED",
    "NEW",
    "PLAIN",
    "ROWS",
    "SQUARE",
    "TAPPED",
    "VIDEOS",
    "WIDE",
    "Asking",
    "Choice",
    "Image",
    "Prompt",
    "Recording",
    "Row",
    "Run",
    "Videos",
    "ZooEntry",
    "assert_close",
    "assert_true",
    "cached",
    "conversation",
    "distance",
    "fresh",
    "images_of",
    "interleaved",
    "last_columns",
    "reduced",
    "seen",
    "skip_unasked",
]
