"""The reference: the plain model, whose language model receives only the kept columns.

The plain model runs on the full prompt of one unpadded row, without a cache, up to its language
model, and the arguments of the language model are recorded. Then the model runs on a text with as
many columns as are kept, and a hook of this file replaces the language model's arguments by the
recorded ones at the kept columns.

This file is independent of the hosts by intent, since it checks them. It takes only the names of
arguments from `lftr.hosts.transformers.api`, and spells further names of transformers itself. No
reduction may be active.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..evidence.attention import attention_modules, replacing_kernels
from ..hosts.transformers.api import CallArguments
from ..values.errors import LftrError, UnsupportedModelError
from ..values.selection import Selection

IDS, EMBEDS, MASK, POSITIONS = map(CallArguments.name, ("ids", "embeds", "mask", "positions"))
VISION_STATES, VISION_MASK = map(CallArguments.name, ("vision_states", "vision_mask"))
CACHE, CACHING = map(CallArguments.name, ("cache", "caching"))
TYPES = "token_type_ids"  # the end of the names of arguments with token types
_PLACEHOLDERS = [f"{m}_token_{end}" for m in ("image", "video") for end in ("id", "index")]
_SUFFIX = {"paligemma": 1}  # the type of generated tokens if not 0: PaliGemma's suffix
_TURNS_BY_FOUR = ("hunyuan_vl",)  # none of their four axes counts the kept columns

ModelInputs = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """The decision about an item of ``size`` tokens."""

    size: int
    selection: Selection

    @property
    def anchors(self) -> Tensor:
        """Which tokens are kept or anchor a merged token, bool ``(size,)``."""
        marks = torch.zeros(self.size, dtype=torch.bool)
        marks[self.selection.index.cpu()] = True
        return marks

    def spread(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(size, ...)`` with the value of each kept token in its anchor's row."""
        return x.index_copy(0, self.selection.index.to(x.device), self.selection.apply(x))


class Reference:
    """The plain model on one row, followed by some tokens.

    Parameters
    ----------
    inputs : dict
        The full inputs of one unpadded row.
    new : sequence of int
        Tokens after the prompt, generated or from a later turn.

    Raises
    ------
    UnsupportedModelError
        If the model does not call its language model with embeddings.
    """

    def __init__(self, model: Any, inputs: ModelInputs, new: Sequence[int] = ()) -> None:
        self.model = model
        self.inputs = append_tokens(model, inputs, new)
        self.count = 1 + len(new)
        self.arguments = language_model_arguments(model, self.inputs)
        self.crosses = self.arguments.get(VISION_STATES) is not None  # by cross-attention

    def logits(
        self,
        choices: Sequence[Choice] | None = None,
        positions: str = "original",
        exponent: float = 0.0,
    ) -> Tensor:
        """Return the logits after the prompt and after each following token.

        Parameters
        ----------
        choices : sequence of Choice, optional
            The decision about each visual item of the row, in order. By default all tokens stay.
        positions : {"original", "compact"}
            Whether kept columns keep their positions or are renumbered.
        exponent : float
            How much the tokens that a slot stands for count: ``exponent * log(weight)`` is added to
            the attention logits of its key.

        Returns
        -------
        Tensor of float32, shape (1 + len(new), V)
            On the CPU.
        """
        if self.crosses:
            fewer = {} if choices is None else _fewer_states(self.model, self.arguments, choices)
            return self._run(self.inputs, fewer)
        columns = _KeptColumns.of(self.model, self.inputs[IDS][0], choices)
        gathered = columns.gathered(self.arguments)
        if (places := self._places()) is not None:
            gathered[POSITIONS] = self._positions_of(columns.take(places, -1), positions)
        if isinstance(mask := self.arguments.get(MASK), Mapping) or getattr(mask, "ndim", 0) == 4:
            # the model made a 4-D mask, in which images attend in both directions, and makes it
            # again for the kept columns
            del gathered[MASK]
        call = self.inputs if self._needs_pixels() else columns.text(self.inputs)
        with _add_bias(self.model.get_decoder(), columns.log_weights() * exponent):
            return self._run(call, gathered)

    def _places(self) -> Tensor | None:
        """Return the positions of the full prompt, counted if the model passes none."""
        places: Tensor | None = self.arguments.get(POSITIONS)
        takes = inspect.signature(self.model.get_decoder().forward).parameters
        if places is None and POSITIONS in takes:
            embeds: Tensor = self.arguments[EMBEDS]
            return torch.arange(embeds.shape[1], device=embeds.device)[None]
        return places

    def _positions_of(self, places: Tensor, positions: str) -> Tensor:
        count = torch.arange(places.shape[-1], device=places.device).expand_as(places[:1])
        if positions == "compact":
            return count.expand_as(places).contiguous()
        if len(places) == 4 and self.model.config.model_type not in _TURNS_BY_FOUR:
            return torch.cat([count, places[1:]])  # the first axis counts the kept columns
        return places

    def _needs_pixels(self) -> bool:
        parameters = inspect.signature(self.model.forward).parameters
        return "pixel_values" in parameters and (
            parameters["pixel_values"].default is inspect.Parameter.empty
        )

    def _run(self, call: ModelInputs, gathered: ModelInputs) -> Tensor:
        call = call | {CACHING: False, "return_dict": True}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            call["logits_to_keep"] = self.count
        with _changed_arguments(self.model, lambda arguments: arguments | gathered):
            output = self.model(**call)
        logits: Tensor = output.logits[0, -self.count :].float().cpu()
        return logits


