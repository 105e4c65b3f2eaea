"""What transformers calls things: the one file that knows its argument names and private functions.

Everything else in this folder asks here, so that a rename in transformers is a change of this file
alone. ``tests/hosts/test_api.py`` looks for such names elsewhere.
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

from ...errors import LftrError, UnsupportedModelError

FLOOR, CEILING = (5, 18), (5, 25)  # the releases that the tests run on: from, and below
RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])

# The cache of a call and of an output, by release: "cache" from 5.24 on. Callers and code from the
# hub may use the older name on newer releases.
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
# What is aligned with the prompt's columns beside its ids and masks, and what pads it.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
ALIGNED: dict[str, int] = {**dict.fromkeys(TOKEN_TYPES, 0), _ROLES["labels"]: -100}
# What tells kernels where the documents of packed rows begin (DataCollatorWithFlattening).
_BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
# What asks a model for more than its result; some forwards hand it on to the encoder.
_EXTRA_OUTPUTS = ("output_hidden_states", "output_attentions")

# What a layer has that says whether its backward pass runs it again.
CHECKPOINTED = "gradient_checkpointing"
EXPAND = "_expand_multimodal_outputs"
# What says which of the encoder's layers makes the features, in a configuration and in a call;
# VipLlava has the second name before 5.23.
_FEATURE_LAYERS = ("vision_feature_layer", "vision_feature_layers")
_PLACE = "_prepare_position_ids_for_generation"


class CacheLayer(Protocol):
    """One layer of a cache, as far as lftr reads it."""

    is_sliding: bool
    is_compileable: bool

    def get_seq_length(self) -> Any:
        """Return how many columns were cached."""

    def get_mask_sizes(self, query_length: int) -> tuple[Any, Any]:
        """Return how many keys the next call sees, and the first one's column."""


class Cache(Protocol):
    """A cache of keys and values, as far as lftr reads it."""

    layers: list[Any]

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Return how many columns were cached."""


class Model(Protocol):
    """A model with its head, as far as the hosts read it."""

    config: Any
    generation_config: Any
    device: Any
    base_model: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""

    def get_input_embeddings(self) -> Any:
        """Return the embedding of the token ids."""


class Call(dict[str, Any]):
    """Arguments of a call of a model, a decoder layer or an encoder, by transformers' names.

    The properties read them by what they are for; `but` returns a copy with others.
    """

    @classmethod
    def of(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Call:
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
        """Rows and columns of the prompt, of its ids or else of its embeddings."""
        for one in (self.ids, self.embeds):
            if isinstance(one, Tensor) and one.ndim > 1:
                return one.shape[0], one.shape[1]
        return None

    @property
    def mask(self) -> Any:
        """Which columns are tokens, ``(B, past + L)``; or one mask, or several, of the layers."""
        return self.get(_ROLES["mask"])

    @property
    def positions(self) -> Any:
        """Positions, ``(..., B, L)``."""
        return self.get(_ROLES["positions"])

    @property
    def packed(self) -> bool:
        """Whether rows hold several documents, each of which is to see itself alone.

        transformers takes them for that where their borders are given, or where positions do not
        go on by one and there is no mask.
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
        """Columns whose logits are asked for: a number of the last ones, or a tensor."""
        return self.get(_ROLES["logits"])

    @property
    def encoded(self) -> Any:
        """Encoder outputs by medium, where they were made before the call."""
        return self.get(_ROLES["encoded"])

    @property
    def states(self) -> Any:
        """Hidden states that a layer is given, ``(B, L, C)``."""
        return self.get(_ROLES["states"])

    @property
    def rotary(self) -> Any:
        """Cosines and sines of the positions, ``(B, L, d)`` each."""
        return self.get(_ROLES["rotary"])

    @property
    def vision_states(self) -> Any:
        """What cross-attention layers attend to."""
        return self.get(_ROLES["vision_states"])

    @property
    def vision_mask(self) -> Any:
        """The mask over `vision_states`."""
        return self.get(_ROLES["vision_mask"])

    @property
    def queried_states(self) -> Any:
        """What a Q-Former reads, ``(B, N, C)``."""
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
        """Their positions, ``(B, C)``."""
        return self.get(_ROLES["canvas_positions"])

    @property
    def canvas_mask(self) -> Any:
        """What they may see, the prompt and themselves, ``(B, past + L + C)``."""
        return self.get(_ROLES["canvas_mask"])

    @property
    def cache(self) -> Any:
        """The cache that the call reads and fills."""
        return next((self[name] for name in _CACHE_NAMES if self.get(name) is not None), None)

    @property
    def past(self) -> int:
        """Columns that the cache holds before the call."""
        cache = self.cache
        return 0 if cache is None else int(cache.get_seq_length())

    def aligned_unknown(self, known: Container[str]) -> str | None:
        """Return the name of an argument that is aligned with the prompt and is not ``known``."""
        own = {_ROLES[role] for role in ("ids", "embeds", "mask", "positions", "logits")}
        for name, value in self.items():
            aligned = isinstance(value, Tensor) and value.shape[:2] == self.columns
            if aligned and name not in own and name not in ALIGNED and name not in known:
                return name
        return None

    def but(self, **roles: Any) -> Call:
        """Return a copy with other values; ``roles`` are `_ROLES`' keys and ``cache``."""
        return Call(self) | {self._spelling(role): value for role, value in roles.items()}

    def without(self, *names: str) -> Call:
        """Return a copy without arguments of these names."""
        return Call({name: value for name, value in self.items() if name not in names})

    def __or__(self, other: Mapping[str, Any]) -> Call:  # type: ignore[override]
        return Call({**self, **other})

    def _spelling(self, role: str) -> str:
        if role != "cache":
            return _ROLES[role]
        return next((name for name in _CACHE_NAMES if name in self), _CACHE)


