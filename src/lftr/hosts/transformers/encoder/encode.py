"""Run the vision encoder, and read evidence from it while it runs."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....evidence.attention import attention_modules, attention_not_recorded, recording
from ....evidence.attention_recorder import AttentionRecorder
from ....methods.base import Evidence
from ....methods.encoder.merges import EncoderMerge
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.evidence import fields_from, missing_evidence
from ....values.indexing import take
from ....values.selection import Selection
from ..api import CallArguments, Model, encoder_of, extra_outputs, feature_layer
from ..families import Family, Medium, VideoNames
from .encode_cache import encode_cache_of
from .merge import Merged, MergePass, RecorderOf

_ATTENTION = fields_from("attention", "cls")
_ATTENTION_OR_FRAMES = _ATTENTION | fields_from("frames")
_PATCHES = fields_from("projector") | {"visual_projected"}


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
    merged : Merged, optional
        What merged while it ran.
    """

    output: Any
    maps: dict[str, Tensor] = field(default_factory=dict)
    frames: Tensor | None = None
    merged: Merged | None = None


def choose_evidence(
    family: Family,
    model: Model,
    needs: Evidence,
    *,
    has_tower: bool = False,
    has_frames: bool = False,
) -> frozenset[str]:
    """Return the fields to gather: of each need, the first that this model can provide.

    ``has_frames`` says that images are the frames of videos. Frames have a descriptor in any model:
    where there is no CLS output, the mean of their patches.

    Raises
    ------
    MissingEvidenceError
        If a need cannot be met.
    """
    can = fields_from("features", "prompt")
    if family.first_attention(model) is not None:
        can |= fields_from("language")
    if family.maps_patches:
        can |= fields_from("projector")
        if attention_modules(family.module(model, family.tower)):
            can |= fields_from("attention")
            if family.cls_place(model) is not None:
                can |= fields_from("cls", "frames")
        if has_frames or family.video is not None:
            can |= fields_from("frames")
        if has_tower:
            can |= fields_from("tower")
    chosen = set()
    for names in needs:
        name = next((name for name in names if name in can), None)
        if name is None:
            raise missing_evidence(names, type(model).__name__)
        chosen.add(name)
    return frozenset(chosen)


def encoder_arguments(medium: Medium, model: Model, call: CallArguments) -> dict[str, Any]:
    """Return the arguments of a call that the encoder of a medium takes."""
    names = inspect.signature(medium.encoder(model)).parameters
    arguments = {name: call[name] for name in names if call.get(name) is not None}
    return arguments | extra_outputs(model, medium.name, call)


def encoder_names(family: Family, model: Model) -> set[str]:
    """Return the names that generate hands to encoders and to no one else."""
    functions = [encoder_of(model, name) for name in (Medium.name, VideoNames.name)]
    functions += [medium.encoder(model) for medium in family.media]
    names = {n for f in functions if f is not None for n in inspect.signature(f).parameters}
    return names - {"kwargs"}


def encode(
    medium: Medium,
    model: Model,
    arguments: Mapping[str, Any],
    evidence: Iterable[str],
    merge: EncoderMerge | None = None,
) -> Encoded:
    """Encode images or clips once, as the model does, and read ``evidence`` meanwhile.

    With ``merge``, tokens merge while the encoder runs.
    """
    cache = encode_cache_of(model)
    if cache is None:
        return _encode(medium, model, arguments, evidence, merge)
    return cache.encode(
        {**arguments, "merge": merge},
        frozenset(evidence),
        lambda wanted: _encode(medium, model, arguments, wanted, merge),
    )


