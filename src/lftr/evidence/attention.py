"""Records the queries, keys and values of transformers' attention layers, and replaces kernels.

Every attention layer of transformers gets its kernel from the lookup ``get_interface`` of
``ALL_ATTENTION_FUNCTIONS``. While a recorder is attached, the lookup returns a wrapper around the
kernel to the thread that attached the recorder. The wrapper passes the arguments to the recorder of
the calling module, if it has one, and then calls the kernel with the same arguments. So the
recorder receives the exact queries and keys, after rotary embeddings and normalisation, for every
kernel. `replacing_kernels` uses the same lookup to call a kernel with other arguments. When the
last recorder is detached, the lookup is restored.

transformers' public way to add a kernel is to register it (``AttentionInterface.register``) and to
select it by ``config._attn_implementation``. It cannot be used here:

- Eager attention has no entry that could be replaced. Each modelling file passes its own function
  to the lookup as the default, which a registered function does not receive; Llama 4 has two.
- The name selects more than the kernel. Masks depend on it, and so do other code paths of models
  (FlashAttention's packing; Gemma 4, MiniMax M3 VL and others compare it with "sdpa" or "eager").
  With another name a model would compute something else than without the recorder.
- A configuration is shared by all layers and threads, and by copies of the model. A recorder is for
  one module in one thread.

The lookup is private to transformers. Therefore a recorder cannot be attached if the lookup is
missing, and the caller raises `attention_not_recorded` if the module ran and the recorder received
no call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..values.autocast import without_autocast
from ..values.errors import UnsupportedModelError


class KernelRecorder(Protocol):
    """Receives the queries, keys and values ``(B, heads, N, d)`` of each call of a module.

    Queries and keys have rotary embeddings applied.
    """

    def record(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
        value: Tensor | None = None,
    ) -> None:
        """Process one call; ``mask`` is the kernel's mask if it has four dimensions, else None."""


# Receives a kernel and the kernel's arguments, calls it, possibly with other arguments, and returns
# its output.
KernelReplacement = Callable[..., Any]

AnyRecorder = TypeVar("AnyRecorder", bound=KernelRecorder)
_recorders: ContextVar[dict[int, KernelRecorder] | None] = ContextVar(
    "lftr_attention_recorders", default=None
)
_replacements: ContextVar[dict[int, KernelReplacement] | None] = ContextVar(
    "lftr_kernel_replacements", default=None
)
_lock = threading.Lock()
_users = 0
_NAME = "get_interface"
_replaced: list[Any] = []  # while a recorder is attached: the table's entry before, and lftr's


@contextmanager
def recording(module: nn.Module, recorder: AnyRecorder) -> Iterator[AnyRecorder]:
    """Pass the attention arguments of ``module`` to ``recorder`` during the body, in this thread.

    Raises
    ------
    UnsupportedModelError
        If this release of transformers does not have the expected lookup of kernels.
    """
    _install()
    token = _recorders.set({**(_recorders.get() or {}), id(module): recorder})
    try:
        yield recorder
    finally:
        _recorders.reset(token)
        _uninstall()


@contextmanager
def replacing_kernels(replacements: Mapping[int, KernelReplacement]) -> Iterator[None]:
    """Replace calls of modules' attention kernels while the body runs, in this thread.

    Parameters
    ----------
    replacements : mapping
        For the ``id`` of each module the function to call in place of its kernel. Its arguments
        are the kernel and then the kernel's arguments. Recorders receive the unchanged arguments.

    Raises
    ------
    UnsupportedModelError
        If this release of transformers does not have the expected lookup of kernels.
    """
    _install()
    token = _replacements.set({**(_replacements.get() or {}), **replacements})
    try:
        yield
    finally:
        _replacements.reset(token)
        _uninstall()


def attention_not_recorded(module: nn.Module) -> UnsupportedModelError:
    """Return the error for a module that ran and whose attention was not recorded."""
    return UnsupportedModelError(
        f"the attention of {type(module).__name__} ran, but its queries and keys could not be "
        f"read: it does not look its kernel up as transformers {transformers.__version__} is "
        "expected to. Choose a method that reads no attention"
    )


def _install() -> None:
    global _users
    with _lock:
        if _users == 0:
            look_up = getattr(ALL_ATTENTION_FUNCTIONS, _NAME, None)
            if not callable(look_up):
                raise UnsupportedModelError(
                    f"attention cannot be read under transformers {transformers.__version__}: "
                    f"its attention interface has no {_NAME}. Choose a method that reads none"
                )
            table = vars(ALL_ATTENTION_FUNCTIONS)
            installed = _wrap_look_up(look_up)
            _replaced[:] = table.get(_NAME), installed
            table[_NAME] = installed
        _users += 1


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        table, (before, installed) = vars(ALL_ATTENTION_FUNCTIONS), _replaced
        _replaced.clear()
        if table.get(_NAME) is not installed:  # other code has replaced it since: leave that
            return
        del table[_NAME]
        if before is not None:
            table[_NAME] = before


def _wrap_look_up(get_interface: Callable[..., Any]) -> Callable[..., Any]:
    def look_up(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        function: Callable[..., Any] = get_interface(*args, **kwargs)
        return _wrap_kernel(function) if _recorders.get() or _replacements.get() else function

    return look_up


def _wrap_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        recorder = (_recorders.get() or {}).get(id(module))
        if recorder is not None:
            _record(recorder, query, key, value, attention_mask, kwargs)
        replacement = (_replacements.get() or {}).get(id(module))
        if replacement is not None:
            return replacement(function, module, query, key, value, attention_mask, *args, **kwargs)
        return function(module, query, key, value, attention_mask, *args, **kwargs)

    return attend


def _record(
    recorder: KernelRecorder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    kwargs: Mapping[str, Any],
) -> None:
    """Pass the arguments of a kernel to a recorder, without gradients.

    Checkpointed layers run again in the backward pass, then without a recorder. Tensors that the
    recorder saved for the backward pass in the first run would be missing in the second.
    """
    scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
    bounds = kwargs.get("cu_seq_lens_q")
    with torch.no_grad(), without_autocast(query):
        if bounds is None:
            seen = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
            recorder.record(query, key, seen, scaling, softcap, value)
        else:  # flash attention packs all images into one call
            for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                q, k, v = (one[:, :, start:stop] for one in (query, key, value))
                recorder.record(q, k, None, scaling, softcap, v)


def attention_modules(tower: nn.Module) -> list[nn.Module]:
    """Return the self-attention module of each layer of an encoder, in order."""
    attentions: list[nn.Module] = []
    for module in tower.modules():
        cls = type(module)
        of_torch = cls.__module__.startswith("torch.")
        if cls.__name__.endswith("Attention") and not of_torch and hasattr(module, "config"):
            attentions.append(module)
    return attentions
