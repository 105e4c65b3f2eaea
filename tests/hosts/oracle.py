"""Ground truth: the plain language model, run on embeddings that were gathered by hand.

The plain model runs once on the full prompt of one row, without padding and without a cache, and
what it hands to its language model is written down. The kept columns of all of it are gathered,
and the plain language model runs again on those. Nothing of lftr's host takes part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Handed(Exception):
    """Ends the plain run once the language model's arguments are known."""


def language_model(model: Any) -> Any:
    base = model.base_model
    return getattr(base, "language_model", None) or base.text_model


def handed_over(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the plain model gives its language model for ``inputs``."""
    found: dict[str, Any] = {}

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(kwargs)
        raise _Handed

    handle = language_model(model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    except _Handed:
        pass
    finally:
        handle.remove()
    return found


def gathered_logits(
    model: Any, inputs: dict[str, Any], keep: Tensor, position_ids: Tensor, new: list[int]
) -> Tensor:
    """Logits of the last column and of each of ``new`` after it, for one unpadded row.

    Parameters
    ----------
    inputs : dict
        The row's full inputs.
    keep : Tensor of bool, shape (L,)
        Columns that stay.
    position_ids : Tensor, shape (..., 1, L)
        Positions of the full prompt, as the plain ``generate`` gives them.
    new : list of int
        Tokens that were generated.
    """
    ids = torch.cat([inputs["input_ids"], torch.tensor([new], dtype=torch.long)], dim=1)
    longer = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
    types = {
        name: torch.cat([inputs[name], inputs[name].new_full((1, len(new)), fill)], dim=1)
        for name, fill in (("token_type_ids", _SUFFIX.get(model.config.model_type, 0)),
                           ("mm_token_type_ids", 0))
        if name in inputs
    }  # fmt: skip
    steps = torch.arange(1, len(new) + 1)
    position_ids = torch.cat([position_ids, position_ids[..., -1:] + steps], dim=-1)
    whole = torch.cat([keep, torch.ones(len(new), dtype=torch.bool)])
    given = handed_over(model, longer | types | {"position_ids": position_ids, "use_cache": False})

    index = whole.nonzero().squeeze(1)
    positions = position_ids[..., index]
    if positions.ndim == 3 and len(positions) == 4:  # the text axis says how many tokens came before
        positions = torch.cat([torch.arange(len(index))[None, None], positions[1:]])
    call = {
        "inputs_embeds": given["inputs_embeds"][:, index],
        "position_ids": positions,
        "attention_mask": torch.ones(1, len(index), dtype=torch.long),
        "use_cache": False,
    }
    if given.get("per_layer_inputs") is not None:
        call["per_layer_inputs"] = given["per_layer_inputs"][:, index]
    marks = given.get("visual_pos_masks")
    if marks is not None:
        rows = whole[marks[0]]
        call["visual_pos_masks"] = marks[:, index]
        call["deepstack_visual_embeds"] = [p[rows] for p in given["deepstack_visual_embeds"]]
    # a model that makes its decoder's masks itself (images see both ways) is run one level higher
    mask = given.get("attention_mask")
    own_masks = isinstance(mask, dict) or getattr(mask, "ndim", 0) == 4
    plain = model.base_model if own_masks else language_model(model)
    if own_masks:
        call |= {name: values[:, index] for name, values in types.items()}
    with torch.no_grad():
        hidden = plain(**call)[0]
    return _logits(model, hidden)[0, int(keep.sum()) - 1 :]


# what stands for a generated token in token_type_ids: 1 is PaliGemma's causal suffix
_SUFFIX = {"paligemma": 1}


def _logits(model: Any, hidden: Tensor) -> Tensor:
    text = model.config.get_text_config()
    if hidden.shape[-1] == text.vocab_size:  # Llama 4's language model has the head
        return hidden
    logits = model.get_output_embeddings()(hidden) * getattr(model, "logit_scale", 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