def visual_columns(model: Any, ids: Tensor) -> Tensor:
    """Return which columns of ``ids`` ``(L,)`` are placeholders of images or videos, bool, CPU.

    Raises
    ------
    UnsupportedModelError
        If the model's configuration names no placeholder.
    """
    named = [getattr(model.config, name, None) for name in _PLACEHOLDERS]
    known = torch.tensor([token for token in named if isinstance(token, int)])
    if not len(known):
        raise UnsupportedModelError(
            f"the configuration of {type(model).__name__} has none of {', '.join(_PLACEHOLDERS)}"
        )
    return torch.isin(ids.cpu(), known)


def append_tokens(model: Any, inputs: ModelInputs, new: Sequence[int]) -> ModelInputs:
    """Return the inputs of one unpadded row with the tokens ``new`` at its end."""
    ids = torch.cat([inputs[IDS], inputs[IDS].new_tensor([list(new)], dtype=torch.long)], dim=1)
    fill = _SUFFIX.get(model.config.model_type, 0)
    out = {**inputs, IDS: ids, MASK: torch.ones_like(ids)}
    for name, value in inputs.items():
        if name.endswith(TYPES):
            out[name] = torch.cat([value, value.new_full((1, len(new)), fill)], dim=1)
        if name == VISION_MASK:
            out[name] = torch.cat([value, value[:, -1:].repeat(1, len(new), 1, 1)], dim=1)
    return out


class _Called(Exception):
    """Raised to end a run when the language model is called."""


def language_model_arguments(model: Any, inputs: ModelInputs) -> ModelInputs:
    """Return the arguments with which the plain ``generate`` calls the language model.

    Raises
    ------
    UnsupportedModelError
        If the model does not call its language model with embeddings.
    """
    arguments: ModelInputs = {}

    def note(passed: ModelInputs) -> ModelInputs:
        arguments.update(passed)
        raise _Called

    settings = {"max_new_tokens": 1, "do_sample": False, "num_beams": 1, CACHING: False}
    try:
        with _changed_arguments(model, note):
            model.generate(**inputs, **settings)
    except _Called:
        pass
    if arguments.get(EMBEDS) is None and arguments.get(VISION_STATES) is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} passes no {EMBEDS} to its language model, so there are no "
            "columns to gather"
        )
    return arguments


@contextmanager
def _changed_arguments(model: Any, change: Callable[[ModelInputs], ModelInputs]) -> Iterator[None]:
    """Replace the arguments of the language model by what ``change`` returns for them."""
    module: Any = model.get_decoder()

    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: ModelInputs
    ) -> tuple[tuple[Any, ...], ModelInputs]:
        named = inspect.signature(module.forward).bind_partial(*args).arguments
        return (), change({**named, **kwargs})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _add_bias(decoder: nn.Module, bias: Tensor) -> Iterator[None]:
    """Add ``bias`` ``(L,)`` to the attention logits of the decoder's keys, by an additive mask."""
    if not bool(bias.any()):
        yield
        return

    def attend(
        kernel: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any
    ) -> Any:
        if key.shape[2] != len(bias):  # not over the columns
            return kernel(module, query, key, value, mask, **more)
        lowest = torch.finfo(query.dtype).min
        if mask is None:
            mask = torch.ones(len(bias), len(bias), dtype=torch.bool, device=query.device)
            mask = mask.tril()[None, None, -query.shape[2] :]  # the last rows, if not all
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
        return kernel(module, query, key, value, mask + bias.to(mask), **more)

    with replacing_kernels({id(module): attend for module in attention_modules(decoder)}):
        yield


