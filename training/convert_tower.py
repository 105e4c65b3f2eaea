"""The bundled CLIP tower as a Qwen2.5-VL encoder, without a gradient step.

Exact: attention and MLP of a CLIP block are those of a Qwen2.5-VL block once LayerNorm is RMSNorm,
which it is in a residual stream of mean zero (all that writes into it is centred); the norms' gains
and biases go into the linear maps behind them. GELU is nearly a gated unit with a constant gate.

Not exact: the embeddings of places become rotations. Of each head, what the places alone add to
the logits is a function of the offset between query and key; cosines and sines of the six fastest
frequencies follow it (constant biases of query and key), and contents move to the slower ones. The
place itself cannot be told any more: a plain picture would give equal patches. The stream that the
encoder is to have is therefore the bundled tower's, less what each place adds on average. What is
lost (CLS, the first norm, windows, fewer units) is made up for block by block: the output maps of
attention and MLP are fitted to that stream by least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from data import BACKGROUND
from least_squares import fit, refit, share
from qwen import HEAD, HEADS, SIDE, WIDTH, attend, embed, gated, order, squares
from torch import Tensor

FAST = 6  # frequencies of each axis that carry offsets, of 16
SLOPE = 1.702  # x * sigmoid(SLOPE * x) is nearly GELU
_HALF = HEAD // 2
_OMEGA = 10000.0 ** (-torch.arange(_HALF // 2) / (_HALF // 2))
# Pairs of a head's dimensions turn together: d and d + 32; the first 16 with the row.
_CONTENT = [
    dimension
    for i in range(_HALF // 2 - 1, FAST - 1, -1)
    for axis in (0, 1)
    for dimension in (_HALF // 2 * axis + i, _HALF // 2 * axis + i + _HALF)
]


def streams(tower: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run the bundled tower: its streams freed of place, and what place adds to the last one.

    Returns
    -------
    free : Tensor, shape (1 + 2 * blocks, B, patches, WIDTH)
        Before the first block, and after attention and after the MLP of each; row by row.
    place : Tensor, shape (patches, WIDTH)
    """
    batches = [_stream(tower, images[i : i + 8]) for i in range(0, len(images), 8)]
    whole = torch.cat(batches, 1)
    whole = whole - whole.mean(-1, keepdim=True)
    place = whole.mean(1, keepdim=True)
    place = place - place.mean(2, keepdim=True)
    return whole - place, place[-1, 0]


def features(tower: Any, images: Tensor) -> Tensor:
    """Run the bundled tower: the patches that its language model reads, row by row."""
    return _stream(tower, images)[-1]


def _stream(tower: Any, images: Tensor) -> Tensor:
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    found = [hidden]
    for layer in tower.encoder.layers[:-1]:
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), attention_mask=None)[0]
        found.append(hidden)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        found.append(hidden)
    return torch.stack(found)[:, :, 1:]


def centred(weight: Tensor) -> Tensor:
    """Let a map's outputs, or a bias, have mean zero."""
    return weight - weight.mean(0, keepdim=True)


def begin(vision: Any, tower: Any, images: Tensor) -> None:
    """Set the encoder to what the bundled tower's weights give in closed form.

    Parameters
    ----------
    images : Tensor, shape (B, 3, H, W)
        A few, to see which parts of queries, keys and units matter.
    """
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    constant = _begin_embedding(vision, hidden[:, 1:], squares(images))
    for number, (block, layer) in enumerate(zip(vision.blocks, tower.encoder.layers, strict=False)):
        normed = layer.layer_norm1(hidden)
        weight, bias = _begin_attention(layer, normed[:, 1:])
        output = centred(layer.self_attn.out_proj.bias)
        if number == 0:  # it reads the bare embedding: the constant comes with its output
            bare = embed(vision, images)
            size = (bare + constant).pow(2).mean(-1).sqrt().mean()
            bias = bias + weight @ constant / size
            weight = weight * bare.pow(2).mean().sqrt() / size
            output = output + constant
        block.attn.qkv.weight.copy_(weight)
        block.attn.qkv.bias.copy_(bias)
        block.attn.proj.weight.copy_(centred(layer.self_attn.out_proj.weight))
        block.attn.proj.bias.copy_(output)
        hidden = hidden + layer.self_attn(normed, attention_mask=None)[0]
        _begin_mlp(block.mlp, layer, hidden[:, 1:])
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))


