"""Choose among an item's tokens after the encoder, and pass these on to the language model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tp_group
from vllm.logger import init_logger
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.models.interfaces import SupportsMultiModal

from ....methods import get_method
from ....values.errors import LftrError, UnsupportedModelError
from ....values.evidence import from_rows
from ....values.selection import Selection
from ....values.tokens import VisualTokens
from ...transformers.encoder.media_input import frame_means
from ...transformers.families import Family
from .. import api
from ..architectures import architecture_of, provided
from ..metrics import Failures, Pace
from ..request.question import MOST_IDS
from ..request.request_setting import (
    KEY,
    TEXTS,
    RequestSetting,
    field_of,
    of_server,
    question_field_of,
    seen_by,
    setting_of,
    size_field_of,
)
from ..start_options import StartOptions, relied_on
from .encoder_inputs import EncoderInputs
from .evidence_reader import Encoder, EvidenceReader
from .slot_weights import StepWeights, with_logs
from .text_reader import TextReader

logger = init_logger("vllm.lftr")
_failures = Failures()

EvidenceGroup = tuple[Sequence[int], Callable[[], list[VisualTokens]]]
"""Items of one setting, by their places in a call, and what reads the evidence of each."""


class Reducing(SupportsMultiModal):
    """Mixed into a model of vLLM: chooses among the tokens that its encoder makes of each item.

    Evidence is read from the same modules as on transformers. The family of that host finds them,
    since vLLM's model has the attributes that it reads.
    """

    config: Any
    texts: TextReader  # where items are encoded
    tower: str
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]]  # by medium
    supports_tower_connector_lora = False  # it would take the kept tokens for the encoded ones
    projector: str | None = None  # None: that of the family; vLLM may call it without hooks

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        api.check(relied_on(vllm_config.model_config.hf_config))
        self._check(vllm_config)
        started = StartOptions.of(vllm_config.model_config.hf_config)
        most = int(vllm_config.scheduler_config.max_num_batched_tokens)
        weights = StepWeights(most) if started.weights else None
        with nullcontext() if weights is None else weights.widening():
            super().__init__(vllm_config=vllm_config, prefix=prefix)
        if weights is not None:
            weights.check(self.get_language_model(), vllm_config)
        self.slot_weights, self.exponent, self.most = weights, started.weights, most
        served = architecture_of(self.config)
        self.family = Family.registry[served.model_type]
        mode = vllm_config.model_config.multimodal_config.mm_encoder_tp_mode
        self.provided = provided(self.config, mode == "data", started.text_tower)
        if get_pp_group().is_first_rank:  # later stages encode no items
            self.texts = TextReader(self.get_language_model(), vllm_config, started.text_tower)
        self.pace = Pace()
        self._encoder: Encoder | None = None
        self._channels: int | None = None  # of tokens, known once an item was encoded here
        logger.info(
            "lftr: %s is served as %s, %s unless a request asks for another method or keep",
            served.stock,
            type(self).__name__,
            of_server(getattr(self.config, KEY, None), self.provided, weights is not None),
        )

    def _check(self, vllm_config: VllmConfig) -> None:
        """Check that hooks on the encoder run, and that nothing reaches the model past them."""
        for flag in ("compile_mm_encoder", "cudagraph_mm_encoder"):
            if getattr(vllm_config.compilation_config, flag):
                raise UnsupportedModelError(
                    f"compilation_config.{flag} = True; allowed: False, since a compiled encoder "
                    "runs no hooks, so its evidence cannot be read"
                )
        rate = vllm_config.model_config.multimodal_config.video_pruning_rate
        if rate:
            raise UnsupportedModelError(
                f"video_pruning_rate = {rate}; allowed: none, since lftr prunes videos itself"
            )
        if vllm_config.model_config.enable_prompt_embeds:
            raise UnsupportedModelError(
                "enable_prompt_embeds = True; allowed: False, since embeddings that a client sends "
                "have no positions and weights of lftr's, and no text for methods to be guided by"
            )

    @property
    def base_model(self) -> Any:
        """The model itself, under transformers' name for the owner of encoder and decoder."""
        return self

    @property
    def encoder(self) -> Encoder:
        """The modules of the encoder that are read; found once."""
        if self._encoder is None:
            self._encoder = self._find_encoder()
        return self._encoder

    def _find_encoder(self) -> Encoder:
        tower = self.family.module(self, self.tower)
        attentions: dict[str, Any] = {
            n: m for n, m in tower.named_modules() if isinstance(m, MMEncoderAttention)
        }
        names = list(attentions)
        depth = self.encoder_depth(len(names))
        deep = names[self.family.attention_layer(self, depth)]
        vision = self.config.vision_config
        heads = getattr(vision, "num_attention_heads", None) or vision.num_heads
        return Encoder(
            attentions[deep],
            attentions[names[self.family.shallow_layer(self, depth)]],
            tower.get_submodule(deep.rpartition(".")[0].rpartition(".")[0]),
            self.family.module(self, self.projector or self.family.projector),
            self.family.cls_place(self) if "cls_attention" in self.provided else None,
            heads // attentions[deep].num_heads,  # some have all heads on every device
        )

    # ---- overridden by families of models -------------------------------------------------------

    def encoder_depth(self, layers: int) -> int:
        """Return how many layers the encoder has, those that are not loaded included."""
        return layers

    def visible(self, features: Tensor) -> Tensor:
        """Return the columns of an item's tokens that the language model's first layer sees."""
        return features

    def placed(
        self, features: Sequence[Tensor], anchors: Sequence[Tensor], inputs: EncoderInputs
    ) -> list[Tensor]:
        """Return each item's chosen tokens, with further channels that the model needs.

        Parameters
        ----------
        features : sequence of Tensor, shape (K, C)
            The tokens that go to the language model.
        anchors : sequence of Tensor of int64, shape (K,)
            Their indices in the item; all indices if every token stays.
        inputs : EncoderInputs
            The items.
        """
        return list(features)

    # ---- the reduction --------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode items of one medium; return for each as many tokens as it has placeholders.

        Raises
        ------
        LftrError
            If vLLM passes items without a setting, which would be encoded without reduction.
        """
        for medium in self.family.media:
            kwargs.pop(size_field_of(medium.name), None)
            texts = kwargs.pop(field_of(medium.name), None)
            questions = kwargs.pop(question_field_of(medium.name), None)
            if texts is not None:
                settings = [setting_of(bytes(text.tolist()).decode()) for text in texts]
                questions = [None] * len(settings) if questions is None else questions
                requested = zip(settings, questions, strict=True)
                inputs = self.inputs_of[medium.name](self, medium, kwargs)
                return tuple(
                    tokens
                    for part in inputs.portions(self.most)
                    for tokens in self._reduced(part, list(islice(requested, len(part.sizes))))
                )
        raise LftrError(
            f"vLLM passed {', '.join(kwargs) or 'nothing'} to embed_multimodal of "
            f"{type(self).__name__}, and no setting of lftr's, which _apply_hf_processor_main of "
            "the processor adds to every item; this release does not call it as lftr's plugin "
            "knows it"
        )

    def _reduced(
        self, inputs: EncoderInputs, requested: Sequence[tuple[RequestSetting, Tensor | None]]
    ) -> list[Tensor]:
        """Return the tokens of items, each with its setting and the text that guides the choice."""
        sizes = inputs.sizes
        settings, questions = zip(*requested, strict=True)
        counts = [one.count(size) for one, size in zip(settings, sizes, strict=True)]
        wanted = {
            i: seen_by(one.method, self.provided)
            for i, one in enumerate(settings)
            if counts[i] < sizes[i]
        }
        reader = EvidenceReader(self.encoder, self._to_read(wanted.values()), inputs.packed)
        with reader.attached():
            features = list(super().embed_multimodal(**inputs.inputs))
        self._channels = features[0].shape[1]
        anchors = [torch.arange(size) for size in sizes]
        logs: list[Tensor | None] = [None] * len(sizes)  # None: zeros
        if wanted:
            start = time.perf_counter()
            tokens = cache(partial(self._tokens, reader, features, inputs, wanted))
            groups: Iterable[EvidenceGroup] = self._groups(tokens, wanted, settings, questions)
            if settings[0].example:  # a server that can read nothing does not start
                groups = [(some, partial(list[VisualTokens], read())) for some, read in groups]
            for i, choice in _choose(groups, features, settings, counts).items():
                features[i] = self._agreed(choice.apply(features[i]))
                anchors[i] = self._agreed(choice.index.to(features[i].device))
                if self.slot_weights is not None:  # on every device, also where a method failed
                    weight = self._agreed(choice.weight.to(features[i].device))
                    logs[i] = weight.log() * self.exponent
            spent = reader.spent + time.perf_counter() - start
            if get_tp_group().is_first_rank:
                self.pace.add([(sizes[i], counts[i]) for i in wanted], spent)
        if self.slot_weights is not None:
            features = [with_logs(rows, log) for rows, log in zip(features, logs, strict=True)]
        return self.placed(features, anchors, inputs)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embed a step's tokens, and note the weights of slots among them.

        Raises
        ------
        LftrError
            If features still have channels with positions, since vLLM has not called
            ``recompute_mrope_positions`` before.
        """
        slots = list(multimodal_embeddings or ())
        if self.slot_weights is not None:
            slots = self.slot_weights.taken(len(input_ids), slots, is_multimodal)
        widths = {rows.shape[1] for rows in slots}
        if self._channels is not None and not widths <= {self._channels}:
            raise LftrError(
                f"vLLM passed features of {sorted(widths)} channels to embed_input_ids of "
                f"{type(self).__name__}, not of {self._channels}; this release does not call "
                "recompute_mrope_positions before it, as lftr's plugin knows it"
            )
        embedded: Tensor = super().embed_input_ids(
            input_ids, slots or None, is_multimodal=is_multimodal
        )
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model; a step of ids alone, which were not embedded here, has text only."""
        if inputs_embeds is None and self.slot_weights is not None:
            self.slot_weights.logs.zero_()
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def _to_read(self, wanted: Iterable[frozenset[str]]) -> frozenset[str]:
        """Return the fields to read for several methods.

        Without a CLS token, frames are means; a text tower projects the encoder's features.
        """
        fields = frozenset().union(*wanted)
        if "visual_projected" in fields:
            fields |= {"encoder_features"}
        if "frame_features" in fields and self.encoder.cls_place is None:
            fields = fields - {"frame_features"} | {"encoder_features"}
        return fields

    def _tokens(
        self,
        reader: EvidenceReader,
        features: Sequence[Tensor],
        inputs: EncoderInputs,
        wanted: Mapping[int, frozenset[str]],
    ) -> dict[int, VisualTokens]:
        """Return the visual tokens of some items, with what their methods see but for texts."""
        layouts = inputs.layouts()
        maps = {name: inputs.to_tokens(one) for name, one in reader.patches().items()}
        if reader.projected:
            maps["encoder_features"] = inputs.projected(reader.projector_input)
        if "frame_features" in reader.wanted:
            maps["frame_features"] = inputs.by_item(reader.frames)
        tokens = {}
        for i, fields in wanted.items():
            values: dict[str, Any] = {name: from_rows(name, rows[i]) for name, rows in maps.items()}
            if "frame_features" in fields - values.keys():
                values["frame_features"] = frame_means(values["encoder_features"], layouts[i])
            if "visual_projected" in fields:
                values["visual_projected"] = self.texts.project(values["encoder_features"])
            seen = {name: values[name] for name in fields - TEXTS - {"features"}}
            tokens[i] = VisualTokens(self.visible(features[i]), **layouts[i].fields, **seen)
        return tokens

    def _groups(
        self,
        tokens: Callable[[], Mapping[int, VisualTokens]],
        wanted: Mapping[int, frozenset[str]],
        settings: Sequence[RequestSetting],
        questions: Sequence[Tensor | None],
    ) -> Iterator[EvidenceGroup]:
        """Yield groups of items of one setting, with what reads the evidence of each.

        Embeddings of a text are shared by the items that it guides, and dropped after their group.
        """
        texts: dict[Any, dict[str, Tensor]] = {}

        def read(members: Sequence[int]) -> list[VisualTokens]:
            nonlocal texts
            fields = wanted[members[0]] & TEXTS
            keys = {i: (fields, _content(questions[i])) for i in members}
            by_key = {key: questions[i] for i, key in keys.items()}
            texts = {
                key: texts[key] if key in texts else self.texts.read(fields, question)
                for key, question in by_key.items()
            }
            seen: dict[int, dict[str, Any]] = {i: dict(texts[key]) for i, key in keys.items()}
            if "text_products" in fields:
                for i, evidence in seen.items():
                    features = tokens()[i].features
                    evidence["text_products"] = self.texts.products(questions[i], features)
            return [dataclasses.replace(tokens()[i], **seen[i]) for i in members]

        for members in _alike(list(wanted), settings, questions):
            yield members, partial(read, members)

    def _agreed(self, rows: Tensor) -> Tensor:
        """Return the first device's rows on all devices, since rounding may differ among them."""
        group = get_tp_group()
        return rows if group.world_size == 1 else group.broadcast(rows.contiguous(), src=0)


