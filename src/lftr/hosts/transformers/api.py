"""The names of transformers' arguments and private functions, and the types of what it passes.

No other file of this folder spells such a name, so a rename in transformers changes this file
alone. ``tests/hosts/test_api.py`` checks that.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, Protocol

import transformers
from torch import Tensor

from ...values.errors import ArgumentError, LftrError, UnsupportedModelError, reason_of

FLOOR, CEILING = (5, 18), (5, 25)  # the releases that the tests run on: from, and below
RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])

# Whether a checkpointed layer's hooks stay outside what its backward pass runs again.
HOOKS_RUN_ONCE = RELEASE >= (5, 23)
# Whether ``generate(prefill_chunk_size=...)`` gives the images to the chunks of the prompt.
CHUNKS_HAVE_IMAGES = RELEASE >= (5, 23)

# The name of the cache among arguments and outputs: "cache" from 5.24 on. Callers, and model code
# from the hub, may use the older name on newer releases.
_CACHE_NAMES = ("cache", "past_key_values")
_CACHE = _CACHE_NAMES[0] if RELEASE >= (5, 24) else _CACHE_NAMES[1]

_ROLES = {
    "ids": "input_ids",
    "embeds": "inputs_embeds",
    "mask": "attention_mask",
    "positions": "position_ids",
    "labels": "labels",
    "logits": "logits_to_keep",
    "encoded": "mm_encoder_outputs",
    "states": "hidden_states",
    "rotary": "position_embeddings",
    "caching": "use_cache",
    "vision_states": "cross_attention_states",
    "vision_mask": "cross_attention_mask",
    "queried_states": "encoder_hidden_states",
    "queried_mask": "encoder_attention_mask",
    "canvas": "decoder_input_ids",
    "canvas_positions": "decoder_position_ids",
    "canvas_mask": "decoder_attention_mask",
}
# Arguments (beside ids and masks) with one value per prompt column, and the value that pads them.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
ALIGNED: dict[str, int] = {**dict.fromkeys(TOKEN_TYPES, 0), _ROLES["labels"]: -100}
# Arguments that tell kernels where packed documents begin (DataCollatorWithFlattening).
_BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
# Arguments that ask a model for more outputs; some forwards pass them on to the encoder.
_EXTRA_OUTPUTS = ("output_hidden_states", "output_attentions")

# The attribute of a layer that says whether its backward pass runs it again.
CHECKPOINTED = "gradient_checkpointing"
# Arguments of ``generate``: its options, and callbacks that see the prompt.
GENERATION = "generation_config"
STOPPING, PROCESSING = "stopping_criteria", "logits_processor"
ALLOWING = "prefix_allowed_tokens_fn"
EXPAND = "_expand_multimodal_outputs"
# What says which of the encoder's layers makes the features, in a configuration and in a call;
# VipLlava has the second name before 5.23.
_FEATURE_LAYERS = ("vision_feature_layer", "vision_feature_layers")
_PLACE = "_prepare_position_ids_for_generation"


class CacheLayer(Protocol):
    """One layer of a cache, as far as lftr reads it."""

    keys: Tensor
    values: Tensor
    is_sliding: bool
    is_compileable: bool
    is_initialized: bool
    sliding_window: int

    def get_seq_length(self) -> int | Tensor:
        """Return how many columns were cached."""

    def get_mask_sizes(self, query_length: int) -> tuple[int | Tensor, int | Tensor]:
        """Return how many keys the next call sees, and the column of the first."""


class Cache(Protocol):
    """A cache of keys and values, as far as lftr reads it, and overrides it (`cache_record`)."""

    layers: list[CacheLayer]
    is_sliding: list[bool]  # False too for layers that have no such attribute

    def get_seq_length(self, layer_idx: int = 0) -> int | Tensor:
        """Return how many columns were cached."""

    def get_query_offset(self, layer_idx: int = 0) -> int | Tensor:
        """Return the column of the next token."""

    def get_mask_sizes(
        self, query_length: int, layer_idx: int
    ) -> tuple[int | Tensor, int | Tensor]:
        """Return how many keys the next call of a layer sees, and the column of the first."""


class Model(Protocol):
    """A model with its head, as far as the hosts use it."""

    config: Any
    generation_config: Any
    device: Any
    base_model: Any
    forward: Callable[..., Any]
    get_input_embeddings: Callable[..., Any]
    get_output_embeddings: Callable[..., Any]
    get_decoder: Callable[..., Any]
    register_forward_pre_hook: Callable[..., Any]
    register_forward_hook: Callable[..., Any]


class CallArguments(dict[str, Any]):
    """Arguments of a call of a model, a decoder layer or an encoder, by transformers' names.

    The properties name an argument by its purpose; `but` returns a copy with other values.
    """

    @classmethod
    def of(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> CallArguments:
        """Return the arguments of ``function(*args, **kwargs)`` by name.

        Raises
        ------
        LftrError
            If there are more positional arguments than the function names.
        """
        names = _positional(function) if args else ()
        if len(args) > len(names):
            raise LftrError(
                f"{len(args)} arguments were given by position to {function}, which names "
                f"{len(names)}; allowed: arguments by name"
            )
        return cls({**dict(zip(names, args, strict=False)), **kwargs})

    @staticmethod
    def name(role: str) -> str:
        """Return transformers' name for an argument."""
        return _CACHE if role == "cache" else _ROLES[role]

    @property
    def ids(self) -> Any:
        """The prompt's ids, int64 ``(B, L)``."""
        return self.get(_ROLES["ids"])

    @property
    def embeds(self) -> Any:
        """The prompt's embeddings, ``(B, L, C)``."""
        return self.get(_ROLES["embeds"])

    @property
    def columns(self) -> tuple[int, int] | None:
        """Number of rows and columns of the prompt, from its ids or else its embeddings."""
        for one in (self.ids, self.embeds):
            if isinstance(one, Tensor) and one.ndim > 1:
                return one.shape[0], one.shape[1]
        return None

    @property
    def mask(self) -> Any:
        """The padding mask ``(B, past + L)``; or one attention mask of the layers, or several."""
        return self.get(_ROLES["mask"])

    @property
    def positions(self) -> Any:
        """Positions, ``(..., B, L)``."""
        return self.get(_ROLES["positions"])

    @property
    def packed(self) -> bool:
        """Whether each row holds several documents, which must not attend to each other.

        transformers assumes so if the call gives their borders, or if the call has no mask and
        its positions do not increase by one.
        """
        if any(self.get(name) is not None for name in _BORDERS):
            return True
        if self.mask is not None or not isinstance(self.positions, Tensor):
            return False
        text = self.positions
        text = text[0] if text.ndim == 3 and len(text) == 4 else text  # M-RoPE's text axis
        return text.ndim == 2 and bool((text.diff(dim=-1) != 1).any())

    @property
    def labels(self) -> Any:
        """Labels, ``(B, L)``."""
        return self.get(_ROLES["labels"])

    @property
    def logits(self) -> Any:
        """The columns whose logits the caller wants: a number of last ones, or a tensor."""
        return self.get(_ROLES["logits"])

    @property
    def encoded(self) -> Any:
        """Encoder outputs by medium, if the caller made them before the call."""
        return self.get(_ROLES["encoded"])

    @property
    def states(self) -> Any:
        """The hidden states that a layer receives, ``(B, L, C)``."""
        return self.get(_ROLES["states"])

    @property
    def rotary(self) -> Any:
        """Cosines and sines of the positions, ``(B, L, d)`` each."""
        return self.get(_ROLES["rotary"])

    @property
    def vision_states(self) -> Any:
        """The vision states that cross-attention layers attend to."""
        return self.get(_ROLES["vision_states"])

    @property
    def vision_mask(self) -> Any:
        """The mask over `vision_states`."""
        return self.get(_ROLES["vision_mask"])

    @property
    def queried_states(self) -> Any:
        """The image features that a Q-Former reads, ``(B, N, C)``."""
        return self.get(_ROLES["queried_states"])

    @property
    def queried_mask(self) -> Any:
        """The mask over `queried_states`."""
        return self.get(_ROLES["queried_mask"])

    @property
    def canvas(self) -> Any:
        """The tokens that a diffusion model denoises, ``(B, C)``."""
        return self.get(_ROLES["canvas"])

    @property
    def canvas_positions(self) -> Any:
        """The positions of `canvas`, ``(B, C)``."""
        return self.get(_ROLES["canvas_positions"])

    @property
    def canvas_mask(self) -> Any:
        """The mask over the prompt and `canvas`, ``(B, past + L + C)``."""
        return self.get(_ROLES["canvas_mask"])

    @property
    def cache(self) -> Cache | None:
        """The cache that the call reads and fills."""
        return next((self[name] for name in _CACHE_NAMES if self.get(name) is not None), None)

    @property
    def past(self) -> int:
        """Columns that the cache holds before the call."""
        cache = self.cache
        return 0 if cache is None else int(cache.get_seq_length())

    def aligned_unknown(self, known: Container[str]) -> str | None:
        """Return the name of a prompt-aligned tensor that lftr and ``known`` do not name."""
        aligned_roles = {_ROLES[role] for role in ("ids", "embeds", "mask", "positions", "logits")}
        for name, value in self.items():
            aligned = isinstance(value, Tensor) and value.shape[:2] == self.columns
            if aligned and not any(name in names for names in (aligned_roles, ALIGNED, known)):
                return name
        return None

    def but(self, **roles: Any) -> CallArguments:
        """Return a copy with other values; ``roles`` are keys of `_ROLES`, or ``cache``."""
        return CallArguments(self) | {self._spelling(role): value for role, value in roles.items()}

    def without(self, *names: str) -> CallArguments:
        """Return a copy without arguments of these names."""
        return CallArguments({name: value for name, value in self.items() if name not in names})

    def __or__(self, other: Mapping[str, Any]) -> CallArguments:  # type: ignore[override]
        return CallArguments({**self, **other})

    def _spelling(self, role: str) -> str:
        if role != "cache":
            return _ROLES[role]
        return next((name for name in _CACHE_NAMES if name in self), _CACHE)


