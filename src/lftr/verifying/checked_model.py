"""The model under verification, its prompts, and how the checks call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ..evidence.guidance import Guidance
from ..media.picture import read_image
from ..methods.base import Method
from ..methods.inside.base import LayerMethod
from ..prompting import MediaAndText, batch_inputs
from ..reducing import reduce
from ..values.budget import Keep, as_arguments, resolve, stated
from ..values.errors import LftrError
from .recorders import Recorder
from .reference import IDS, MASK, Choice, ModelInputs, visual_columns
from .traces import traces

if TYPE_CHECKING:
    from ..evidence.text import TextTower

_SIZES = ((320, 240), (240, 320), (256, 256), (384, 192))


class SkippedCheck(Exception):
    """Raised if a check does not apply; the text gives the reason."""


@dataclass(frozen=True)
class Prompt:
    """Inputs of a batch and of each row alone, and the number of media in each row."""

    inputs: ModelInputs
    rows: Sequence[ModelInputs]
    media: Sequence[int]


@dataclass(frozen=True)
class GenerateResult:
    """The result of ``generate`` for a prompt.

    Attributes
    ----------
    tokens : list of list of int
        The new tokens of each row.
    logits : list of Tensor
        The unprocessed logits of each row, float32 ``(steps, V)``, on the CPU.
    output : object
        The whole output.
    """

    tokens: list[list[int]]
    logits: list[Tensor]
    output: Any


@dataclass(frozen=True)
class CheckedModel:
    """A model with the settings of its reduction and of the checks.

    Attributes
    ----------
    model, processor
        The model in evaluation mode, and its processor.
    method, keep, positions, weights, text_tower
        As in `lftr.reduce`.
    inside : LayerMethod, optional
        The method to check inside the language model, by default FastV.
    pictures : sequence of PIL.Image.Image
        At least four pictures for the prompts.
    steps : int
        Number of tokens to generate.
    left : set of str
        Modules on which an ended reduction left an attribute or a hook.
    """

    model: Any
    processor: Any
    method: Method
    keep: Keep | Literal["auto"]
    positions: str | None
    weights: str | float | None
    inside: LayerMethod | None
    text_tower: TextTower | None
    pictures: Sequence[Image.Image]
    steps: int
    left: set[str] = field(default_factory=set)

    def prompt(self, *questions: MediaAndText) -> Prompt:
        """Return the inputs of some questions about media.

        Raises
        ------
        SkippedCheck
            If a question has other ids in a batch than alone.
        """
        rows = [self._inputs([one]) for one in questions]
        media = [len(images) for images, _ in questions]
        if len(questions) == 1:
            return Prompt(rows[0], rows, media)
        batch = self._inputs(questions)
        for number, row in enumerate(rows):
            if not torch.equal(batch[IDS][number][batch[MASK][number].bool()], row[IDS][0]):
                raise SkippedCheck(
                    f"the processor gives question {number} other ids in a batch than alone"
                )
        return Prompt(batch, rows, media)

    def _inputs(self, questions: Sequence[MediaAndText]) -> ModelInputs:
        made = batch_inputs(self.processor, questions)
        inputs = {name: self._to_model(value) for name, value in made.items() if name != "labels"}
        inputs.setdefault(MASK, torch.ones_like(inputs[IDS]))
        return inputs

    def _to_model(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(self.model.device, dtype)

    def generate(self, inputs: ModelInputs, **options: Any) -> GenerateResult:
        """Call ``generate``: greedy and `steps` tokens, unless the options differ."""
        settings: dict[str, Any] = {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": self.steps,
            "min_new_tokens": self.steps,
            "return_dict_in_generate": True,
            "output_logits": True,
        }
        with _seeded():  # for sampling
            output = self.model.generate(**inputs, **settings | options)
        tokens = output.sequences[:, -self.steps :].tolist()
        beams = getattr(output, "beam_indices", None)
        logits = []
        for row in range(len(tokens)):
            places = [row] * self.steps if beams is None else beams[row, : self.steps].tolist()
            steps = zip(output.logits, places, strict=True)
            logits.append(torch.stack([step[place].float().cpu() for step, place in steps]))
        return GenerateResult(tokens, logits, output)

    @contextmanager
    def reduced(self, keep: float | None = None) -> Iterator[RecordedReduction]:
        """Reduce the model while the body runs, and record the decisions.

        ``keep`` replaces that of the model.
        """
        recorder = Recorder(self.method)
        budget = self.keep if keep is None else keep
        options = {
            **as_arguments(budget),
            "positions": self.positions,
            "guidance": Guidance(None, self.processor, self.text_tower),
        }
        with self.reduced_by(recorder, **options) as reduction:
            positions = str(reduction.host.plan.positions)
            exponent = reduction.host.plan.weights
            yield RecordedReduction(self.model, recorder, budget, positions, exponent)

    @contextmanager
    def reduced_by(self, method: Method | LayerMethod, **options: Any) -> Iterator[Any]:
        """Reduce the model while the body runs, and add to `left` what remains on it."""
        before = traces(self.model)
        try:
            with reduce(self.model, method, weights=self.weights, **options) as reduction:
                yield reduction
        finally:
            after = traces(self.model)
            changed = {name or "the model" for name in before if before[name] != after.get(name)}
            self.left.update(changed)


@dataclass(frozen=True)
class RecordedReduction:
    """An active reduction: its recorded decisions, positions, and exponent of slots' weights."""

    model: Any
    recorder: Recorder
    keep: Keep | Literal["auto"]
    positions: str
    exponent: float

    def choices(self, prompt: Prompt) -> list[list[Choice]]:
        """Return the decisions about the items of each row.

        Raises
        ------
        SkippedCheck
            If the method was not called, because all tokens stay.
        LftrError
            If the method was not called though tokens should be dropped, or saw other tokens.
        """
        pairs = zip(self.recorder.sizes, self.recorder.selections, strict=True)
        decided = [Choice(size, selection) for size, selection in pairs]
        places = [int(visual_columns(self.model, row[IDS][0]).sum()) for row in prompt.rows]
        if not decided:
            if self._drops(places, prompt.media):
                raise LftrError(
                    f"nothing was reduced at {stated(self.keep)}: the method was not called"
                )
            raise SkippedCheck(f"every token stays at {stated(self.keep)}; choose a smaller number")
        one_each = len(decided) == sum(places)  # one placeholder per item: cross-attention
        choices: list[list[Choice]] = [[] for _ in places]
        for row, left in enumerate(places):
            while left > 0 and decided:
                choices[row].append(decided.pop(0))
                left -= 1 if one_each else choices[row][-1].size
        if decided:
            raise LftrError(
                "the method decided about more items than the rows have placeholders for"
            )
        return choices

    def _drops(self, places: Sequence[int], media: Sequence[int]) -> bool:
        """Whether this ratio must drop tokens of some row, however they are distributed."""
        keep = self.keep
        if not isinstance(keep, float):
            return False
        rows = zip(places, media, strict=True)
        return any(resolve(keep, total) + items < total for total, items in rows if total)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the CPU and all devices while the body runs; then their random states are as before.

    Devices that are not initialised are left alone: torch would remember the seed for them, and
    they would begin with it instead of the user's.
    """
    kind = torch.accelerator.current_accelerator(check_available=True)
    devices: list[torch.device] = []
    if kind is not None and _is_initialised(kind):
        devices = [torch.device(kind.type, i) for i in range(torch.accelerator.device_count())]
    seed = torch.manual_seed if devices else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices, device_type="cuda" if kind is None else kind.type):
        seed(0)
        yield


def _is_initialised(kind: torch.device) -> bool:
    is_initialised = getattr(torch.get_device_module(kind), "is_initialized", None)
    return is_initialised is None or bool(is_initialised())  # MPS has no such function


def pictures(images: Sequence[Image.Image], seed: int) -> list[Image.Image]:
    """Return at least four pictures: ``images``, then smooth random colours in several sizes."""
    draw = torch.Generator().manual_seed(seed)
    drawn = []
    for size in _SIZES[len(images) :]:
        coarse = torch.randint(0, 256, (7, 9, 3), generator=draw, dtype=torch.uint8)
        drawn.append(Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC))
    return [*map(read_image, images), *drawn]