def _positional(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def returned_cache(output: Any) -> Any:
    """Return the cache that a model's output hands back, or None."""
    for name in _CACHE_NAMES:
        if isinstance(output, Mapping) and name in output:
            return output[name]
    parts = output if isinstance(output, tuple) else ()
    return next((part for part in parts if isinstance(part, transformers.Cache)), None)


def extra_outputs(model: Any, medium: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that ask the encoder, too, for hidden states and attentions.

    From transformers 5.24 on a model's output carries the encoder's. Only some forwards hand the
    arguments on to the encoder, so that is read off their source.
    """
    asked = {name: call[name] for name in _EXTRA_OUTPUTS if call.get(name)}
    forward = inspect.unwrap(type(model.base_model).forward)
    return asked if asked and _hands_on(forward, f"get_{medium}_features") else {}


@functools.cache
def _hands_on(forward: Callable[..., Any], encoder: str) -> bool:
    """Whether a forward calls ``encoder`` with all its further arguments (``**kwargs``)."""
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
    """Return the argument that names the encoder's layers that make the features, and its values.

    The values are what the call asks for and what the configuration says: an index of the hidden
    states, several, or None where nothing is said.
    """
    name = next((n for n in _FEATURE_LAYERS if hasattr(config, n)), _FEATURE_LAYERS[0])
    asked = next((call[n] for n in _FEATURE_LAYERS if call.get(n) is not None), None)
    return name, asked, getattr(config, name, None)


def encoder_of(model: Any, medium: str) -> Any:
    """Return the model's function that encodes images or videos, or None."""
    return getattr(model.base_model, f"get_{medium}_features", None)


def prompt_positions(model: Any, call: Call) -> Tensor:
    """Return the positions that ``generate`` gives a prompt, ``(..., B, L)``."""
    placed: Tensor = getattr(model, _PLACE)(call.ids, dict(call))
    return placed


class Expansion(NamedTuple):
    """What ``generate`` asks when it repeats rows for beams: the arguments of `EXPAND`."""

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


def takes_encoded(model: Any) -> bool:
    """Whether a model's forward takes encoder outputs that were made before the call."""
    functions = (model.forward, model.base_model.forward)
    return all(_ROLES["encoded"] in inspect.signature(one).parameters for one in functions)


def takes_columns_by_row() -> bool:
    """Whether logits can be asked for at columns of each row's own, ``(B, n)``."""
    return hasattr(transformers.modeling_utils, "slice_logits_to_keep")


def check_private(model: Any, language_model: Any) -> None:
    """Check that what the host calls and reads of transformers has the names that it knows.

    Raises
    ------
    UnsupportedModelError
        If one is missing or takes other arguments.
    """
    parameters = inspect.signature(language_model.forward).parameters
    told = _ROLES["embeds"] in parameters  # not behind a wrapper that names no arguments
    if told and not set(_CACHE_NAMES) & set(parameters):
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
    """Refuse releases that are too old, and warn of those that no test has run on."""
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
