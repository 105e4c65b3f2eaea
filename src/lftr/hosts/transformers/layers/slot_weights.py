"""A slot that stands for several tokens counts as many in every attention layer.

Attention sums over keys. If a slot stands for ``s`` tokens of equal keys and values, their part of
the sum is ``s * exp(logit) = exp(logit + log(s))``, so ``log(s)`` is added to the logits of the
slot's key. The rule is exact for equal tokens and approximate for similar ones. ToMe (arXiv
2210.09461) calls it proportional attention and uses it inside vision encoders.

The kernels do not change. With an additive mask, the term is added to the mask. Without one, and
under FlashAttention, which takes none, it is added by extra channels: queries get ones there and
keys ``log(s) / scale``, so that the product of both adds ``log(s)`` to the logit. The cache holds
the keys as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_modules, replacing_kernels
from ....values.errors import LftrError, UnsupportedModelError
from ...items import ReductionPlan
from ..api import CallArguments, Model, attention_of, versions
from ..cache_record import layer_sizes
from ..call_state import CallState
from ..checkpointing import run_once
from ..families import Family
from .layer_pass import LayerPass

CHANNELS = 8  # FlashAttention wants head sizes that are multiples of 8
_MOST = 256  # the largest head size of FlashAttention
DEFAULT = 1.0  # the exponent, unless the caller names one


def with_weights(model: Model, family: Family, plan: ReductionPlan) -> ReductionPlan:
    """Return the plan with a number for ``weights``, and the reason if they are not applied.

    Raises
    ------
    UnsupportedModelError
        If the caller set weights, and the model's attention cannot apply them.
    """
    if plan.weights == 0:
        return plan
    reason = _no_weights(model, family)
    if reason is None:
        linear = _without_attention(model, family)
        note = f"layers {linear} have no attention, and count a slot as one token" if linear else ""
        weights = DEFAULT if plan.weights is None else plan.weights
        return replace(plan, weights=weights, unweighted=note)
    if plan.weights is not None:
        raise UnsupportedModelError(f"weights = {plan.weights}; {reason}; or use weights='none'")
    return replace(plan, weights=0.0, unweighted=f"slots have no weights: {reason}")


def _no_weights(model: Model, family: Family) -> str | None:
    """Return why slots cannot have weights in a model's attention, or None if they can."""
    if family.kind != "prefill":
        return f"{type(model).__name__} reads images by cross-attention, a Q-Former or in blocks"
    decoder: Any = family.decoder(model)
    modules: list[Any] = [one for layer in decoder.layers for one in attention_modules(layer)]
    if not modules:
        return f"the language model of {type(model).__name__} has no attention that lftr can read"
    sizes = [size for one in modules if (size := getattr(one, "head_dim", None)) is not None]
    kernel = attention_of(model.config.get_text_config())
    text = model.config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None) and kernel != "eager":
        return (
            f"this {type(model).__name__} limits its attention logits (softcap), and "
            f"attn_implementation = {kernel!r} would limit the weights too: load the model with "
            "attn_implementation='eager'"
        )
    if "flash" in kernel and sizes and max(sizes) + CHANNELS > _MOST:
        return (
            f"attn_implementation = {kernel!r} takes heads of at most {_MOST} channels, and this "
            f"{type(model).__name__} has {max(sizes)} beside the {CHANNELS} that weights need: "
            "load the model with attn_implementation='sdpa'"
        )
    return None


def _without_attention(model: Model, family: Family) -> str:
    """Return the numbers of layers without attention, such as those with linear attention."""
    decoder: Any = family.decoder(model)
    numbers = [n for n, layer in enumerate(decoder.layers) if not attention_modules(layer)]
    return ", ".join(map(str, numbers))