def _alike(
    items: Sequence[int], settings: Sequence[RequestSetting], questions: Sequence[Tensor | None]
) -> Iterator[list[int]]:
    """Yield groups of items of one setting, with at most `MOST_IDS` ids of text, or of one item.

    Methods stack the items that they are given, each with its text. Without this limit a step of
    many small images under long texts would take more memory than vLLM has measured.
    """
    alike: dict[str, list[int]] = {}
    for i in items:
        alike.setdefault(settings[i].text, []).append(i)
    for members in alike.values():
        group: list[int] = []
        ids = 0
        for i in members:
            question = questions[i]
            length = 0 if question is None else len(question)
            if group and ids + length > MOST_IDS:
                yield group
                group, ids = [], 0
            group.append(i)
            ids += length
        yield group


def _content(question: Tensor | None) -> bytes | None:
    """Return what is equal for equal texts."""
    return None if question is None else question.numpy().tobytes()


def _choose(
    groups: Iterable[EvidenceGroup],
    features: Sequence[Tensor],
    settings: Sequence[RequestSetting],
    counts: Sequence[int],
) -> dict[int, Selection]:
    """Let the method of each group choose among the tokens of its items."""
    choices: dict[int, Selection] = {}
    for members, read in groups:
        rows, kept = [features[i] for i in members], [counts[i] for i in members]
        choices |= zip(members, _chosen(settings[members[0]], read, rows, kept), strict=True)
    return choices


