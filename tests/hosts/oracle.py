"""Ground truth: the plain language model, run on embeddings that were gathered by hand.

The plain model runs once on the full prompt of one row, without padding and without a cache, and
what it hands to its language model is written down. The kept columns of all of it are gathered,
and the plain language model runs again on those. Nothing of lftr's host takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from lftr import Selection


@dataclass(frozen=True)
class Choice:
    """What was decided about an item of `size` tokens."""

    size: int
    selection: Selection

    @property
    def anchors(self) -> Tensor:
        """Which tokens hold a slot, bool `(size,)`."""
        marks = torch.zeros(self.size, dtype=torch.bool)
        marks[self.selection.index] = True
        return marks

    @property
    def log_weight(self) -> Tensor:
        """The logarithm of how many tokens each slot stands for, at its anchor, `(size,)`.

        Counted from the flow, entry by entry.
        """
        total, flow = torch.zeros(self.size), self.selection.flow
        if self.selection.slot_weight is not None:
            return total.index_copy(0, self.selection.index, self.selection.slot_weight.log())
        if flow is None:
            return total
        parts: dict[int, float] = {}
        for source, weight in zip(flow.source.tolist(), flow.weight.tolist(), strict=True):
            parts[source] = parts.get(source, 0.0) + abs(weight)
        entries = zip(flow.source.tolist(), flow.slot.tolist(), flow.weight.tolist(), strict=True)
        for source, slot, weight in entries:
            if weight:
                total[self.selection.index[slot]] += abs(weight) / parts[source]
        return total.where(total > 0, 1.0).log()

    def spread(self, x: Tensor) -> Tensor:
        """`x` with every slot's value in the place of its anchor."""
        return x.index_copy(0, self.selection.index, self.selection.apply(x))


def true_logits(
    model: Any,
    inputs: dict[str, Any],
    visual: Tensor,
    choices: Sequence[Choice],
    new: Sequence[int] = (),
    positions: str = "original",
    placed: Callable[[Tensor], Tensor] = torch.Tensor.clone,
    exponent: float = 1.0,
) -> Tensor:
    """Logits of the last column and of each of `new` after it, `(1 + len(new), V)`.

    Parameters
    ----------
    inputs : dict
        The full inputs of one unpadded row.
    visual : Tensor of bool, shape (L,)
        Columns of the prompt that are visual tokens.
    choices : sequence of Choice
        For each item of the row, in order.
    new : sequence of int
        Tokens that were generated.
    placed : callable
        Makes the positions of the row alone those that it has in its batch.
    exponent : float
        How much the slots' weights count in attention.
    """
    keep, logits = gathered(model, inputs, visual, choices, new, positions, placed, exponent)
    return logits[int(keep.sum()) - 1 :]