def _begin_embedding(vision: Any, hidden: Tensor, patches: Tensor) -> Tensor:
    """Fit the patch embedding to the stream freed of place; return the constant it cannot add."""
    free = hidden - hidden.mean(0) + hidden.mean((0, 1))
    pixels = torch.cat((patches, torch.ones_like(patches[..., :1])), -1).flatten(0, 1)
    found = fit(pixels, free.flatten(0, 1), pixels.new_ones(len(pixels)), 1e-5)
    weight = centred(found[:-1].T)
    both = vision.patch_embed.proj.weight
    both.copy_((weight / both.shape[2]).view(WIDTH, 3, 1, *both.shape[3:]).expand_as(both))
    return centred(found[-1])


def _begin_attention(layer: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of queries, keys and values."""
    gain, shift = layer.layer_norm1.weight, layer.layer_norm1.bias
    maps = [getattr(layer.self_attn, f"{name}_proj") for name in "qkv"]
    biases = [one.bias + one.weight @ shift for one in maps]
    query, key = (one(normed).unflatten(-1, (HEADS, HEAD)) for one in maps[:2])
    weights = [torch.zeros(HEADS, HEAD, WIDTH), torch.zeros(HEADS, HEAD, WIDTH)]
    constants = [torch.zeros(HEADS, HEAD), torch.zeros(HEADS, HEAD)]
    for head in range(HEADS):
        turns = _content(query[:, :, head], key[:, :, head])
        rows = slice(HEAD * head, HEAD * (head + 1))
        for turn, one, bias, weight, constant in zip(
            turns, maps[:2], biases[:2], weights, constants, strict=True
        ):
            weight[head, _CONTENT] = turn @ one.weight[rows] * gain
            constant[head, _CONTENT] = turn @ bias[rows]
        for constant, offset in zip(
            constants, _offsets(query[:, :, head], key[:, :, head]), strict=True
        ):
            constant[head] += offset
    value = maps[2].weight * gain
    weight = torch.cat((*(one.flatten(0, 1) for one in weights), value))
    return weight, torch.cat((*(one.flatten() for one in constants), biases[2]))


def _content(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Map a head's queries and keys to as few dimensions as are slow, products kept.

    Of all pairs of maps that keep ``query @ key`` these have what varies most first.
    """
    free = [one - one.mean(0) + one.mean((0, 1)) for one in (query, key)]
    free[1] = free[1] - free[1].mean((0, 1))  # the same for every key: no softmax sees it
    roots = []
    for one in free:
        flat = one.flatten(0, 1)
        square = (flat.T @ flat / len(flat)).double() + 1e-4 * torch.eye(HEAD, dtype=torch.double)
        roots.append(torch.linalg.cholesky(square).float())
    left, size, right = torch.linalg.svd(roots[0].T @ roots[1])
    root = size.sqrt()[:, None]
    turns = (left.T @ torch.linalg.inv(roots[0]) * root, right @ torch.linalg.inv(roots[1]) * root)
    return turns[0][: len(_CONTENT)], turns[1][: len(_CONTENT)]


def _offsets(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Find biases of query and key whose rotated product tells offsets as a head's places do."""
    where = [one.mean(0) for one in (query, key)]
    table = by_offset(where[0] @ (where[1] - where[1].mean(0)).T)
    logits = query[:8] @ key[:8].mT * HEAD**-0.5
    matter = by_offset(logits.softmax(-1).mean(0))
    weight = matter / matter.sum() + 0.1 / matter.numel()
    away = torch.arange(1.0 - SIDE, SIDE)
    axes = torch.meshgrid(away, away, indexing="ij")
    turns = torch.stack([w * axis.flatten() for axis in axes for w in _OMEGA[:FAST]], -1)
    waves = torch.stack((turns.cos(), -turns.sin()), -1).flatten(1)
    waves = torch.cat((torch.ones_like(waves[:, :1]), waves), 1)
    found = fit(waves, table.flatten()[:, None], weight.flatten(), 1e-4)[1:]
    found = found.view(2, FAST, 2)
    size = found.norm(dim=-1).sqrt() + 0.3
    biases = torch.zeros(2, 2, 2, _HALF // 2)  # query or key, half of the pair, axis, frequency
    biases[0, 0, :, :FAST] = size
    biases[1, :, :, :FAST] = (found / size[..., None]).movedim(-1, 0)
    query_bias, key_bias = biases.flatten(1)
    return query_bias, key_bias


def by_offset(pairs: Tensor) -> Tensor:
    """Mean of ``(patches, patches)`` over pairs of one offset, key less query.

    Returns
    -------
    Tensor, shape (2 * SIDE - 1, 2 * SIDE - 1)
    """
    line = torch.arange(SIDE)
    away = line[None] - line[:, None] + SIDE - 1
    rows = away[:, None, :, None].expand(SIDE, SIDE, SIDE, SIDE)
    columns = away[None, :, None, :].expand(SIDE, SIDE, SIDE, SIDE)
    at = (rows * (2 * SIDE - 1) + columns).flatten()
    total = torch.zeros((2 * SIDE - 1) ** 2).index_add_(0, at, pairs.flatten())
    return (total / at.bincount()).view(2 * SIDE - 1, 2 * SIDE - 1)


def _begin_mlp(mlp: Any, layer: Any, hidden: Tensor) -> None:
    """Keep the units that matter most; the others stay at their means."""
    gain, shift = layer.layer_norm2.weight, layer.layer_norm2.bias
    first, second = layer.mlp.fc1, layer.mlp.fc2
    units = F.gelu(first(layer.layer_norm2(hidden))).flatten(0, 1)
    output = centred(second.weight)
    worth = units.std(0) * output.norm(dim=0)
    kept = worth.topk(mlp.gate_proj.out_features).indices.sort().values
    gone = units.mean(0).index_fill(0, kept, 0)
    mlp.gate_proj.weight.copy_(SLOPE * (first.weight * gain)[kept])
    mlp.gate_proj.bias.copy_(SLOPE * (first.bias + first.weight @ shift)[kept])
    mlp.up_proj.weight.zero_()
    mlp.up_proj.bias.fill_(1 / SLOPE)
    mlp.down_proj.weight.copy_(output[:, kept])
    mlp.down_proj.bias.copy_(centred(second.bias) + output @ gone)


def calibrate(
    vision: Any,
    tower: Any,
    images: Tensor,
    owner: Tensor,
    log: Callable[..., None],
    some: float = 0.3,
) -> Tensor:
    """Fit the output maps of every block to the bundled tower's stream freed of place.

    Parameters
    ----------
    owner : Tensor, shape (B, SIDE, SIDE)
        What covers each patch. Background counts little.
    some : float
        Share of the background that is used.

    Returns
    -------
    Tensor, shape (patches, WIDTH)
        What place adds to the bundled tower's output, row by row.
    """
    wanted, place = streams(tower, images)
    at = order()
    wanted, owner = wanted[:, :, at], owner.flatten(1)[:, at]
    covered = owner >= 0
    used = (owner != BACKGROUND) | (torch.rand(owner.shape) < some)
    weight = torch.where(owner == BACKGROUND, 0.15 / some, 1.0)[used]
    held = torch.zeros_like(used)
    held[-max(1, len(held) // 8) :] = True
    checked = held & covered

    def improve(linear: Any, inputs: Tensor, missing: Tensor) -> None:
        ones = inputs.new_ones(len(inputs), 1)
        prior = torch.cat((linear.weight.T, linear.bias[None]))
        inputs = torch.cat((inputs, ones), 1)
        found = refit(inputs, missing, weight, prior, held[used])
        linear.weight.copy_(centred(found[:-1].T))
        linear.bias.copy_(centred(found[-1]))

    hidden = embed(vision, images)
    for number, block in enumerate(vision.blocks):
        seen = torch.cat([attend(vision, number, part) for part in hidden.split(8)])
        after, behind = wanted[1 + 2 * number], wanted[2 + 2 * number]
        improve(block.attn.proj, seen[used], (after - hidden)[used])
        hidden = hidden + block.attn.proj(seen)
        units = gated(block.mlp, block.norm2(hidden[used]))
        improve(block.mlp.down_proj, units, (behind - hidden)[used])
        hidden = torch.cat([part + block.mlp(block.norm2(part)) for part in hidden.split(8)])
        log(block=number, held_out=share(hidden[checked], behind[checked]))
    return place
