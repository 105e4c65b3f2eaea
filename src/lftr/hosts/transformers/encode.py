"""Running the vision encoder, and reading evidence off it while it runs."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MissingEvidenceError
from ...evidence.attention import Tap, attention_modules, tapped
from ...methods.base import Evidence
from ...tokens import PROVIDERS
from .families import Family
from .memory import memory_of

_ATTENTION = {"cls_attention", "attention_received", "attention_received_shallow", "keys"}
_TOWER = {"visual_projected", "text_embeds"}


@dataclass
class Encoded:
    """What the encoder returned, and the evidence read meanwhile.

    Attributes
    ----------
    output : Any
        The encoder's own output.
    maps : dict of str to Tensor
        Evidence with a row for each token, ``(total tokens, channels)``.
    frames : Tensor, optional
        The encoder's CLS outputs, ``(tiles, D)``.
    """

    output: Any
    maps: dict[str, Tensor] = field(default_factory=dict)
    frames: Tensor | None = None


def choose_evidence(
    family: Family, model: nn.Module, needs: Evidence, has_tower: bool
) -> frozenset[str]:
    """Return the fields to gather: of each need, the first that this model can provide.

    Raises
    ------
    MissingEvidenceError
        If a need cannot be met.
    """
    can = {"features", "encoder_features", "text_token_embeds"}
    if attention_modules(family.module(model, family.tower)):
        can |= {"attention_received", "attention_received_shallow", "keys"}
        if family.cls_place(model) is not None:
            can |= {"cls_attention", "frame_features"}
    if has_tower:
        can |= _TOWER
    chosen = set()
    for names in needs:
        name = next((name for name in names if name in can), None)
        if name is None:
            where = "; ".join(f"{n}: {PROVIDERS.get(n, 'the caller')}" for n in names)
            raise MissingEvidenceError(
                f"this method needs {' or '.join(names)}, which "
                f"{type(model).__name__} cannot provide as it is ({where})"
            )
        chosen.add(name)
    return frozenset(chosen)


def split_arguments(model: Any, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return the image encoder's arguments, and the names that generate hands to no one else."""
    base = model.base_model
    names: set[str] = set()
    own: dict[str, Any] = {}
    for kind in ("image", "video"):
        function = getattr(base, f"get_{kind}_features", None)
        if function is None:
            continue
        known = [name for name in inspect.signature(function).parameters if name != "kwargs"]
        names.update(known)
        if kind == "image":
            own = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
    return own, names


def encode(
    family: Family, model: Any, arguments: Mapping[str, Any], evidence: Iterable[str]
) -> Encoded:
    """Encode the images once, as the model does itself, and gather ``evidence`` on the way."""
    memory = memory_of(model)
    if memory is None:
        return _encode(family, model, arguments, evidence)
    return memory.recall(
        arguments, frozenset(evidence), lambda wanted: _encode(family, model, arguments, wanted)
    )


def _encode(
    family: Family, model: Any, arguments: Mapping[str, Any], evidence: Iterable[str]
) -> Encoded:
    wanted = set(evidence)
    encoder = model.base_model.get_image_features
    attention = bool(wanted & (_ATTENTION | {"frame_features"}))
    patches = bool(wanted & {"encoder_features", "visual_projected"})
    if not attention and not patches:
        with _at_hand(model.base_model):
            return Encoded(encoder(**arguments, return_dict=True))

    seen: list[Tensor] = []
    states: list[Tensor] = []
    tap = shallow = None
    with ExitStack() as stack:
        if patches:
            stack.enter_context(_first_input(family.module(model, family.projector), seen))
        if attention:
            tower = family.module(model, family.tower)
            layers = attention_modules(tower)
            module = layers[family.attention_layer(model, len(layers))]
            row = family.cls_place(model) if "cls_attention" in wanted else None
            tap = Tap(row, "attention_received" in wanted, "keys" in wanted)
            stack.enter_context(tapped(module, tap))
            if "attention_received_shallow" in wanted:
                early = layers[family.shallow_layer(model, len(layers))]
                shallow = tap if early is module else Tap()
                shallow.received = True
                stack.enter_context(tapped(early, shallow))
            if "frame_features" in wanted:
                stack.enter_context(_output(_parent(tower, module), states))
        stack.enter_context(_at_hand(model.base_model))
        output = encoder(**arguments, return_dict=True)

    encoded = Encoded(output)

    def keep(name: str, values: Tensor, by_patch: bool) -> None:
        rows = family.to_tokens(model, arguments, values) if by_patch else values
        encoded.maps[name] = rows

    if patches:
        values = seen[0] if family.projector_sees_tokens else _tiled(seen[0])
        if family.projector_sees_tokens:
            rows = getattr(output, family.features_key)
            total = sum(family.entries(model, arguments, rows))
            keep("encoder_features", values.reshape(total, -1), by_patch=False)
        else:
            keep("encoder_features", values, by_patch=True)
    if tap is not None:
        place = family.cls_place(model)
        if tap.rows:
            keep("cls_attention", _without(torch.cat(tap.rows), place, -1).mT, by_patch=True)
        for name, one in (("attention_received", tap), ("attention_received_shallow", shallow)):
            if one is not None and one.receipts and name in wanted:
                received = _packed([r.unsqueeze(-1) for r in one.receipts])
                keep(name, _without(received, place, 1), by_patch=True)
        if tap.seen_keys:
            keep("keys", _without(_packed(tap.seen_keys), place, 1), by_patch=True)
        if states and place is not None:
            encoded.frames = states[0][:, place]
    return encoded


@contextmanager
def _at_hand(module: nn.Module) -> Iterator[None]:
    """Load the parameters that accelerate offloads until ``module``'s own forward is called."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _first_input(module: nn.Module, seen: list[Tensor]) -> Any:
    thread = threading.get_ident()  # another may be encoding too, through the same module

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return
        values = [*args, *kwargs.values()]
        seen.append(next(v for v in values if isinstance(v, Tensor) and v.is_floating_point()))

    return _Detaching(module.register_forward_pre_hook(note, with_kwargs=True))


def _output(module: nn.Module, seen: list[Tensor]) -> Any:
    thread = threading.get_ident()

    def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == thread:
            seen.append(output[0] if isinstance(output, tuple) else output)

    return _Detaching(module.register_forward_hook(note))


class _Detaching:
    """A hook handle as a context."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def _parent(tower: nn.Module, module: nn.Module) -> nn.Module:
    """Return the encoder layer that an attention module is part of."""
    name = next(name for name, part in tower.named_modules() if part is module)
    return tower.get_submodule(name.rpartition(".")[0])


def _tiled(values: Tensor) -> Tensor:
    """Give a packed sequence ``(P, D)`` the tile dimension that others have."""
    return values.unsqueeze(0) if values.ndim == 2 else values


def _packed(parts: list[Tensor]) -> Tensor:
    """Join what a module's calls gave: tiles of one call, or one packed sequence of many calls."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _without(values: Tensor, place: int | None, dim: int) -> Tensor:
    """Leave the CLS token out."""
    if place is None:
        return values
    size = values.shape[dim]
    keep = [i for i in range(size) if i != place % size]
    return values.index_select(dim, torch.tensor(keep, device=values.device))
