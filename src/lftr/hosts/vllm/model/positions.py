"""The positions of kept tokens, which are known only after the method has chosen.

vLLM has a mechanism for this, made for video pruning in models with M-RoPE: a model returns
position channels beside its features and later computes positions from them
(`recompute_mrope_positions`). The size of an image or a video, and so the positions of all text,
are known before; the positions of its kept tokens are written then. `gaps` uses the same mechanism
for models whose positions have one dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ....values.errors import UnsupportedModelError

_PLACES = (256**2, 256, 1)  # bfloat16, which features may travel in, is exact up to 256


def width(dimensions: int) -> int:
    """Return the number of channels of an offset: digits in each dimension, and a mark."""
    return dimensions * len(_PLACES) + 1


CHANNELS = width(3)


def with_offsets(features: Tensor, offsets: Tensor) -> Tensor:
    """Append to each token's channels its offset from the item's beginning, and a mark.

    Parameters
    ----------
    features : Tensor, shape (K, C)
        The tokens.
    offsets : Tensor of int64, shape (D, K)
        In each dimension of positions, such as time, rows and columns; written as digits.
    """
    digits = torch.stack([offsets // place % 256 for place in _PLACES], dim=1).flatten(0, 1)
    channels = torch.cat([digits, torch.ones_like(digits[:1])]).T
    return torch.cat([features, channels.to(features)], dim=1)


def offsets_in(
    features: Sequence[Tensor], dimensions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Read what `with_offsets` has written.

    Returns
    -------
    offsets : Tensor of int64, shape (D, n)
        Of the tokens of all features.
    marked : Tensor of bool, shape (n,)
        Whether a token has an offset.
    """
    channels = torch.cat([one[:, -width(dimensions) :] for one in features]).to(device).long()
    weights = torch.tensor(_PLACES, device=device)
    offsets = (channels[:, :-1].unflatten(1, (dimensions, -1)) * weights).sum(-1).T
    return offsets, channels[:, -1] == 1


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
            offsets, marked = offsets_in(features, 3, positions.device)
            prompt = torch.as_tensor(ids)
            marks = torch.isin(prompt, torch.tensor(tokens, device=prompt.device))
            places = torch.arange(len(marks), device=marks.device)
            text = places.masked_fill(marks, -1).cummax(0).values  # the last one, from each place
            slots = marks.nonzero().squeeze(1)
            slots = slots[slots >= computed][: len(marked)].to(positions.device)
            slots, offsets = slots[marked], offsets[:, marked]
        before = text.to(positions.device)[slots]
        begins = torch.where(before < 0, 0, positions[0, before.clamp(min=0)] + 1)
        positions = positions.clone()
        positions[:, slots] = begins + offsets
    ahead = int(positions[:, -1].max()) + 1 - positions.shape[1]
    return bare, positions, ahead


def check(vllm_config: VllmConfig, otherwise: str = "") -> None:
    """Check that every part of vLLM receives the positions and the weights of kept tokens.

    Parameters
    ----------
    vllm_config : VllmConfig
        What the engine is started with.
    otherwise : str
        What the message offers instead.

    Raises
    ------
    UnsupportedModelError
        With pipeline parallelism, or a draft model that is shown images.
    """
    stages = vllm_config.parallel_config.pipeline_parallel_size
    if stages > 1:
        raise UnsupportedModelError(
            f"pipeline_parallel_size = {stages}; allowed: 1 where kept tokens keep their "
            "positions or have weights, since later stages are not told of these (tensor "
            f"parallelism has no such limit){otherwise}"
        )
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in ("ngram", "ngram_gpu", "suffix"):
        raise UnsupportedModelError(
            f"speculative method {speculative.method!r}; allowed: ngram or suffix where kept "
            "tokens keep their positions or have weights, since a draft model is not told of these"
            f"{otherwise}"
        )


def ask_for_rewriting(vllm_config: VllmConfig) -> None:
    """Make the model runner call this process's model for positions, without pruning videos.

    Runners for GPUs read the configuration once the model is loaded, the one for CPUs does not. A
    runner that prunes videos also encodes those of a step one by one. So what it has made of the
    configuration is set around each call of the encoder.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # also that for CPUs

    vllm_config.model_config.multimodal_config.is_multimodal_pruning_enabled = _yes
    encode = GPUModelRunner._execute_mm_encoder
    if not hasattr(encode, "lftr"):
        GPUModelRunner._execute_mm_encoder = _followed_by_rewriting(encode)


def _yes() -> bool:
    return True


def _followed_by_rewriting(encode: Any) -> Any:
    """Return a runner's function that encodes a step's items, all clips at once."""

    @functools.wraps(encode)
    def _execute_mm_encoder(runner: Any, *args: Any, **kwargs: Any) -> Any:
        rewrites = getattr(runner.get_model(), "rewrites_positions", None)
        if rewrites is None:  # the model is not reduced
            return encode(runner, *args, **kwargs)
        runner.is_multimodal_pruning_enabled = False
        try:
            return encode(runner, *args, **kwargs)
        finally:
            runner.is_multimodal_pruning_enabled = rewrites

    _execute_mm_encoder.lftr = True  # type: ignore[attr-defined]
    return _execute_mm_encoder