class SlotWeights:
    """Adds the logarithms of the slots' weights to the attention logits of a language model.

    Parameters
    ----------
    exponent : float
        What the logarithms are multiplied by.
    """

    def __init__(self, model: Model, family: Family, exponent: float) -> None:
        self.exponent = exponent
        decoder: Any = family.decoder(model)
        self.layers: list[nn.Module] = list(decoder.layers)
        self.config = model.config.get_text_config()
        self.modules = [
            (number, module)
            for number, layer in enumerate(self.layers)
            for module in attention_modules(layer)
        ]

    def begin(
        self, inner: CallArguments, log_weight: Tensor | None, state: CallState
    ) -> WeightPass | None:
        """Return the weights for a forward of the language model that begins.

        Parameters
        ----------
        inner : CallArguments
            The arguments of the language model.
        log_weight : Tensor of float32, shape (B, L'), optional
            See `CallState`.

        Returns
        -------
        WeightPass, optional
            None if every column stands for one token.
        """
        inside = state.layer_pass is not None and state.layer_pass.weighs
        if not inside and (log_weight is None or not bool(log_weight.any())):
            return None
        weight_pass = WeightPass(self, log_weight, inner, state.layer_pass)
        state.stack.enter_context(run_once(self.layers))  # a second run would miss the weights
        replacements = {id(one): weight_pass.attend(number) for number, one in self.modules}
        state.stack.enter_context(replacing_kernels(replacements))
        return weight_pass


