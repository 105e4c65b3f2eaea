"""Products of a text's queries with the keys of tokens, in the language model's first layer."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.attention import Attention

from ....evidence.text_products import in_one_sequence, mean_products
from ....values.errors import UnsupportedModelError
from .unwrapped import Unwrapped

_TAKEN = ("positions", "hidden_states", "residual")
_HEADS = ("query", "key")


class FirstLayer:
    """The first layer of vLLM's language model.

    Parameters
    ----------
    language_model : nn.Module
        Before LoRA wraps its modules.
    """

    def __init__(self, language_model: nn.Module) -> None:
        modules = language_model.named_modules()
        attentions = ((path, one) for path, one in modules if isinstance(one, Attention))
        first: tuple[str, Any] = next(attentions, ("", None))
        path, self._attention = first
        layer, _, _ = path.rpartition(".")[0].rpartition(".")
        self._layer: Any = language_model.get_submodule(layer)
        self._unwrapped = Unwrapped(self._layer)
        self._is_first = layer.endswith(".0")

    def products(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean product of the text's queries with the key of each token.

        The layer runs up to its attention, with all tokens at position 0, where rotary embeddings
        rotate nothing.

        Parameters
        ----------
        text : Tensor, shape (L, C)
            The language model's embeddings of the text.
        tokens : Tensor, shape (N, C)
            The visual tokens, as the layer sees them.

        Returns
        -------
        Tensor of float32, shape (heads, N)
            Of the heads of all devices, with the factor that the attention applies.

        Raises
        ------
        UnsupportedModelError
            If the layer cannot be run, or its queries and keys depend on the tokens' order.
        """
        states = in_one_sequence(text, tokens)
        queries, keys = self._queries_and_keys(states)
        sizes = len(text), len(tokens)
        products = mean_products(queries, keys, sizes, self._attention.impl.scale, self._attention)
        # heads are divided among devices in order
        return tensor_model_parallel_all_gather(products, dim=0)  # type: ignore[no-any-return]

    def _queries_and_keys(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries and keys ``(heads, n, d)`` of states ``(n, C)`` on this device."""
        parameters = inspect.signature(self._layer.forward).parameters
        if not self._is_first or not parameters.keys() >= set(_TAKEN):
            raise UnsupportedModelError(
                f"{type(self._layer).__name__} takes ({', '.join(parameters)}); text_products are "
                f"read from a first layer that takes {', '.join(_TAKEN)} and has attention"
            )
        seen: dict[str, Tensor] = {}

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.update(zip(_HEADS, args, strict=False), **kwargs)
            raise _StoppedError

        positions = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        handle = self._attention.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with self._unwrapped.restored(), suppress(_StoppedError):
                self._layer(positions=positions, hidden_states=states, residual=None)
        finally:
            handle.remove()
        numbers = self._attention.num_heads, self._attention.num_kv_heads
        query, key = (
            seen[name].view(len(states), number, -1).transpose(0, 1)
            for name, number in zip(_HEADS, numbers, strict=True)
        )
        return query, key


class _StoppedError(Exception):
    """Ends the layer once its queries and keys are known."""
