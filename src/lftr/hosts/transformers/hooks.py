"""The hooks on a model's ``forward`` and ``generate``, shared by all reductions of the model."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...values.errors import ArgumentError, LftrError, UnsupportedModelError
from .api import (
    CHUNKS_HAVE_IMAGES,
    EXPAND,
    GENERATION,
    Cache,
    CallArguments,
    Expansion,
    Model,
    check_names,
    check_private,
    generation_setting,
    returned_cache,
)
from .call_state import CallState, Generation
from .checks import Forward, check_passed_on, check_received
from .columns import remember
from .encoder.expand import expand_encoder_outputs
from .families import Family
from .prompt.views import PromptView
from .reduced_call import ReducedCall
from .wrapped import precision_of

if TYPE_CHECKING:
    from .reduction import Reduction

# the attribute of a model that holds its `ModelHooks`; the garbage collector frees the cycle
_NAME = "_lftr_hooks"
_lock = threading.Lock()


class ModelHooks:
    """The hooks of one model, shared by all its reductions; the one attached last, on top, acts."""

    def __init__(self, model: Model, family: Family) -> None:
        self.model = model
        self.family = family
        self.owner = threading.current_thread()
        self.stack: list[Reduction] = []
        self.top_handles: list[Any] = []  # of further hooks, which the reduction on top attached
        self.state = CallState()
        language_model = family.language_model(model)
        check_names()
        if family.kind == "prefill":
            check_private(model, language_model)
        self.handles = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True),
            language_model.register_forward_pre_hook(self._before_language_model, with_kwargs=True),
            language_model.register_forward_hook(self._after_language_model, always_call=True),
        ]
        self.overridden: dict[str, Any] = {}
        self._override("generate", self._generate)
        if family.kind == "prefill":
            self._override(EXPAND, self._expand)

    @classmethod
    def push(cls, model: Model, family: Family, reduction: Reduction) -> ModelHooks:
        """Attach a reduction to a model, on top of those that are attached."""
        with _lock:
            hooks = hooks_of(model)
            thread = threading.current_thread()
            if hooks is None:
                hooks = model.__dict__[_NAME] = cls(model, family)
            elif hooks.owner is not thread and hooks.owner.is_alive():
                raise LftrError(
                    f"this {type(model).__name__} is being reduced from another thread; "
                    "end that reduction first, or reduce a second model"
                )
            hooks.owner = thread
            hooks._detach_top()
            hooks.stack.append(reduction)
            try:
                hooks._attach_top()
            except BaseException:
                hooks._detach(reduction)
                raise
            return hooks

    def __reduce_ex__(self, protocol: object) -> Any:
        raise LftrError(
            f"this {type(self.model).__name__} is being reduced and cannot be copied or pickled as "
            "a whole; end the reduction first (save_pretrained works as it is)"
        )

    def pull(self, reduction: Reduction) -> None:
        """Detach a reduction, wherever in the stack; after the last one, remove every hook."""
        with _lock:
            self._detach(reduction)

    def _detach(self, reduction: Reduction) -> None:
        self._detach_top()
        self.stack.remove(reduction)
        self._attach_top()
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

    def _detach_top(self) -> None:
        """Remove the further hooks of the reduction on top, before another one is on top."""
        self.state.end_passes()
        for handle in self.top_handles:
            handle.remove()
        self.top_handles = []

    def _attach_top(self) -> None:
        """Attach the further hooks of the reduction on top."""
        for handle in self.stack[-1].hooks(self.state) if self.stack else ():
            self.top_handles.append(handle)  # one by one: removed if a later one raises

    def _override(self, name: str, function: Callable[..., Any]) -> None:
        """Replace a method of this model alone; ``function`` is passed the original first."""
        original = getattr(self.model, name)
        self.overridden[name] = self.model.__dict__.get(name)
        self.model.__dict__[name] = functools.wraps(original)(functools.partial(function, original))

    @property
    def top(self) -> Reduction | None:
        """The reduction that acts: the one attached last."""
        return self.stack[-1] if self.stack else None

    @contextmanager
    def _generating(
        self, cache: Cache | None, reduced: ReducedCall | None = None
    ) -> Iterator[None]:
        state, before = self.state, self.state.generation
        state.generation = Generation(cache, reduced, None if reduced is None else {})
        state.columns = None
        try:
            if reduced is not None and self.top is not None and self.top.inside is not None:
                self.top.inside.announce(reduced.call, reduced.items)
            yield
        finally:
            state.generation = before
            state.columns = None

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = CallArguments.of(original, args, kwargs)
        if call.get("inputs") is not None:
            call = call.but(ids=call.pop("inputs"))
        top = self.top
        if top is not None and top.inside is not None:
            self._refuse_chunks(call)
        if top is None or not top.host.concerns(call):
            with self._generating(call.cache):
                return original(*args, **kwargs)
        self._refuse_guidance(call)
        self._refuse_chunks_without_images(call)
        if call.mask is None and isinstance(call.ids, Tensor) and not call.packed:
            call = call.but(mask=self._infer_mask(call))
        try:
            with torch.no_grad():
                reduced = top.reduce(call)
            ids = call.ids
            changes = self._lengths(call, reduced)
            if ids is not None:
                view = PromptView(ids, reduced.length)
                changes |= view.callbacks(call)
            with (
                self._generating(call.cache, reduced),
                self._arguments_of(reduced) as arguments,
            ):
                output = original(**(arguments | changes))
        finally:
            top.host.end()
        if reduced.starts:
            check_received(top.columns.received, top.columns.sent)
        # the caller's own cache is filled whether or not the output hands it back
        filled = call.cache if call.cache is not None else returned_cache(output)
        if reduced.prompt is not None and filled is not None:
            remember(filled, reduced.prompt)
        return output if ids is None else _restore_prompt(output, view)

    @contextmanager
    def _arguments_of(self, reduced: ReducedCall) -> Iterator[CallArguments]:
        """Yield the arguments of ``generate``; a subclass passes some of them by hooks instead."""
        yield reduced.call

    def _refuse_chunks(self, call: CallArguments) -> None:
        """Check that the prompt is not prefilled in chunks: the methods inside need its end."""
        size = generation_setting(self.model, call, "prefill_chunk_size")
        if size is not None:
            raise UnsupportedModelError(
                f"prefill_chunk_size = {size}; methods inside the language model need the whole "
                "prompt at once: leave it out, or choose a method that decides before"
            )

    def _refuse_chunks_without_images(self, call: CallArguments) -> None:
        """Check that the prompt is not prefilled in chunks on releases that pass them no images."""
        size = generation_setting(self.model, call, "prefill_chunk_size")
        if size is not None and not CHUNKS_HAVE_IMAGES:
            raise UnsupportedModelError(
                f"prefill_chunk_size = {size}; before transformers 5.23 generate gives no chunk of "
                "the prompt the images: leave it out, or pip install --upgrade transformers"
            )

    def _refuse_guidance(self, call: CallArguments) -> None:
        """Check that no step calls the model a second time, on a prompt without the images."""
        scale = generation_setting(self.model, call, "guidance_scale")
        if scale not in (None, 1):
            raise UnsupportedModelError(
                f"guidance_scale = {scale}; generate then calls the model twice in each step, once "
                "on a shorter prompt, which lftr cannot place: leave it out"
            )

    def _infer_mask(self, call: CallArguments) -> Tensor:
        """Return the mask that generate infers from padding when it is given none."""
        pad, eos = (generation_setting(self.model, call, f"{n}_token_id") for n in ("pad", "eos"))
        ids: Tensor = call.ids
        ends = eos if isinstance(eos, (list, tuple)) else [eos]
        mask = torch.ones_like(ids)
        return mask if pad is None or pad in ends else mask.masked_fill(ids == pad, 0)

    def _lengths(self, call: CallArguments, reduced: ReducedCall) -> dict[str, Any]:
        """Shorten limits that count the prompt by as much as the prompt was."""
        ids = call.ids
        dropped = 0 if ids is None else ids.shape[1] - reduced.length
        limits: dict[str, int] = {}
        for limit, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = generation_setting(self.model, call, limit)
            if not value or generation_setting(self.model, call, new) is not None:
                continue  # generate goes by ``new``, which does not count the prompt
            if limit == "max_length" and ids is not None and ids.shape[1] >= value:
                raise ArgumentError.of(
                    limit,
                    value,
                    f"more than the prompt's {ids.shape[1]} columns, before the reduction; "
                    f"or use {new}",
                )
            limits[limit] = max(int(value) - dropped, 0)
        passed = call.get(GENERATION)
        if passed is None or not limits:
            return limits
        config = copy.deepcopy(passed)  # limits beside a configuration are deprecated
        for limit, value in limits.items():
            setattr(config, limit, value)
        return {GENERATION: config} | {name: limits[name] for name in limits if name in call}

    def _expand(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return expand_encoder_outputs(
            self.model, self.family, *Expansion.of(original, args, kwargs)
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        state, top = self.state, self.top
        state.prompt = state.forward = state.decoding_pass = None  # of a call that was interrupted
        if top is None:
            return None
        call = CallArguments.of(self.model.forward, args, kwargs)
        generation = state.generation
        if generation is not None:
            check_passed_on(call, generation.cache)
            generation.cache = None
            reduced = generation.reduced if generation.contains(call) else None
            call = _with_mask(_with_later_positions(call, reduced), reduced)
            prompt = None if reduced is None else reduced.prompt
            if top.decoding is not None and prompt is not None:
                state.decoding_pass = top.decoding.begin(call, prompt)
        elif top.host.concerns(call):
            with precision_of(self.model):
                reduced = top.reduce(call)
            state.prompt = prompt = reduced.prompt
            call = reduced.call
        else:
            prompt = reduced = None
        state.log_weight = None if prompt is None else prompt.log_weight
        if top.inside is not None:
            top.inside.announce(call, () if reduced is None else reduced.items)
        state.forward = Forward.of(call)
        return (), call

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        state = self.state
        if self.top is not None and state.generation is None:
            self.top.host.end()
        prompt, state.prompt = state.prompt, None
        forward, state.forward = state.forward, None
        if forward is None or output is None:  # None: the forward raised
            return
        filled = forward.cache if forward.cache is not None else returned_cache(output)
        forward.check_end(None if self.family.kind == "cross_attention" else filled)
        if prompt is not None and filled is not None:
            remember(filled, prompt)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_language_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        call, top, state = CallArguments.of(module.forward, args, kwargs), self.top, self.state
        if state.forward is not None:
            state.forward.check_inner(call, self.family.takes_positions)
        if top is None:
            return
        if call.columns is not None:
            top.count(call.columns[1])
        columns, state.columns = state.columns, None
        log_weight, state.log_weight = state.log_weight, None
        state.end_passes()  # of a call that was interrupted
        if top.inside is not None:
            state.layer_pass = top.inside.begin(call, columns, log_weight)
        if top.weights is not None:
            state.weight_pass = top.weights.begin(call, log_weight, state)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_language_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        passes = self.state.layer_pass, self.state.weight_pass
        self.state.end_passes()
        for one in passes:
            if one is not None and output is not None:  # None: the language model raised
                one.check_end()


def hooks_of(model: Any) -> ModelHooks | None:
    """Return the hooks of a model, if any reduction is attached to it."""
    return model.__dict__.get(_NAME)  # type: ignore[no-any-return]


def _with_later_positions(call: CallArguments, reduced: ReducedCall | None) -> CallArguments:
    """Return ``call`` with generated tokens placed after the end of the full prompt.

    They would follow the last kept column otherwise, where the prompt ends in visual tokens.
    """
    positions = call.positions
    if positions is None:
        return _with_positions(call, reduced)
    if reduced is None or reduced.lag is None or reduced.prompt is None:
        return call
    columns = reduced.prompt.columns.index.shape[1]
    new = min(positions.shape[-1], call.past + positions.shape[-1] - columns)
    if new <= 0:
        return call
    lag = reduced.lag.repeat_interleave(positions.shape[-2] // reduced.lag.shape[-2], dim=-2)
    late = positions[..., -new:] + lag.to(positions.device)
    return call.but(positions=torch.cat([positions[..., :-new], late], dim=-1))


def _with_positions(call: CallArguments, reduced: ReducedCall | None) -> CallArguments:
    """Return ``call`` with positions, for a model whose ``generate`` drops those it received."""
    prompt = None if reduced is None else reduced.prompt
    if prompt is None or reduced is None or reduced.call.positions is None or call.columns is None:
        return call
    rows, columns = call.columns
    end = call.past + columns
    new = max(end - prompt.position_ids.shape[-1], 0)
    after = prompt.following.unsqueeze(1) + torch.arange(new, device=prompt.following.device)
    places = torch.cat([prompt.position_ids, after], dim=-1)[..., call.past : end]
    return call.but(positions=places.repeat_interleave(rows // places.shape[-2], dim=-2))


def _with_mask(call: CallArguments, reduced: ReducedCall | None) -> CallArguments:
    """Return ``call`` with a mask of ones, which ``generate`` omits, if the prompt is reduced.

    Without a mask, transformers would take gaps in the positions for borders of packed sequences,
    which do not attend to each other.
    """
    rows, columns = call.columns or (0, 1)
    shorter = reduced is not None and reduced.shorter
    if not shorter or call.mask is not None or call.positions is None or columns == 1:
        return call
    return call.but(
        mask=torch.ones(rows, call.past + columns, dtype=torch.long, device=call.positions.device)
    )


def _restore_prompt(output: Any, view: PromptView) -> Any:
    """Return the output with the caller's full prompt in front of the generated tokens."""
    if isinstance(output, Tensor):
        return view(output)
    output.sequences = view(output.sequences)
    return output