class WeightPass:
    """The weights of slots in one forward of the language model.

    Parameters
    ----------
    log_weight : Tensor of float32, shape (B, L'), optional
        See `CallState`.
    inner : CallArguments
        The arguments of the language model.
    layer_pass : LayerPass, optional
        The columns of each layer, if methods inside the language model drop some.
    """

    def __init__(
        self,
        host: SlotWeights,
        log_weight: Tensor | None,
        inner: CallArguments,
        layer_pass: LayerPass | None,
    ) -> None:
        self.host = host
        self.layer_pass = layer_pass
        self.kernel = attention_of(host.config)
        self.weighed: set[int] = set()
        assert inner.columns is not None
        rows, new = inner.columns
        self.log_weight: Tensor | None = None  # None: zeros
        if log_weight is not None and bool(log_weight.any()):
            logs = log_weight.repeat_interleave(rows // len(log_weight), dim=0)  # beams
            more = max(0, inner.past + new - logs.shape[1])
            self.log_weight = nn.functional.pad(logs, (0, more))
        layers = [] if inner.cache is None else inner.cache.layers
        self.sizes = {
            number: layer_sizes(inner.cache, number, new)
            for number, layer in enumerate(layers)
            if hasattr(layer, "get_mask_sizes")
        }
        self.others = set(self.sizes.values()) or {(new, 0)}
        self._known: dict[tuple[Any, ...], Tensor | None] = {}

    def attend(self, number: int) -> Callable[..., Any]:
        """Return a function that calls the attention kernel of layer ``number`` with weights."""

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def call(
            kernel: Callable[..., Any],
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Any = None,
            **kwargs: Any,
        ) -> Any:
            self.weighed.add(number)
            bias = self.logit_term(number, key)
            if bias is None:
                return kernel(module, query, key, value, mask, **kwargs)
            takes_bias = self.kernel == "eager" or (self.kernel == "sdpa" and query.shape[2] == 1)
            if takes_bias or (isinstance(mask, Tensor) and mask.ndim == 4):
                mask = _add_to_mask(mask, bias[:, None, None].to(query.dtype))
                return kernel(module, query, key, value, mask, **kwargs)
            return _call_with_bias_channels(kernel, module, query, key, value, mask, bias, kwargs)

        return call  # type: ignore[no-any-return]

    def check_end(self) -> None:
        """Check that the weights reached the attention of every layer.

        Raises
        ------
        LftrError
            If not, for example because a compiled graph calls kernels directly.
        """
        missed = sorted({number for number, _ in self.host.modules} - self.weighed)
        if missed:
            raise LftrError(
                f"layers {', '.join(map(str, missed))} attended without the weights of slots; "
                "if the model was compiled (torch.compile), start the reduction before its first "
                f"call, or use weights='none'; {versions()}"
            )

    def logit_term(self, number: int, key: Tensor) -> Tensor | None:
        """Return the term for the logits of a layer's keys ``(B, S)``; None for zeros."""
        length = key.shape[2]
        logs, columns = self.log_weight, None
        if self.layer_pass is not None:
            columns = self.layer_pass.keys.get(number)
            changed_here = self.layer_pass.log_weight(number)
            logs = logs if changed_here is None else changed_here
        if logs is None:
            return None
        start = self._first_column(number, length) if columns is None else 0
        known = (id(logs), id(columns), start, length, key.device)
        if known not in self._known:
            bias = (
                _from_column(logs, start, length) if columns is None else _at_columns(logs, columns)
            )
            if bias.shape[1] != length:
                raise _mismatch(number, length, bias.shape[1])
            bias = bias.to(key.device) * self.host.exponent
            self._known[known] = bias if bool(bias.any()) else None
        return self._known[known]

    def _first_column(self, number: int, length: int) -> int:
        """Return the column of a layer's first key."""
        # a layer without an entry: in the first call, or if it uses the keys of another layer
        sizes = {self.sizes[number]} if number in self.sizes else self.others
        starts = {start for size, start in sizes if size == length}
        if len(starts) != 1:
            raise _mismatch(number, length, sorted(size for size, _ in sizes))
        return starts.pop()


def _from_column(logs: Tensor, start: int, length: int) -> Tensor:
    """Return the columns from ``start`` on, with zeros for the free places of a static cache."""
    part = logs[:, start : start + length]
    return nn.functional.pad(part, (0, length - part.shape[1]))


def _at_columns(logs: Tensor, columns: Tensor) -> Tensor:
    """Return ``logs`` ``(B, L')`` at columns ``(B, S)``, 0 where they are padding or later."""
    columns = columns.to(logs.device)
    real = (columns >= 0) & (columns < logs.shape[1])
    return logs.gather(1, columns.where(real, 0)) * real


def _add_to_mask(mask: Tensor | None, term: Tensor) -> Tensor:
    """Return the mask ``(B, 1, Q, S)``, bool, additive or none, plus ``term`` ``(B, 1, 1, S)``."""
    if mask is None:
        return term
    mask = mask[..., : term.shape[-1]]
    if mask.dtype == torch.bool:
        return torch.where(mask, term, torch.finfo(term.dtype).min)
    return mask + term.to(mask.dtype)


def _call_with_bias_channels(
    kernel: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    bias: Tensor,
    kwargs: dict[str, Any],
) -> Any:
    """Call a kernel with extra channels whose product is the bias."""
    if kwargs.get("softcap") is not None:
        raise UnsupportedModelError(
            f"{type(module).__name__} limits its attention logits (softcap), and a kernel without "
            "an additive mask would limit the weights of slots too: load the model with "
            "attn_implementation='eager', or use weights='none'"
        )
    scale = kwargs.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    term = (bias / scale)[:, None, :, None].expand(-1, key.shape[1], -1, -1)
    high = term.to(key.dtype)
    rest = (term - high).to(key.dtype)  # what the first channel loses in half precision
    empty = (*key.shape[:3], CHANNELS - 2)
    keys = torch.cat([key, high, rest, key.new_zeros(empty)], dim=-1)
    ones = query.new_ones(*query.shape[:3], 2)
    queries = torch.cat([query, ones, query.new_zeros(*query.shape[:3], CHANNELS - 2)], dim=-1)
    width = value.shape[-1]
    # kernels that take no values of another width get as many channels of zeros
    values = nn.functional.pad(value, (0, CHANNELS)) if width == key.shape[-1] else value
    output = kernel(module, queries, keys, values, mask, **{**kwargs, "scaling": scale})
    return output[0][..., :width], *output[1:]


def _mismatch(number: int, received: int, expected: object) -> LftrError:
    return LftrError(
        f"the attention of layer {number} got {received} keys, where its cache has {expected}: the "
        f"weights of slots would be added to other keys; {versions()}"
    )