def _encode(
    medium: Medium,
    model: Model,
    arguments: Mapping[str, Any],
    evidence: Iterable[str],
    merge: EncoderMerge | None,
) -> Encoded:
    reader, merging = EncoderEvidenceReader(medium, model, frozenset(evidence)), None
    recorders: dict[nn.Module, AttentionRecorder] = {}
    with ExitStack() as stack:

        def recorder_of(module: nn.Module) -> AttentionRecorder:
            """Return the recorder of a module; evidence and merging share it."""
            if module not in recorders:
                recorders[module] = stack.enter_context(recording(module, AttentionRecorder()))
            return recorders[module]

        if merge is not None:
            _check_layer(model, arguments)
            merging = MergePass(merge, medium.merging_layers(model), medium.cls_place(model))
            merging.attach(medium.module(model, medium.tower), stack, recorder_of)
        reader.attach(stack, recorder_of, arguments)
        stack.enter_context(_on_device(model.base_model))
        output = medium.encoder(model)(**arguments, return_dict=True)
    reader.check(recorders)
    merged = None
    if merging is not None:
        merged = merging.merged(medium.features(output)[0].shape[0])
    return Encoded(output, reader.maps(arguments, output, merging), reader.frames, merged)


def _check_layer(model: Model, arguments: Mapping[str, Any]) -> None:
    """Check that the call reads the encoder layer for which the merges were planned."""
    name, layer, configured = feature_layer(model.config, arguments)
    if layer is not None and layer != configured:
        raise ArgumentError.of(
            name, layer, f"{configured}, as in the configuration, if encoder= merges tokens"
        )


class EncoderEvidenceReader:
    """Reads the evidence of one pass of the encoder."""

    def __init__(self, medium: Medium, model: Model, wanted: frozenset[str]) -> None:
        self.medium = medium
        self.model = model
        self.wanted = wanted
        self.place = medium.cls_place(model) if wanted & _ATTENTION_OR_FRAMES else None
        # a frame without a CLS output is described by the mean of its patches
        means = "frame_features" in wanted and self.place is None
        self.patches = means or bool(wanted & _PATCHES)
        self.projected: list[Tensor] = []  # the projector's input
        self.states: list[Tensor] = []
        self.deep = self.early = 0  # the layers that are read
        self.recorders: tuple[AttentionRecorder, AttentionRecorder] = (
            AttentionRecorder(),
            AttentionRecorder(),
        )

    def attach(
        self, stack: ExitStack, recorder_of: RecorderOf, arguments: Mapping[str, Any]
    ) -> None:
        """Record evidence until ``stack`` closes, at the layers that ``arguments`` select."""
        medium, model, wanted = self.medium, self.model, self.wanted
        if self.patches:
            stack.enter_context(
                _first_input(medium.module(model, medium.projector), self.projected)
            )
        if not wanted & _ATTENTION and self.place is None:
            return  # frames are described by means of the projector's input
        tower = medium.module(model, medium.tower)
        layers = attention_modules(tower)
        self.deep = medium.attention_layer(model, len(layers), arguments)
        self.early = medium.shallow_layer(model, len(layers))
        recorder, shallow = recorder_of(layers[self.deep]), AttentionRecorder()
        if "cls_attention" in wanted:
            recorder.row = self.place
        recorder.received |= "attention_received" in wanted
        if "cls_value_similarity" in wanted:
            recorder.value_row = self.place
        recorder.keys |= "keys" in wanted
        recorder.values |= "values" in wanted
        if "attention_received_shallow" in wanted:
            shallow = recorder_of(layers[self.early])
            shallow.received = True
        self.recorders = recorder, shallow
        if "frame_features" in wanted:
            stack.enter_context(_output(_parent(tower, layers[self.deep]), self.states))

    def check(self, recorders: Mapping[nn.Module, AttentionRecorder]) -> None:
        """Check that the encoder called every module whose output is needed as evidence.

        Raises
        ------
        UnsupportedModelError
            If it did not call one.
        """
        for module, recorder in recorders.items():
            if not recorder.calls:
                raise attention_not_recorded(module)
        silent = []
        if self.patches and not self.projected:
            silent.append(self.medium.projector)
        if "frame_features" in self.wanted and self.place is not None and not self.states:
            silent.append("the layer whose output is read")
        if silent:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} did not call {' and '.join(silent)} while "
                f"encoding, so {', '.join(sorted(self.wanted))} could not be read; choose a method "
                "that needs only the tokens' features"
            )

    @property
    def frames(self) -> Tensor | None:
        """The CLS outputs ``(tiles, D)``; None if they were not read."""
        if not self.states or self.place is None:
            return None
        return self.states[0][:, self.place]

    def maps(
        self, arguments: Mapping[str, Any], output: Any, merging: MergePass | None
    ) -> dict[str, Tensor]:
        """Return the evidence, one row for each token ``(total tokens, channels)``."""
        patches: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        if self.projected and self.medium.projector_sees_tokens:
            rows = self.medium.features(output)
            total = sum(math.prod(entry.shape[:-1]) for entry in rows)
            maps["encoder_features"] = self.projected[0].reshape(total, -1)
        elif self.projected:
            patches["encoder_features"] = _join_calls([_add_tiles(one) for one in self.projected])
        deep, shallow = self.recorders
        onward = None if merging is None else merging.onward(self.deep)
        if "cls_attention" in self.wanted:
            patches["cls_attention"] = self._at_anchors(torch.cat(deep.rows).mT, onward)
        early = None if merging is None else merging.onward(self.early)
        for name, rows, decided in (
            ("attention_received", deep.receipts, onward),
            ("attention_received_shallow", shallow.receipts, early),
            ("cls_value_similarity", deep.similarities, onward),
        ):
            if name in self.wanted:
                column = _join_calls([row.unsqueeze(-1) for row in rows])
                patches[name] = self._at_anchors(column, decided)
        for name, vectors in (("keys", deep.seen_keys), ("values", deep.seen_values)):
            if name in self.wanted:
                joined = _join_calls(vectors)
                joined = joined if onward is None else onward.apply(joined)
                patches[name] = _without_cls(joined, self.place)
        for name, values in patches.items():
            maps[name] = self.medium.to_tokens(self.model, arguments, values)
        return maps

    def _at_anchors(self, values: Tensor, onward: Selection | None) -> Tensor:
        """Return ``(B, N, c)`` of the tokens that hold a slot, without the CLS token."""
        values = values if onward is None else take(values, onward.index, 1)
        return _without_cls(values, self.place)


