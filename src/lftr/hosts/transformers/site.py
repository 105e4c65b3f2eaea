"""Where a model is hooked: its forward, its ``generate``, and what the topmost reduction adds."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache

from ...errors import LftrError, UnsupportedModelError
from .expand import expand_encoder_outputs
from .families import Family
from .plan import Reduced
from .prompt import CachedPrompt, remember
from .prompt_views import PromptView

if TYPE_CHECKING:
    from .layers import LayerHost
    from .session import Reduction

_NAME = "_lftr_site"  # where a model holds what is laid on it: a cycle, collected with the model
_lock = threading.Lock()


class Site:
    """Where a model is hooked: one for a model, whatever number of reductions lie on it."""

    def __init__(self, model: Any, family: Family) -> None:
        self.model = model
        self.family = family
        self.owner = threading.get_ident()
        self.stack: list[Reduction] = []
        self.own: list[Any] = []  # hooks of the topmost reduction's host
        self._call = _Call()
        self.handles = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
            family.language_model(model).register_forward_pre_hook(self._count, with_kwargs=True),
        ]
        self.overridden: dict[str, Any] = {}
        self._override("generate", self._generate)
        if family.kind == "prefill":
            self._override("_expand_multimodal_outputs", self._expand)

    @classmethod
    def push(cls, model: Any, family: Family, reduction: Reduction) -> Site:
        """Lay a reduction on a model, above those that are there."""
        with _lock:
            site: Site | None = model.__dict__.get(_NAME)
            if site is None:
                site = model.__dict__[_NAME] = cls(model, family)
            elif site.owner != threading.get_ident() and site.owner in _living():
                raise LftrError(
                    f"this {type(model).__name__} is being reduced from another thread; "
                    "end that reduction first, or reduce a second model"
                )
            site.cover()
            site.stack.append(reduction)
            site.uncover()
            return site

    def __reduce_ex__(self, protocol: object) -> Any:
        raise LftrError(
            f"this {type(self.model).__name__} is being reduced and cannot be copied or pickled as "
            "a whole; end the reduction first (save_pretrained works as it is)"
        )

    def pull(self, reduction: Reduction) -> None:
        """Take a reduction off, wherever in the stack it is; with the last one goes every hook."""
        with _lock:
            self.cover()
            self.stack.remove(reduction)
            self.uncover()
            if self.stack:
                return
            for handle in self.handles:
                handle.remove()
            for name, previous in self.overridden.items():
                if previous is None:
                    del self.model.__dict__[name]
                else:
                    self.model.__dict__[name] = previous
            del self.model.__dict__[_NAME]

    def cover(self) -> None:
        """Detach the hooks of the topmost reduction: another one is to be there."""
        for handle in self.own:
            handle.remove()
        self.own = []

    def uncover(self) -> None:
        """Attach the hooks of the topmost reduction."""
        self.own = self.stack[-1].hooks() if self.stack else []

    def _override(self, name: str, function: Callable[..., Any]) -> None:
        """Put a function in front of a method of this model alone; found again on leaving."""
        original = getattr(self.model, name)
        self.overridden[name] = self.model.__dict__.get(name)
        self.model.__dict__[name] = functools.wraps(original)(functools.partial(function, original))

    @property
    def top(self) -> Reduction | None:
        """The reduction that is on."""
        return self.stack[-1] if self.stack else None

    @contextmanager
    def _inside_generate(self, reduced: Reduced | None = None) -> Iterator[None]:
        call = self._call
        before = call.generates, call.reduced
        call.generates, call.reduced = True, reduced
        try:
            yield
        finally:
            call.generates, call.reduced = before

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = _arguments(original, args, kwargs)
        if call.get("inputs") is not None:
            call["input_ids"] = call.pop("inputs")
        top = self.top
        if top is not None and top.inside is not None:
            self._refuse_chunks(call)
        if top is None or not top.host.concerns(call):
            with self._inside_generate():
                return original(*args, **kwargs)
        if call.get("attention_mask") is None and isinstance(call.get("input_ids"), Tensor):
            call["attention_mask"] = self._infer_mask(call)
        with torch.no_grad():
            reduced = top.reduce(call)
        ids = call.get("input_ids")
        changes = self._lengths(call, reduced)
        if ids is not None:
            view = PromptView(ids, reduced.length)
            changes |= view.callbacks(call)
        with self._inside_generate(reduced), _announced(top.inside, reduced):
            output = original(**{**reduced.kwargs, **changes})
        # the caller's own cache is filled whether or not the output hands it back
        _mark(reduced.prompt, call.get("past_key_values"), output)
        return output if ids is None else _restore_prompt(output, view)

    def _refuse_chunks(self, call: Mapping[str, Any]) -> None:
        """Refuse to prefill in pieces: the choice of tokens needs the prompt's end."""
        config = call.get("generation_config") or self.model.generation_config
        size = call.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if size is not None:
            raise UnsupportedModelError(
                f"prefill_chunk_size = {size}; methods inside the language model need the whole "
                "prompt at once: leave it out, or choose a method that decides before"
            )

    def _infer_mask(self, call: Mapping[str, Any]) -> Tensor:
        """Return the mask that generate infers from padding when it is given none."""
        config = call.get("generation_config") or self.model.generation_config
        pad = call.get("pad_token_id", config.pad_token_id)
        eos = call.get("eos_token_id", config.eos_token_id)
        ids: Tensor = call["input_ids"]
        ends = eos if isinstance(eos, (list, tuple)) else [eos]
        mask = torch.ones_like(ids)
        return mask if pad is None or pad in ends else mask.masked_fill(ids == pad, 0)

    def _lengths(self, call: Mapping[str, Any], reduced: Reduced) -> dict[str, Any]:
        """Shorten limits that count the prompt by as much as the prompt was."""
        ids = call.get("input_ids")
        dropped = 0 if ids is None else ids.shape[1] - reduced.length
        given = call.get("generation_config")
        config = given or self.model.generation_config
        found: dict[str, Any] = {}
        for limit, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = call.get(limit)
            if value is None and call.get(new) is None and getattr(config, new, None) is None:
                value = getattr(config, limit, None)
            if value:
                found[limit] = max(int(value) - dropped, 0)
        if given is None or not found:
            return found
        config = copy.deepcopy(given)  # limits beside a configuration are deprecated
        for limit, value in found.items():
            setattr(config, limit, value)
        return {"generation_config": config, **{limit: None for limit in found if limit in call}}

    def _expand(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(original).bind(*args, **kwargs).arguments
        return expand_encoder_outputs(
            self.model,
            self.family,
            call["input_ids"],
            call["mm_encoder_output"],
            call.get("expand_size", 1),
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._call.prompt = None  # of a call that did not come to its end
        top = self.top
        if top is None:
            return None
        call = _arguments(self.model.forward, args, kwargs)
        if self._call.generates:
            call = _with_mask(_caught_up(call, self._call.reduced))
        elif top.host.concerns(call):
            reduced = top.reduce(call)
            self._call.prompt = reduced.prompt
            call = _with_mask(reduced.kwargs)
        if top.inside is not None:
            top.inside.announce(call)
        return (), call

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        prompt, self._call.prompt = self._call.prompt, None
        _mark(prompt, kwargs.get("past_key_values"), output)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids") if given is None else given
        top = self.top
        if top is not None and given is not None and top.report.received < top.awaited:
            top.report.received += given.shape[1]  # in several pieces where prefill is chunked


class _Call(threading.local):
    """What is known of the call that a thread is in.

    Attributes
    ----------
    generates : bool
        Whether forwards are those of a ``generate``, whose prompt is reduced already.
    reduced : Reduced, optional
        What that is called with.
    prompt : CachedPrompt, optional
        What a forward of its own fills its cache with, once it is through.
    """

    def __init__(self) -> None:
        self.generates = False
        self.reduced: Reduced | None = None
        self.prompt: CachedPrompt | None = None


def site_of(model: Any) -> Site | None:
    """Return where a model is hooked, if it is."""
    return model.__dict__.get(_NAME)  # type: ignore[no-any-return]


@contextmanager
def _announced(inside: LayerHost | None, reduced: Reduced) -> Iterator[None]:
    """Let a host of layers know the prompt that ``generate`` is called with."""
    if inside is None:
        yield
        return
    inside.start(reduced.columns)
    inside.announce(reduced.kwargs)
    try:
        yield
    finally:
        inside.start(None)


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name, those of ``**kwargs`` among them."""
    signature = inspect.signature(function)
    found = dict(signature.bind_partial(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    return found


def _caught_up(kwargs: dict[str, Any], reduced: Reduced | None) -> dict[str, Any]:
    """Let generated tokens go on from the end of the full prompt, where visual tokens end it."""
    positions = kwargs.get("position_ids")
    if reduced is None or reduced.lag is None or reduced.prompt is None or positions is None:
        return kwargs
    cache = kwargs.get("past_key_values")
    past = cache.get_seq_length() if cache is not None else 0
    columns = reduced.prompt.columns.index.shape[1]
    new = min(positions.shape[-1], past + positions.shape[-1] - columns)
    if new <= 0:
        return kwargs
    lag = reduced.lag.repeat_interleave(positions.shape[-2] // reduced.lag.shape[-2], dim=-2)
    late = positions[..., -new:] + lag.to(positions.device)
    return {**kwargs, "position_ids": torch.cat([positions[..., :-new], late], dim=-1)}


def _with_mask(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give a prompt with gaps in its positions a mask of ones.

    Without one, transformers takes the gaps for borders between packed sequences and cuts the
    prompt apart.
    """
    ids = kwargs.get("input_ids")
    shape = ids.shape if ids is not None else getattr(kwargs.get("inputs_embeds"), "shape", (0, 1))
    positions = kwargs.get("position_ids")
    if kwargs.get("attention_mask") is not None or positions is None or shape[1] == 1:
        return kwargs
    cache = kwargs.get("past_key_values")
    past = cache.get_seq_length() if cache is not None else 0
    mask = torch.ones(shape[0], past + shape[1], dtype=torch.long, device=positions.device)
    return {**kwargs, "attention_mask": mask}


def _living() -> set[int | None]:
    """Return the threads that are running."""
    return {thread.ident for thread in threading.enumerate()}


def _mark(prompt: CachedPrompt | None, given: Any, output: Any) -> None:
    """Let the cache that was given, or is handed back, carry what it was filled with."""
    if prompt is None:
        return
    caches = [given, getattr(output, "past_key_values", None)]
    caches += output if isinstance(output, tuple) else []
    for cache in caches:
        if isinstance(cache, Cache):
            remember(cache, prompt)


def _restore_prompt(output: Any, view: PromptView) -> Any:
    """Put the caller's own prompt back in front of what was generated."""
    if isinstance(output, Tensor):
        return view(output)
    output.sequences = view(output.sequences)
    return output