def _chosen(
    setting: RequestSetting,
    read: Callable[[], list[VisualTokens]],
    features: Sequence[Tensor],
    counts: Sequence[int],
) -> list[Selection]:
    """Return a method's selections; if it fails, evenly spaced tokens, so that serving goes on.

    So they are if what the method sees cannot be read. A device without memory is no failure of
    the method: vLLM has to know of it.
    """
    try:
        selections = setting.method.select_all(read(), counts)
        _check(selections, [len(rows) for rows in features], counts)
    except Exception as error:
        if _out_of_memory(error):
            raise
        if get_tp_group().is_first_rank:
            _failures.add(setting.name, setting.text, len(features))
        items = [VisualTokens(rows) for rows in features]
        selections = get_method("uniform").select_all(items, counts)
    return list(selections)


def _check(selections: Sequence[Selection], sizes: Sequence[int], counts: Sequence[int]) -> None:
    """Check that a method has kept so many tokens of each item, and took none beyond its last."""
    kept = [one.count for one in selections]
    if kept != list(counts):
        raise LftrError(f"it kept {kept} tokens where {list(counts)} have to stay")
    for one, size in zip(selections, sizes, strict=True):
        sources = one.index if one.flow is None else torch.cat([one.index, one.flow.source])
        last = int(sources.max())
        if last >= size:
            raise LftrError(f"it took token {last} of an item of {size}, which are counted from 0")


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch raises a plain RuntimeError, known by its words."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "not enough memory" in str(error)