def gathered(
    model: Any,
    inputs: dict[str, Any],
    visual: Tensor,
    choices: Sequence[Choice],
    new: Sequence[int] = (),
    positions: str = "original",
    placed: Callable[[Tensor], Tensor] = torch.Tensor.clone,
    exponent: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Which columns of the prompt stay `(L,)`, and the logits of all of them and of `new`."""
    slots = on_slots(model, inputs, visual, choices, new, positions, placed)
    with torch.no_grad(), weighed(language_model(model), slots.log_weight * exponent):
        hidden = slots.run(**slots.call)[0]
    return slots.keep, head(model, hidden)[0]


def repeated_logits(
    model: Any,
    inputs: dict[str, Any],
    visual: Tensor,
    choices: Sequence[Choice],
    new: Sequence[int] = (),
) -> Tensor:
    """Logits of the last column and of each of `new`, `(1 + len(new), V)`, without any weight.

    A slot of weight `s` stands `s` times in the prompt, at one position. Its copies see each other
    and are seen by whatever sees the slot: else they would not be equal after a layer.
    """
    slots = on_slots(model, inputs, visual, choices, new, "original", torch.Tensor.clone)
    inner = language_model(model)
    call = slots.call
    if slots.run is not inner:  # it makes masks
        call = handed(model, lambda: slots.run(**slots.call))
    times = slots.log_weight.exp().round().long()
    column = torch.arange(len(times)).repeat_interleave(times)

    def mask(made: Any) -> Any:
        if isinstance(made, dict):
            return {kind: mask(one) for kind, one in made.items()}
        if made is None or made.ndim == 2:
            made = torch.ones(len(times), len(times), dtype=torch.bool).tril()[None, None]
        if made.dtype == torch.bool:
            made = torch.where(made, 0.0, torch.finfo(torch.float32).min)
        return made[..., column, :][..., column]

    more = dict(call) | {
        "inputs_embeds": call["inputs_embeds"][:, column],
        "position_ids": call["position_ids"][..., column],
        "attention_mask": mask(call["attention_mask"]),
    }
    marks = call.get("visual_pos_masks")
    if marks is not None:
        more["visual_pos_masks"] = marks[:, column]
        copies = torch.arange(int(marks.sum())).repeat_interleave(times[marks[0]])
        more["deepstack_visual_embeds"] = [p[copies] for p in call["deepstack_visual_embeds"]]
    with torch.no_grad():
        hidden = inner(**more)[0]
    return head(model, hidden)[0, -1 - len(new) :]


@dataclass(frozen=True)
class Slots:
    """What the plain language model is given of a row's slots, and the text around them.

    `run` is the language model, or the model around it where that makes the masks.
    """

    keep: Tensor
    run: Any
    call: dict[str, Any]
    log_weight: Tensor


def on_slots(
    model: Any,
    inputs: dict[str, Any],
    visual: Tensor,
    choices: Sequence[Choice],
    new: Sequence[int],
    positions: str,
    placed: Callable[[Tensor], Tensor],
) -> Slots:
    """Gather what the plain model hands to its language model."""
    keep = ~visual
    if choices:
        keep[visual] = torch.cat([choice.anchors for choice in choices])
    whole = torch.cat([keep, torch.ones(len(new), dtype=torch.bool)])
    longer, types = lengthened(model, inputs, new)
    places = placed(full_positions(model, inputs, len(new)))
    if positions == "compact":
        places = (whole.cumsum(0) - 1).expand_as(places)
    given = handed_over(model, longer | types | {"position_ids": places, "use_cache": False})

    def merged(x: Tensor) -> Tensor:
        parts = x.split([choice.size for choice in choices])
        pairs = zip(choices, parts, strict=True)
        return torch.cat([choice.spread(part) for choice, part in pairs])

    index = whole.nonzero().squeeze(1)
    embeds = given["inputs_embeds"].clone()
    if choices:
        seen = torch.cat([visual, torch.zeros(len(new), dtype=torch.bool)])
        embeds[0, seen] = merged(embeds[0, seen])
    call = {
        "inputs_embeds": embeds[:, index],
        "position_ids": text_axis(model, places[..., index]),
        "attention_mask": torch.ones(1, len(index), dtype=torch.long),
        "use_cache": False,
    }
    for name in ("per_layer_inputs", "ple_input_ids", "moe_mm_token_type_ids"):
        if given.get(name) is not None:
            call[name] = given[name][:, index]
    marks = given.get("visual_pos_masks")
    if marks is not None:
        call["visual_pos_masks"] = marks[:, index]
        planes = [merged(plane) for plane in given["deepstack_visual_embeds"]]
        call["deepstack_visual_embeds"] = [plane[whole[marks[0]]] for plane in planes]
    by_layer = given.get("deepstack_features")
    if by_layer is not None:  # Granite 4 Vision has no embeddings of an image beside its planes
        call["vision_mask"] = given["vision_mask"][:, index]
        call["deepstack_features"] = {
            layer: merged(plane)[whole[seen]] for layer, plane in by_layer.items()
        }
    # a model that makes its decoder's masks itself (images see both ways) is run one level higher
    mask = given.get("attention_mask")
    own_masks = isinstance(mask, dict) or getattr(mask, "ndim", 0) == 4
    plain = model.base_model if own_masks else language_model(model)
    if own_masks:
        call |= {name: values[:, index] for name, values in types.items()}
    bias = torch.zeros(len(whole))
    if choices:
        bias[seen] = torch.cat([choice.log_weight for choice in choices])
    return Slots(keep, plain, call, bias[index])


def language_model(model: Any) -> Any:
    base = model.base_model  # Chameleon's is its language model
    names = ("language_model", "text_model", "model")
    return next((getattr(base, name) for name in names if hasattr(base, name)), base)


@contextmanager
def weighed(inner: Any, bias: Tensor) -> Iterator[None]:
    """Add `bias` to the logits of the keys in every attention layer, by an additive mask.

    For one row without padding and without a cache: a layer without a mask sees all columns before.
    The mask is changed where the kernel gets it, after layers that choose keys by it have done so.
    """
    if not bias.any():
        yield
        return
    lowest = torch.finfo(bias.dtype).min
    causal = torch.full((len(bias), len(bias)), lowest).triu(1)[None, None]
    layers = getattr(inner, "layers", None) or inner.model.layers
    own = {part for layer in layers for part in layer.modules()}
    plain = AttentionInterface.get_interface

    def look_up(table: Any, name: str, default: Any) -> Any:
        kernel = plain(table, name, default)

        def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, *rest: Any, **more: Any) -> Any:
            if module in own and k.shape[2] == len(bias):  # else not over the columns
                mask = causal if mask is None else mask
                mask = torch.where(mask, 0.0, lowest) if mask.dtype == torch.bool else mask
                mask = mask + bias
            return kernel(module, q, k, v, mask, *rest, **more)

        return attend

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionInterface, "get_interface", look_up)
        yield


class _Handed(Exception):
    """Ends the plain run once the language model's arguments are known."""


def handed_over(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the plain model gives its language model for `inputs`."""
    return handed(model, lambda: model.forward(**inputs))  # past hooks, a reduction's too


def handed(model: Any, run: Callable[[], Any]) -> dict[str, Any]:
    """What the language model is given while `run` runs the model."""
    found: dict[str, Any] = {}
    inner = language_model(model)
    apart = inner is not model.base_model  # otherwise the first layer is what is handed embeddings

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(kwargs if apart else kwargs | {"inputs_embeds": args[0]})
        raise _Handed

    first = inner if apart else inner.layers[0]
    handle = first.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    except _Handed:
        pass
    finally:
        handle.remove()
    return found


# what stands for a generated token in token_type_ids: 1 is PaliGemma's causal suffix
SUFFIX = {"paligemma": 1}


def lengthened(
    model: Any, inputs: dict[str, Any], new: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inputs with `new` at their end, and the token types among them."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([list(new)], dtype=torch.long)], dim=1)
    fills = {
        "token_type_ids": SUFFIX.get(model.config.model_type, 0),
        "mm_token_type_ids": 0,
        "moe_mm_token_type_ids": 0,
    }
    types = {
        name: torch.cat([inputs[name], inputs[name].new_full((1, len(new)), fill)], dim=1)
        for name, fill in fills.items()
        if name in inputs
    }
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    return rest | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, types


def full_positions(model: Any, inputs: dict[str, Any], new: int) -> Tensor:
    """Positions of the full prompt as the plain `generate` gives them, and of `new` tokens more."""
    ids = inputs["input_ids"]
    places = model._prepare_position_ids_for_generation(ids, dict(inputs))
    places = places.expand(*places.shape[:-2], *ids.shape)
    return torch.cat([places, places[..., -1:] + torch.arange(1, new + 1)], dim=-1)


def text_axis(model: Any, places: Tensor) -> Tensor:
    """M-RoPE's text axis says how many tokens came before, whatever was dropped.

    HunYuan-VL has none: its first axis is one of four that turn queries and keys.
    """
    if places.ndim != 3 or len(places) != 4 or model.config.model_type == "hunyuan_vl":
        return places
    return torch.cat([torch.arange(places.shape[-1])[None, None], places[1:]])


def head(model: Any, hidden: Tensor) -> Tensor:
    text = model.config.get_text_config()
    if hidden.shape[-1] == text.vocab_size:  # Llama 4's language model has the head
        return hidden
    logits = model.get_output_embeddings()(hidden) * getattr(model, "logit_scale", 1.0)
    if model.config.model_type == "hyperclovax_vision_v2":
        logits = logits * text.logits_scaling
    if model.config.model_type == "chameleon":  # it answers in text, never in codes of an image
        codes = model.base_model.vocabulary_mapping.image_tokens
        logits[..., codes] = torch.finfo(logits.dtype).min
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