@dataclass(frozen=True)
class _KeptColumns:
    """The kept columns ``index``, visual and text, of a prompt with ``length`` columns.

    Attributes
    ----------
    visual : Tensor of bool, shape (length,)
        Which columns of the prompt are placeholders.
    choices : sequence of Choice
        The decisions about the items at these placeholders.
    """

    length: int
    index: Tensor
    visual: Tensor
    choices: Sequence[Choice]

    @classmethod
    def of(cls, model: Any, ids: Tensor, choices: Sequence[Choice] | None) -> _KeptColumns:
        visual = visual_columns(model, ids)
        there = int(visual.sum())
        if choices is None:
            choices = [Choice(there, Selection.everything(there))] if there else []
        decided = sum(choice.size for choice in choices)
        if decided != there:
            raise LftrError(
                f"the prompt has {there} placeholders, the method decided about {decided} tokens"
            )
        keep = ~visual
        if choices:
            keep[visual] = torch.cat([choice.anchors for choice in choices])
        return cls(len(ids), keep.nonzero().squeeze(1), visual, choices)

    def log_weights(self) -> Tensor:
        """Return the logarithm of the number of tokens that each kept column stands for."""
        logs = torch.zeros(self.length)
        seen = self.visual.nonzero().squeeze(1).split([choice.size for choice in self.choices])
        for place, choice in zip(seen, self.choices, strict=True):
            index = choice.selection.index.cpu()
            logs[place[index]] = choice.selection.weight.cpu().log()
        return logs[self.index]

    def text(self, inputs: ModelInputs) -> ModelInputs:
        """Return a text with as many columns; a hook replaces its embeddings and positions."""
        ids: Tensor = inputs[IDS]
        words = ids[0][~self.visual.to(ids.device)]
        ids = self.take(ids.masked_fill(self.visual.to(ids.device), int(words[0])), 1)
        types = {name: self.take(x, 1) for name, x in inputs.items() if name.endswith(TYPES)}
        return {IDS: ids, MASK: torch.ones_like(ids), **types}

    def gathered(self, arguments: Mapping[str, Any]) -> ModelInputs:
        """Return the language model's arguments at these columns, without positions."""
        embeds: Tensor = arguments[EMBEDS]
        seen = self.visual.nonzero().squeeze(1).to(embeds.device)
        merged = embeds.index_copy(1, seen, self._merged(embeds[0, seen])[None])
        replaced = (MASK, IDS, POSITIONS)
        some = {n: x for n, x in arguments.items() if isinstance(x, (Tensor, list, tuple, dict))}
        out = {name: self._at(value) for name, value in some.items() if name not in replaced}
        out[EMBEDS] = self.take(merged, 1)
        out[MASK] = torch.ones(out[EMBEDS].shape[:2], dtype=torch.long, device=embeds.device)
        return out

    def _at(self, value: Any) -> Any:
        """Return an argument, gathered where it has one row per column or per visual token."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._at(one) for one in value)
        if isinstance(value, dict):
            return {name: self._at(one) for name, one in value.items()}
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        if value.ndim > 1 and value.shape[:2] == (1, self.length):
            return self.take(value, 1)
        if len(value) == int(self.visual.sum()):  # a row for each visual token, as DeepStack has
            marks = torch.cat([choice.anchors for choice in self.choices])
            return self._merged(value)[marks.to(value.device)]
        return value

    def take(self, x: Tensor, dim: int) -> Tensor:
        """Return the kept columns of a tensor that is aligned with the prompt."""
        return x.index_select(dim, self.index.to(x.device))

    def _merged(self, x: Tensor) -> Tensor:
        """Return rows of visual tokens, in which merged rows replace their anchors."""
        if not self.choices:
            return x
        parts = zip(self.choices, x.split([choice.size for choice in self.choices]), strict=True)
        return torch.cat([choice.spread(part) for choice, part in parts])


def _fewer_states(
    model: Any, arguments: Mapping[str, Any], choices: Sequence[Choice]
) -> ModelInputs:
    """Return the kept vision states for cross-attention; the class token of each tile stays."""
    states: Tensor = arguments[VISION_STATES]
    each = states.shape[-2]  # a tile's class token and patches
    most = int(model.config.vision_config.max_num_tiles)
    flat = states.reshape(1, -1, states.shape[-1]).clone()
    columns: list[int] = []
    for number, choice in enumerate(choices):
        first = number * most * each
        tiles = [first + tile * each for tile in range(choice.size // (each - 1))]
        patches = [tile + 1 + patch for tile in tiles for patch in range(each - 1)]
        flat[0, patches] = choice.spread(flat[0, patches])
        kept = [column for column, stays in zip(patches, choice.anchors, strict=True) if stays]
        columns += sorted([*tiles, *kept])
    return {VISION_STATES: flat[:, columns], VISION_MASK: arguments[VISION_MASK][..., columns]}