def _positional(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def returned_cache(output: Any) -> Cache | None:
    """Return the cache in a model's output, or None."""
    for name in _CACHE_NAMES:
        if isinstance(output, Mapping) and name in output:
            cache: Cache | None = output[name]
            return cache
    parts = output if isinstance(output, tuple) else ()
    return next((part for part in parts if isinstance(part, transformers.Cache)), None)


def extra_outputs(model: Model, medium: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that ask for hidden states and attentions and reach the encoder.

    From transformers 5.24 on, a model's output contains those of the encoder. Only some forwards
    pass these arguments on to the encoder; their source code shows which.
    """
    requested = {name: call[name] for name in _EXTRA_OUTPUTS if call.get(name)}
    forward = inspect.unwrap(type(model.base_model).forward)
    return requested if requested and _passes_on(forward, f"get_{medium}_features") else {}


@functools.cache
def _passes_on(forward: Callable[..., Any], encoder: str) -> bool:
    """Whether a forward passes its ``**kwargs`` on to ``encoder``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except OSError:  # no source at hand
        return False
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == encoder
    ]
    return any(keyword.arg is None for call in calls for keyword in call.keywords)


def attention_of(config: Any) -> str:
    """Return the attention implementation of a (sub-)configuration: "sdpa", "eager", ..."""
    return str(config._attn_implementation)


def feature_layer(config: Any, call: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Return the argument that names the encoder layers whose output is used, and its values.

    The values are that of the call and that of the configuration: an index of the hidden states,
    several, or None if unset.
    """
    name = next((n for n in _FEATURE_LAYERS if hasattr(config, n)), _FEATURE_LAYERS[0])
    passed = next((call[n] for n in _FEATURE_LAYERS if call.get(n) is not None), None)
    return name, passed, getattr(config, name, None)


def encoder_of(model: Model, medium: str) -> Any:
    """Return the model's function that encodes images or videos, or None."""
    return getattr(model.base_model, f"get_{medium}_features", None)


def generation_setting(model: Model, call: CallArguments, name: str) -> Any:
    """Return an option of ``generate``, or None, as ``generate`` itself reads it.

    It takes the argument, else the option of the configuration among the arguments. Where that is
    None, it takes the option of the model's own configuration.

    Raises
    ------
    UnsupportedModelError
        If this release of transformers has no such option.
    """
    if name not in _generation_options():
        raise UnsupportedModelError(
            f"{transformers.GenerationConfig.__name__} has no {name}, which lftr knows from "
            f"transformers {_span()}; {versions()}"
        )
    if name in call:
        return call[name]
    configs = (call.get(GENERATION), model.generation_config)
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)


@functools.cache
def _generation_options() -> frozenset[str]:
    """Return the names of the options of ``generate``."""
    return frozenset(vars(transformers.GenerationConfig()))


def end_tokens(model: Model) -> list[int]:
    """Return the ids with which an answer ends, of a ``generate`` that is not told others."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [*ends] if isinstance(ends, (list, tuple)) else [ends]


def prompt_positions(model: Model, call: CallArguments) -> Tensor:
    """Return the positions that ``generate`` gives a prompt, ``(..., B, L)``.

    Raises
    ------
    ArgumentError
        If the model cannot compute positions from these arguments.
    """
    try:
        positions: Tensor = getattr(model, _PLACE)(call.ids, dict(call))
    except Exception as error:
        raise ArgumentError.of(
            _ROLES["ids"],
            tuple(call.ids.shape),
            f"ids whose positions {type(model).__name__} can compute from the arguments beside "
            f"them ({reason_of(error)}); or give {_ROLES['positions']} yourself",
        ) from error
    return positions


class Expansion(NamedTuple):
    """The arguments of `EXPAND`, with which ``generate`` repeats rows for beams."""

    ids: Tensor
    outputs: dict[str, Any]
    size: int

    @classmethod
    def of(
        cls, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Expansion:
        """Read the arguments of a call."""
        call = inspect.signature(original).bind(*args, **kwargs).arguments
        return cls(call["input_ids"], call["mm_encoder_output"], call.get("expand_size", 1))


def takes_encoded(model: Model) -> bool:
    """Whether a model's forward accepts encoder outputs in place of pixels."""
    functions = (model.forward, model.base_model.forward)
    return all(_ROLES["encoded"] in inspect.signature(one).parameters for one in functions)


def takes_columns_by_row() -> bool:
    """Whether a call may ask for logits at other columns in each row, ``(B, n)``."""
    return hasattr(transformers.modeling_utils, "slice_logits_to_keep")


@functools.cache
def check_names() -> None:
    """Check the names of transformers whose absence nothing else would show.

    lftr asks whether an object has them (a cache's layer, a checkpointed layer, the arguments of a
    call) or overrides them. If a release called them otherwise, it would find nothing to do.

    Raises
    ------
    UnsupportedModelError
        If this release does not have one of them.
    """
    generate = inspect.signature(transformers.GenerationMixin.generate).parameters
    window = transformers.cache_utils.DynamicSlidingWindowLayer(sliding_window=2)
    checkpointed = dir(transformers.modeling_layers.GradientCheckpointingLayer)
    for owner, names, there in (
        ("a cache", _members(Cache), dir(transformers.DynamicCache())),
        ("a cache's layer", _members(CacheLayer), dir(window)),
        ("a checkpointed layer", {CHECKPOINTED}, checkpointed),
        ("generate", {"inputs", GENERATION, STOPPING, PROCESSING, ALLOWING}, generate),
    ):
        if missing := sorted(names.difference(there)):
            raise UnsupportedModelError(
                f"{owner} has no {', '.join(missing)}, which lftr knows from transformers "
                f"{_span()}; {versions()}"
            )


def _members(protocol: type) -> set[str]:
    """Return the names of a protocol's attributes and functions."""
    names = (*protocol.__annotations__, *vars(protocol))
    return {name for name in names if not name.startswith("_")}


def check_private(model: Model, language_model: Any) -> None:
    """Check that transformers still has the functions and arguments that the host uses.

    Raises
    ------
    UnsupportedModelError
        If one is missing, or a function takes other arguments.
    """
    parameters = inspect.signature(language_model.forward).parameters
    named = _ROLES["embeds"] in parameters  # a wrapper may name no arguments
    if named and not set(_CACHE_NAMES) & set(parameters):
        raise UnsupportedModelError(
            f"{type(language_model).__name__}.forward takes no cache by the names that lftr knows "
            f"({', '.join(_CACHE_NAMES)}); {versions()}"
        )
    wanted = {_PLACE: 2, EXPAND: 3}
    for name, arguments in wanted.items():
        function = getattr(model, name, None)
        if function is None or len(inspect.signature(function).parameters) < arguments:
            raise UnsupportedModelError(
                f"{type(model).__name__}.{name} is not what lftr knows from transformers "
                f"{_span()}; {versions()}"
            )
    known = inspect.signature(getattr(model, EXPAND)).parameters
    if not {"input_ids", "mm_encoder_output", "expand_size"} <= set(known):
        raise UnsupportedModelError(
            f"{type(model).__name__}.{EXPAND} takes {', '.join(known)}, which is not what lftr "
            f"knows from transformers {_span()}; {versions()}"
        )


def versions() -> str:
    """Return the sentence that an error about transformers' internals ends with."""
    from ... import __version__

    return (
        f"this is transformers {transformers.__version__} with lftr {__version__}: "
        "run `lftr verify` to see what holds on this model"
    )


def _span() -> str:
    low, high = (".".join(map(str, release)) for release in (FLOOR, CEILING))
    return f"{low} to below {high}"


def check_release() -> None:
    """Raise an error on releases that are too old, and warn on those that are not tested."""
    if RELEASE < FLOOR:
        raise LftrError(
            f"transformers {transformers.__version__} is too old; lftr needs at least "
            f"{'.'.join(map(str, FLOOR))}: pip install --upgrade transformers"
        )
    if RELEASE >= CEILING:
        warnings.warn(
            f"lftr was tested on transformers {_span()}; this is {transformers.__version__}: "
            "run `lftr verify` before you rely on it",
            stacklevel=2,
        )
