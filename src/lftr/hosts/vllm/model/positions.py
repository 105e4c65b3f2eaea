"""M-RoPE: the positions of kept tokens, which are known only after the method has chosen.

vLLM has a mechanism for this, made for video pruning: a model returns position channels beside its
features and later computes positions from them (`recompute_mrope_positions`). The grid of an image
or a video, and so the positions of all text, are known before; the positions of its kept tokens
are written then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ....values.errors import UnsupportedModelError

_PLACES = (256**2, 256, 1)  # bfloat16, which features may travel in, is exact up to 256
CHANNELS = 3 * len(_PLACES) + 1


def with_offsets(features: Tensor, offsets: Tensor) -> Tensor:
    """Append to each token's channels its offset from the item's beginning, and a mark.

    Parameters
    ----------
    features : Tensor, shape (K, C)
        The tokens.
    offsets : Tensor of int64, shape (3, K)
        In time, rows and columns; each is written as digits.
    """
    digits = torch.stack([offsets // place % 256 for place in _PLACES], dim=1).flatten(0, 1)
    channels = torch.cat([digits, torch.ones_like(digits[:1])]).T
    return torch.cat([features, channels.to(features)], dim=1)


def without_offsets(features: Tensor) -> Tensor:
    """Append empty channels, for tokens whose positions do not change."""
    return torch.cat([features, features.new_zeros(len(features), CHANNELS)], dim=1)


def initial(
    length: int, media: Iterable[tuple[int, int, np.ndarray[Any, Any]]]
) -> tuple[Tensor, int]:
    """Return positions ``(3, length)`` of a prompt, and how far decoding's are ahead of its count.

    Parameters
    ----------
    length : int
        Tokens of the prompt.
    media : iterable of (int, int, array of shape (3, N))
        For each item its first token, how many tokens it has in this prompt, and the offsets of all
        tokens of the whole item. If it has fewer, all are at its beginning until `rewritten`.
    """
    parts: list[np.ndarray[Any, Any]] = []
    done = following = 0

    def text(until: int) -> None:
        nonlocal following
        parts.append(np.tile(np.arange(until - done) + following, (3, 1)))
        following += until - done

    for first, count, offsets in media:
        text(first)
        whole = count == offsets.shape[1]
        parts.append(offsets + following if whole else np.full((3, count), following))
        following += int(offsets.max()) + 1
        done = first + count
    text(length)
    return torch.from_numpy(np.concatenate(parts, axis=1)), following - length


def rewritten(
    ids: Sequence[int] | Tensor | None,
    features: Sequence[Tensor],
    positions: Tensor,
    computed: int,
    tokens: Sequence[int],
) -> tuple[list[Tensor], Tensor, int]:
    """Return features without position channels, and the positions with those channels applied.

    An item begins after the text before it. Positions that were written for it before are not read:
    the items of a preempted request are encoded again, in another batch, where rounding may change
    the method's choice.

    Parameters
    ----------
    ids : Tensor of int, shape (length,), or sequence of int, optional
        The prompt; not read if there are no features, as in every step of decoding.
    features : sequence of Tensor, shape (n, C + CHANNELS)
        The tokens of each item that this step takes, in the prompt's order.
    positions : Tensor, shape (3, length)
        The positions before.
    computed : int
        Number of tokens of earlier steps.
    tokens : sequence of int
        Ids of placeholders.
    """
    bare = [one[:, :-CHANNELS] for one in features]
    if any(len(one) for one in features):
        with gpu_sync_allowed():
            channels = torch.cat([one[:, -CHANNELS:] for one in features])
            channels = channels.to(positions.device).long()
            prompt = torch.as_tensor(ids)
            marks = torch.isin(prompt, torch.tensor(tokens, device=prompt.device))
            places = torch.arange(len(marks), device=marks.device)
            text = places.masked_fill(marks, -1).cummax(0).values  # the last one, from each place
            slots = marks.nonzero().squeeze(1)
            slots = slots[slots >= computed][: len(channels)].to(positions.device)
            marked = channels[:, -1] == 1
            slots, channels = slots[marked], channels[marked, :-1]
        weights = torch.tensor(_PLACES, device=channels.device)
        offsets = (channels.unflatten(1, (3, -1)) * weights).sum(-1).T
        before = text.to(positions.device)[slots]
        begins = torch.where(before < 0, 0, positions[0, before.clamp(min=0)] + 1)
        positions = positions.clone()
        positions[:, slots] = begins + offsets
    ahead = int(positions[:, -1].max()) + 1 - positions.shape[1]
    return bare, positions, ahead


def check(vllm_config: VllmConfig) -> None:
    """Check that every part of vLLM receives the rewritten positions.

    Raises
    ------
    UnsupportedModelError
        With pipeline parallelism, or a draft model that is shown images.
    """
    stages = vllm_config.parallel_config.pipeline_parallel_size
    if stages > 1:
        raise UnsupportedModelError(
            f"pipeline_parallel_size = {stages}; allowed: 1 for models with M-RoPE, since later "
            "stages are not told where the chosen tokens are (tensor parallelism has no such limit)"
        )
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in ("ngram", "ngram_gpu", "suffix"):
        raise UnsupportedModelError(
            f"speculative method {speculative.method!r}; allowed: ngram or suffix for models with "
            "M-RoPE, since a draft model is not told where the chosen tokens are"
        )


def ask_for_rewriting(vllm_config: VllmConfig) -> None:
    """Make the model runner call this process's model for positions, without pruning videos.

    Runners for GPUs read the configuration once the model is loaded. The one for CPUs does not, so
    its attribute is set when it initialises its cache.
    """
    vllm_config.model_config.multimodal_config.is_multimodal_pruning_enabled = _yes
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        setup = CPUModelRunner.initialize_kv_cache
        if not hasattr(setup, "lftr"):
            CPUModelRunner.initialize_kv_cache = _with_rewriting(setup)


def _yes() -> bool:
    return True


def _with_rewriting(setup: Any) -> Any:
    def initialize_kv_cache(runner: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(runner.get_model(), "rewrites_positions", False):
            runner.is_multimodal_pruning_enabled = True
        return setup(runner, *args, **kwargs)

    initialize_kv_cache.lftr = True  # type: ignore[attr-defined]
    return initialize_kv_cache
