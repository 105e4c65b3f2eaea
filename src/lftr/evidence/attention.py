"""Recording the queries and keys of transformers' attention layers, and replacing their kernels.

Every attention layer of transformers looks its kernel up by ``ALL_ATTENTION_FUNCTIONS``'
``get_interface``. While a recorder is open, the lookup returns, in its thread, a function that
calls the kernel and, for recorded modules, records the exact queries and keys (after rotary
embeddings and normalisation, whatever the kernel). `replacing_kernels` uses the same place to call
a kernel with other arguments. When the last recorder closes the table is as it was.

Why the lookup is replaced, and not a kernel registered (``AttentionInterface.register``) and
chosen by ``config._attn_implementation``, which is transformers' own way to add one:

- Eager attention has no entry that could be replaced. Each modeling file passes its own function to
  the lookup as the default, which a registered function does not receive; Llama 4 has two.
- The name is not the kernel's alone. Masks are made by it, and models take other paths by it
  (FlashAttention's packing; Gemma 4, MiniMax M3 VL and others compare it with "sdpa" or "eager").
  Under another name a model would not compute what it computes without the recorder.
- A configuration is shared by all layers and threads, and by copies of the model. A recorder
  is for one module in one thread.

What is replaced is private to transformers, so it is checked: a recorder cannot be opened where the
lookup is missing, and whoever opens one raises `attention_not_recorded` if the module ran and no
call of it was recorded.
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
    """Receives the queries, keys and values ``(B, heads, N, d)`` of each call.

    Queries and keys are those after rotary embeddings.
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
        """Take what is wanted; ``mask`` is the kernel's, where that has four dimensions."""


# Calls the kernel it is given first, with other arguments if need be, and returns what it returns.
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
_replaced: list[Any] = []  # while a recorder is open: the table's entry before, and lftr's


@contextmanager
def recording(module: nn.Module, recorder: AnyRecorder) -> Iterator[AnyRecorder]:
    """Show ``module``'s attention to ``recorder`` while the body runs, in this thread.

    Raises
    ------
    UnsupportedModelError
        If this release of transformers does not look kernels up as expected.
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
    """Let functions call the attention kernels of modules while the body runs, in this thread.

    Parameters
    ----------
    replacements : mapping
        For the ``id`` of each module what is called in place of its kernel, with the kernel as its
        first argument and the kernel's own arguments after it. Recorders see the arguments before.

    Raises
    ------
    UnsupportedModelError
        If this release of transformers does not look kernels up as expected.
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
        if table.get(_NAME) is not installed:  # other code has replaced it since: theirs stays
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
    """Pass the arguments of a kernel to a recorder.

    Nothing that it computes is saved for a backward pass: where layers are checkpointed, they run
    again without a recorder, and would save less.
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
