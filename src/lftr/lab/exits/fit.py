"""Training exit gates for a model whose weights stay fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...methods.inside.base import LayerMethod, LayerView
from ...methods.inside.schedules import Exit, Schedule
from ...methods.inside.static_exit import StaticExit
from ...methods.operations.exit_gates import Gates, MadeFor, features_of
from ...options.checks import Range, check
from ...reducing import reduce
from ...values.errors import ArgumentError
from .calibrate import exit_layers

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
    """Train the gates of `DyVTE` for a model, whose weights stay fixed.

    For each example some layers are drawn. Its answer is forced (teacher forcing) with the full
    model and with the visual tokens dropped before the layer. If the answer stays the same, the
    layer's gate learns to exit.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that `lftr.reduce` takes.
    data : iterable of mapping
        Examples as for training: the inputs of one prompt with its answer, and ``labels`` that are
        -100 at the tokens of the prompt.
    rule : {"loss", "agreement"}
        An answer counts as the same if more than 99 % of its tokens stay the likeliest and, with
        ``"loss"``, its loss also stays below 1.03 times the full model's, as published.
    draws : int
        Number of different layers drawn for each example; 1 in the paper.
    width : int
        Number of features inside a gate; 2048 in the paper.
    steps : int
        Steps of AdamW for each gate, each on all examples that drew its layer.
    learning_rate : float
        Learning rate of AdamW.
    seed : int
        Seed of the drawn layers and of the gates' weights.

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
    from ...hosts.transformers.eval_mode import evaluating
    from ...hosts.transformers.wrapped import unwrapped

    model = unwrapped(model)
    check("rule", rule, Same)
    for name, value in {"draws": draws, "width": width, "steps": steps}.items():
        check(name, value, Annotated[int, Range(1)])
    chance = torch.Generator().manual_seed(seed)
    gates = Gates(MadeFor.of(model.config), width)
    layers = torch.tensor(exit_layers(model))
    examples_of: dict[int, list[tuple[Tensor, bool]]] = {}
    if isinstance(data, Mapping):
        raise ArgumentError.of("data", sorted(data), "several examples, a mapping each")
    with evaluating(model):
        for inputs in data:
            drawn = layers[torch.randperm(len(layers), generator=chance)[:draws]].tolist()
            with encode_once(model):
                full = FullRun.of(model, inputs)
                for layer in drawn:
                    label = full.needs_no_image(model, layer, agreement=0.99, loss=_LOSS[rule])
                    examples_of.setdefault(layer, []).append((full.features[layer].cpu(), label))
    if not examples_of:
        raise ArgumentError.of("data", data, "at least one example")
    for layer, examples in sorted(examples_of.items()):
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


@dataclass(frozen=True)
class FeatureReader(LayerMethod, spelled=False):
    """Drops nothing, and records the features that the gate of each layer would see.

    Parameters
    ----------
    answer : int
        Number of tokens of the answer at the end of the prompt, which a gate never sees.
    features : dict of int to Tensor
        Features of each layer, filled as the model runs.
    """

    answer: int
    features: dict[int, Tensor] = field(default_factory=dict)
    schedule: Schedule = Exit(1.0)

    def watches(self, depth: int) -> frozenset[int]:
        """Return all layers but the first."""
        return frozenset(range(1, depth))

    def observe(self, view: LayerView) -> None:
        """Record the features of a layer's gate."""
        end = len(view.states) - self.answer
        text = view.text[view.text < end]
        last = torch.tensor([end - 1], device=text.device)
        self.features[view.layer] = features_of(view.states, text if len(text) else last)


@dataclass(frozen=True)
class FullRun:
    """One example as the full model runs it.

    Attributes
    ----------
    inputs : mapping
        Inputs of one prompt with its answer, and ``labels``.
    features : dict of int to Tensor
        Features that the gate of each layer sees.
    loss : float
        Loss of the answer, mean over its tokens.
    predicted : Tensor of int64
        The likeliest token at each position of the answer.
    """

    inputs: Mapping[str, Any]
    features: dict[int, Tensor]
    loss: float
    predicted: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> FullRun:
        """Run the full model on a prompt with its answer.

        Raises
        ------
        ArgumentError
            If there is not exactly one prompt, with an image and an answer.
        """
        reader = FeatureReader(_answer_length(inputs))
        with reduce(model, reader):
            out = model(**inputs)
        if not reader.features:
            raise ArgumentError.of("data", sorted(inputs), "inputs with an image")
        predicted = _predict(out.logits, inputs["labels"])
        return cls(inputs, reader.features, float(out.loss), predicted)

    @torch.no_grad()
    def needs_no_image(self, model: Any, layer: int, agreement: float, loss: float) -> bool:
        """Whether the answer stays the same if the visual tokens are dropped before ``layer``.

        Parameters
        ----------
        agreement : float
            The share of the answer's tokens that stay the likeliest must exceed this.
        loss : float
            The loss must stay below this multiple of the full model's.
        """
        with reduce(model, StaticExit(Exit(layer))):
            out = model(**self.inputs)
        predicted = _predict(out.logits, self.inputs["labels"])
        same = float((predicted == self.predicted).float().mean())
        return same > agreement and float(out.loss) < loss * self.loss


def _answer_length(inputs: Mapping[str, Any]) -> int:
    """Return the number of tokens from the start of the answer on, without padding."""
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 2 or len(labels) != 1:
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else labels
        allowed = "labels (1, L) of one prompt and its answer, -100 where the prompt is"
        raise ArgumentError.of("data", f"labels of shape {shape}", allowed)
    answered = (labels[0] != -100).nonzero().flatten().tolist()
    if not answered or answered[0] == 0:
        raise ArgumentError.of("data", labels.tolist(), "labels of an answer after a prompt")
    mask: Tensor = inputs.get("attention_mask", torch.ones_like(labels))
    return int(mask[0, answered[0] :].sum())


def _predict(logits: Tensor, labels: Tensor) -> Tensor:
    answered = labels[0, 1:].to(logits.device) != -100
    return logits[0, :-1][answered].argmax(dim=-1)
