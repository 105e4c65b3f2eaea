"""Training exit gates on a model that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...methods.operations.exit_gates import Gates, MadeFor
from ...options.checks import Range, check
from ...values.errors import ArgumentError
from .labels import Taught
from .layers import exit_layers

Same = Literal["loss", "agreement"]
_LOSS: dict[Same, float] = {"loss": 1.03, "agreement": float("inf")}


def fit_exit(
    model: Any,
    data: Iterable[Mapping[str, Any]],
    *,
    rule: Same = "loss",
    draws: int = 4,
    width: int = 64,
    steps: int = 300,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Gates:
    """Train the gates of `DyVTE` for a model, which is not changed.

    For each example some layers are drawn. Its answer is forced with the whole model and with the
    image gone before that layer; where the answer stays the same, the layer's gate learns to exit.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that `lftr.reduce` takes.
    data : iterable of mapping
        Examples as for training: the inputs of one prompt with its answer, and ``labels``, -100
        where the prompt is.
    rule : {"loss", "agreement"}
        When an answer counts as the same: if more than 99 % of its tokens stay the likeliest, and,
        by ``"loss"``, if its loss stays below 1.03 of the whole model's, as published.
    draws : int
        Layers drawn for each example, as published 1; none twice.
    width : int
        Features inside a gate, as published 2048.
    steps : int
        Steps of AdamW for each gate, each on all examples that drew its layer.
    learning_rate : float
        Of AdamW.
    seed : int
        Of the draws and the gates.

    Returns
    -------
    Gates
        For ``lftr.methods.DyVTE(gates)``; `Gates.save` writes them. The gate of a layer that no
        example drew never exits.

    Raises
    ------
    LftrError
        If an option is out of its range, an example is not one prompt with its answer, or the model
        cannot be reduced inside.

    Notes
    -----
    Source: DyVTE (arXiv 2411.19628): one layer drawn for each of 6,650 examples, 1 % of LLaVA-665k.
    """
    from ...hosts.transformers.encoder.encode_cache import encode_once

    check("rule", rule, Same)
    for name, value in {"draws": draws, "width": width, "steps": steps}.items():
        check(name, value, Annotated[int, Range(1)])
    chance = torch.Generator().manual_seed(seed)
    gates = Gates(MadeFor.of(model.config), width)
    layers = torch.tensor(exit_layers(model))
    seen: dict[int, list[tuple[Tensor, bool]]] = {}
    if isinstance(data, Mapping):
        raise ArgumentError.of("data", sorted(data), "several examples, a mapping each")
    for inputs in data:
        drawn = layers[torch.randperm(len(layers), generator=chance)[:draws]].tolist()
        with encode_once(model):
            taught = Taught.by(model, inputs)
            for layer in drawn:
                label = taught.needs_no_image(model, layer, agreement=0.99, loss=_LOSS[rule])
                seen.setdefault(layer, []).append((taught.features[layer].cpu(), label))
    if not seen:
        raise ArgumentError.of("data", data, "at least one example")
    for layer, examples in sorted(seen.items()):
        gate = gates.gates[layer - 1]
        nn.init.kaiming_uniform_(gate[0].weight, a=5**0.5, generator=chance)  # type: ignore[index]
        features = torch.stack([x for x, _ in examples])
        labels = torch.tensor([label for _, label in examples])
        _train(gate, features, labels, steps, learning_rate)
    return gates.eval().requires_grad_(False)


@torch.enable_grad()
def _train(gate: nn.Module, features: Tensor, labels: Tensor, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(gate.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(gate(features), labels.long()).backward()
        optimizer.step()