@contextmanager
def _on_device(module: nn.Module) -> Iterator[None]:
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


def _first_input(module: nn.Module, seen: list[Tensor]) -> RemovableHandle:
    thread = threading.get_ident()  # another may be encoding too, through the same module

    # kwargs is None if another thread calls the hook while this one removes it
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        if kwargs is None or threading.get_ident() != thread:
            return
        values = [*args, *kwargs.values()]
        seen.append(next(v for v in values if isinstance(v, Tensor) and v.is_floating_point()))

    return module.register_forward_pre_hook(note, with_kwargs=True)


def _output(module: nn.Module, seen: list[Tensor]) -> RemovableHandle:
    thread = threading.get_ident()

    def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == thread:
            seen.append(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(note)


def _parent(tower: nn.Module, module: nn.Module) -> nn.Module:
    """Return the encoder layer that an attention module is part of."""
    name = next(name for name, part in tower.named_modules() if part is module)
    return tower.get_submodule(name.rpartition(".")[0])


def _add_tiles(values: Tensor) -> Tensor:
    """Give a packed sequence ``(P, D)`` the tile dimension that others have."""
    return values.unsqueeze(0) if values.ndim == 2 else values


def _join_calls(parts: list[Tensor]) -> Tensor:
    """Join the results of a module's calls: one for all tiles, or many for a packed sequence."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _without_cls(values: Tensor, place: int | None) -> Tensor:
    """Return ``(B, N, c)`` without the CLS token."""
    if place is None:
        return values
    size = values.shape[1]
    keep = [i for i in range(size) if i != place % size]
    return values.index_select(1, torch.tensor(keep, device=values.device))
