"""The text-enhanced state of a forward of ``generate``, and its logits beside the model's own.

What a layer's attention was given is read while it runs (`evidence.attention`). When the head has
made the model's logits, the heads that ONLY keeps attend for the same columns, their output enters
the last layer in place of its attention's, and the head makes logits of that too. The model treats
both alike (scales them, limits them); then they are combined.

All of it uses the model's own modules. The same steps with what the plain model computed must lead
to what the plain model computed, which every forward checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ....decoding.only import ONLY, text_enhanced
from ....evidence.attention import attention_modules, attention_not_recorded, recording
from ....evidence.attention_recorder import attend
from ....values.autocast import without_autocast
from ....values.errors import ArgumentError, UnsupportedModelError
from ..api import CallArguments, Model, versions
from ..cache_record import layer_sizes
from ..call_state import CallState
from ..columns import CachedPrompt
from ..families import Family
from .heads import Capture, Stopped, with_part
from .host import LayerHost

_PROJECTIONS = ("o_proj", "out_proj", "dense")
_QUERIES = 128  # that attend at once
# How much of the last layer's input, and of the model's last state, the original program adds.
_BEFORE, _AFTER = 0.2, 0.5
_TOLERANCE, _ROUGH = {torch.float32: 1e-3, torch.float64: 1e-3}, 3e-2  # of the largest value


class DecodingHost:
    """Corrects the logits of one model's ``generate`` by `ONLY`.

    Parameters
    ----------
    inside : LayerHost, optional
        What drops tokens inside the language model.

    Raises
    ------
    UnsupportedModelError, ArgumentError
        If the model has no such layer, or not the parts that are needed.
    """

    def __init__(self, model: Model, family: Family, only: ONLY, inside: LayerHost | None) -> None:
        self.model, self.family, self.only = model, family, only
        name = type(model).__name__
        if family.kind != "prefill":
            raise UnsupportedModelError(
                f"decoding = {only}; the decoder layers of {name} hold no visual tokens beside "
                "the text, or decode in blocks: leave it out"
            )
        decoder: Any = family.decoder(model)
        layers: list[nn.Module] = list(decoder.layers)
        attentions = [next(iter(attention_modules(one)), None) for one in layers]
        whole = len(layers) if inside is None else inside.untouched
        able = {
            number: one
            for number, one in enumerate(attentions[:whole])
            if one is not None and _projection_of(one) is not None
        }
        last, head = attentions[-1], model.get_output_embeddings()
        if not able or last is None or head is None:
            raise UnsupportedModelError(
                f"decoding = {only}; {name} has no head, or no attention that lftr can read in its "
                "last layer or in any before tokens are dropped: leave it out"
            )
        if only.layer not in able:
            allowed = f"{', '.join(map(str, able))}: layers of this {name} with attention to all"
            raise ArgumentError.of("layer", only.layer, allowed)
        self.attention = able[only.layer]
        self.projection = _projection_of(self.attention)
        self.last, self.last_attention, self.head = layers[-1], last, head
        self.norm = family.final_norm(model)

    def begin(self, call: CallArguments, prompt: CachedPrompt) -> DecodingPass | None:
        """Return the pass of a forward of ``generate`` that begins; None without visual tokens."""
        assert call.columns is not None
        rows, new = call.columns
        real = prompt.columns.real
        ids = prompt.ids.gather(1, prompt.columns.index.to(prompt.ids.device)).to(real.device)
        visual = self.family.visual(self.model, ids) & real
        text = real & ~visual
        text[torch.arange(len(real)), real.int().argmax(dim=1)] = False  # the first token is a sink
        end = call.past + new
        size, start = (new, 0)
        if call.cache is not None:
            size, start = layer_sizes(call.cache, self.only.layer, new)

        def at_keys(marks: Tensor, later: bool) -> Tensor:
            more = max(0, end - marks.shape[1])
            marks = nn.functional.pad(marks, (0, more), value=later)[:, :end]
            marks = marks.repeat_interleave(rows // len(marks), dim=0)[:, start : start + size]
            return nn.functional.pad(marks, (0, size - marks.shape[1]), value=False)

        marks = at_keys(visual, False), at_keys(text, True), at_keys(real, True)
        begun = DecodingPass(self, *marks, end - start)
        return begun if bool(begun.concerned.any()) else None

    def hooks(self, state: CallState) -> Iterator[Any]:
        """Attach to the layer, the last layer, the head and the model; yields each handle."""

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def before_attention(module: nn.Module, args: Any) -> None:
            if state.decoding_pass is not None:
                state.decoding_pass.listen(state)

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after_attention(module: nn.Module, args: Any, output: Any) -> None:
            if state.decoding_pass is not None:
                state.decoding_pass.attended(_states_of(output), state)

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def before_last(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if state.decoding_pass is not None:
                state.decoding_pass.entered = args, CallArguments(kwargs)

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after_last_attention(module: nn.Module, args: Any, output: Any) -> None:
            if state.decoding_pass is not None:
                state.decoding_pass.last_output = output

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after_head(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if state.decoding_pass is None:
                return None
            both = [output, module.forward(state.decoding_pass.enhance(args[0]))]
            return torch.cat(both, dim=1)

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after_model(module: nn.Module, args: Any, output: Any) -> None:
            current, state.decoding_pass = state.decoding_pass, None
            if current is not None:
                output.logits = current.combine(output.logits)

        yield self.attention.register_forward_pre_hook(before_attention)
        yield self.attention.register_forward_hook(after_attention)
        yield self.last.register_forward_pre_hook(before_last, with_kwargs=True)
        yield self.last_attention.register_forward_hook(after_last_attention)
        yield self.head.register_forward_hook(after_head)
        yield self.model.register_forward_hook(after_model)


def _projection_of(attention: nn.Module) -> Any:
    """Return what an attention makes its output of, from all heads; None if it is not known."""
    projections = (getattr(attention, name, None) for name in _PROJECTIONS)
    return next((one for one in projections if one is not None), None)


class DecodingPass:
    """What is read of one forward, and the state that is made of it.

    Parameters
    ----------
    visual, text, real : Tensor of bool, shape (B, S)
        Which keys of the layer are visual tokens, which are text, and which are no padding.
    end : int
        Number of keys up to the last column; later ones are free places of a static cache.
    """

    def __init__(
        self, host: DecodingHost, visual: Tensor, text: Tensor, real: Tensor, end: int
    ) -> None:
        self.host = host
        self.visual, self.text, self.real = visual, text, real
        self.end = end
        self.concerned = visual.any(dim=1) & real[:, end - 1]  # rows whose logits change
        self.capture: Capture | None = None
        self.log_weight: Tensor | None = None
        self.output: Tensor | None = None
        self.entered: tuple[tuple[Any, ...], CallArguments] | None = None
        self.last_output: Any = None
        self.columns = 0  # whose states were enhanced

    def listen(self, state: CallState) -> None:
        """Read the queries, keys and values of the layer, or share what a method inside reads."""
        if self.capture is not None:  # a method inside starts the layer once more
            return
        if state.layer_pass is not None:
            self.capture = state.layer_pass.captures.get(self.host.only.layer)
        if self.capture is None:
            self.capture = Capture()
            state.stack.enter_context(recording(self.host.attention, self.capture))

    def attended(self, output: Tensor, state: CallState) -> None:
        """Keep the attention's output, and what merged slots count for in it."""
        if self.output is not None:
            return
        self.output = output
        if self.capture is None or self.capture.key is None:
            raise attention_not_recorded(self.host.attention)
        if state.weight_pass is not None:
            self.log_weight = state.weight_pass.logit_term(self.host.only.layer, self.capture.key)

    def enhance(self, plain: Tensor) -> Tensor:
        """Return the text-enhanced states ``(B, n, C)`` beside those that the head is given."""
        if self.output is None or self.entered is None or self.last_output is None:
            raise self._unlike("does not run its layers with lftr's hooks (torch.compile?)")
        self.columns = count = plain.shape[1]
        every, enhanced = (self.host.projection(one) for one in self._attention(count))
        self._check(
            every, self.output[:, -count:], "attends otherwise than by its queries and keys"
        )
        states, normed = self._last_layer(enhanced)
        self._check(states, plain, "has states after its last layer of another making")
        return normed + _AFTER * plain  # both normalised

    def combine(self, logits: Tensor) -> Tensor:
        """Return the corrected logits ``(B, n, V)`` of the model's and, after them, the others."""
        if not self.columns or logits.shape[1] != 2 * self.columns:
            raise self._unlike("does not call its head once in a forward")
        plain, enhanced = logits.chunk(2, dim=1)
        changed = self.concerned.to(plain.device)[:, None, None]
        return torch.where(changed, self.host.only.combine(plain, enhanced), plain.float())

    def _attention(self, count: int) -> tuple[Tensor, Tensor]:
        """Return what the layer's heads put out for the last columns: all, and those of the text.

        Each ``(B, n, H * d)``.
        """
        capture = self.capture
        assert capture is not None
        query, key, value = capture.query, capture.key, capture.value
        assert query is not None
        assert key is not None
        assert value is not None
        if key.shape[2] != self.visual.shape[1]:
            raise self._unlike(f"has {key.shape[2]} keys, not the {self.visual.shape[1]} expected,")
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        kinds = self.visual, self.text
        parts: list[list[Tensor]] = [[], []]
        with without_autocast(query):
            for start in range(-count, 0, _QUERIES):
                stop = min(start + _QUERIES, 0)
                seen, mask = self._seen(query, start, stop)
                rows = query[:, :, query.shape[2] + start : query.shape[2] + stop]
                weights = attend(rows, key, mask, capture.scale, capture.softcap, 0, stop - start)
                chosen = text_enhanced(
                    weights, *(seen & one[:, None, None].to(seen.device) for one in kinds)
                )
                for part, some in zip(parts, (weights, chosen), strict=True):
                    part.append((some @ value.float()).transpose(1, 2).flatten(2))
        every, of_text = (torch.cat(part, dim=1).to(query.dtype) for part in parts)
        return every, of_text

    def _seen(self, query: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return which keys the queries ``start:stop``, counted from the end, see, and the mask.

        Both ``(B, 1, n, S)``; the mask is additive, with what merged slots count for.
        """
        capture, device = self.capture, query.device
        assert capture is not None
        real = self.real[:, None, None].to(device)
        mask = torch.zeros((), device=device)
        if capture.mask is None:
            keys = torch.arange(real.shape[-1], device=device)
            queries = torch.arange(self.end + start, self.end + stop, device=device)
            seen = real & (keys <= queries[:, None])
        else:
            length = capture.mask.shape[2]
            part = capture.mask[..., length + start : length + stop, : real.shape[-1]]
            allowed = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
            seen = real & allowed
            mask = mask if part.dtype == torch.bool else part.float()
        if self.log_weight is not None:
            mask = mask + self.log_weight[:, None, None].to(device)
        return seen, torch.where(seen, mask, torch.finfo(torch.float32).min)

    def _last_layer(self, enhanced: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised output of the last layer, as it was and for ``enhanced``.

        All ``(B, n, C)``. What the last layer would give its attention of ``enhanced`` takes the
        place of that attention's output, beside a part of what the last layer is given.
        """
        host, count = self.host, enhanced.shape[1]
        assert self.entered is not None
        args, kwargs = self.entered
        whole: Tensor = args[0] if args else kwargs.states
        layer, name = host.last, CallArguments.name("states")

        def at_end(value: Any) -> Any:
            aligned = isinstance(value, Tensor) and value.shape[:2] == whole.shape[:2]
            return value[:, -count:] if aligned else value

        rest = [at_end(value) for value in args[1:]]
        call = CallArguments({key: at_end(value) for key, value in kwargs.items()}).without(name)
        states = at_end(whole)

        def run(entering: Tensor, stand_in: _StandIn) -> Tensor:
            copied = with_part(layer, host.last_attention, stand_in)
            positional, named = ((entering,), {}) if args else ((), {name: entering})
            normed: Tensor = host.norm(
                _states_of(type(layer).forward(copied, *positional, *rest, **call, **named))
            )
            return normed

        listener = _StandIn(None)
        with suppress(Stopped):
            run(enhanced.to(states.device), listener)
        if listener.received is None:
            raise self._unlike("does not call the attention of its last layer")
        before = _states_of(self.last_output)[:, -count:]
        plain = run(states, _StandIn(_like(self.last_output, before)))
        other = run(_BEFORE * states, _StandIn(_like(self.last_output, listener.received)))
        return plain, other

    def _check(self, computed: Tensor, expected: Tensor, what: str) -> None:
        """Check that the plain model's own values lead to its own result, in the last column."""
        tolerance = _TOLERANCE.get(computed.dtype, _ROUGH)
        pair = computed, expected.to(computed.device)
        computed, expected = (one[:, -1][self.concerned.to(one.device)].float() for one in pair)
        if not bool(((computed - expected).abs() <= tolerance * expected.abs().amax()).all()):
            raise self._unlike(what)

    def _unlike(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"decoding = {self.host.only}; this {type(self.host.model).__name__} {what}, so its "
            f"text-enhanced state is not known: leave it out; {versions()}"
        )


class _StandIn(nn.Module):
    """Takes the place of an attention; keeps what it is given, and ends the layer or answers."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.received: Tensor | None = None
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.received = args[0] if args else CallArguments(kwargs).states
        if self.output is None:
            raise Stopped
        return self.output


def _states_of(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _like(output: Any, states: Tensor) -> Any:
    """Return ``states`` in the form in which a module returned its output."""
    return (states, *output[1:]) if isinstance(output, tuple) else states
