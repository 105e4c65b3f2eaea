"""The bundled language model as Qwen2.5-VL's, without a gradient step.

Exact: Llama is Qwen2.5-VL's language model with biases of zero, and text stands at the same
positions. What differs is fitted by least squares:

- The encoder cannot tell where a patch is. A layer in front of the others puts back what the place
  added to a projected token: each visual token attends to the three tokens before the image, more
  to one or to another as its row and column are (M-RoPE), and each of them gives its own value.
- A token stands for four. A bias of the queries makes visual keys count so in every attention.
- Layer by layer, the output maps of attention and MLP are fitted to the bundled model's streams,
  relative to their size: of a visual token, the mean of its four.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from data import SLOT
from least_squares import fit, refit, share
from losses import Batch, packed_mask
from qwen import (
    BEFORE,
    END,
    GRID,
    HEAD,
    HEADS,
    PREFIX,
    START,
    TOKENS,
    WIDTH,
    gated,
    grouped,
    places,
    prompt,
)
from torch import Tensor
from vocabulary import BOS, PAD, USER

_HALF = HEAD // 2
_OMEGA = 10000.0 ** (-torch.arange(_HALF) / _HALF)
_ROW, _COLUMN, _STILL = (
    7,
    8,
    31,
)  # pairs of dimensions: slow in rows, slow in columns, hardly turning
_SLOW = [d for i in range(_HALF // 2, _HALF) for d in (i, i + _HALF)]
_ANCHORS = (BOS, USER, START)  # at the positions 0, 1 and 2
_CALM, _LOUD = 8.0, 14.0  # of a query, and by how much an anchor's logit exceeds another token's
_GAINS = (0.85, 0.95, 1.0, 1.05, 1.15)  # the queries of visual tokens are not all alike


def begin(model: Any, old: Any) -> None:
    """Copy the language model behind the front layer, and make the merger the mean of four."""
    language, known = model.model.language_model, old.model.language_model
    for mine, theirs in zip(language.layers[1:], known.layers, strict=True):
        missing, unknown = mine.load_state_dict(theirs.state_dict(), strict=False)
        if unknown or any(not name.endswith("bias") for name in missing):
            raise ValueError(f"layers differ: {missing}, {unknown}")
        for name in "qkv":
            getattr(mine.self_attn, f"{name}_proj").bias.zero_()
    language.norm.load_state_dict(known.norm.state_dict())
    words = len(known.embed_tokens.weight)
    language.embed_tokens.weight[:words] = known.embed_tokens.weight
    language.embed_tokens.weight[words:].normal_(0, 0.2)
    model.lm_head.weight.zero_()
    model.lm_head.weight[:words] = old.lm_head.weight


def begin_merger(vision: Any, projector: Any, patches: Tensor) -> None:
    """Let the merger give the mean of what the projector gives for the four patches."""
    merger = vision.merger
    first, _, second = merger.mlp
    merger.ln_q.weight.fill_(1)
    first.weight.zero_()
    size = patches.pow(2).mean().sqrt()  # which the merger's norm takes away
    for i in range(4):
        part = slice(WIDTH * i, WIDTH * (i + 1))
        first.weight[part, part] = projector.linear_1.weight * size
        first.bias[part] = projector.linear_1.bias
        second.weight[:, part] = projector.linear_2.weight / 4
    second.bias.copy_(projector.linear_2.bias)


# The front layer


def shares(shape: Tensor, gain: float = 1.0) -> Tensor:
    """Attention of each visual token to the three anchors, of every head.

    Parameters
    ----------
    shape : Tensor, shape (heads, 5)
        Of each head: slope down and across, middle row and column, lead of the second anchor.

    Returns
    -------
    Tensor, shape (TOKENS, heads * 3)
    """
    down, across, row, column, lead = shape.T[..., None] * 1.0
    _, rows, columns = places(0)[:, BEFORE : BEFORE + TOKENS]
    slope = down * torch.sin(_OMEGA[_ROW] * (rows - row))
    slope = gain * (slope + across * torch.sin(_OMEGA[_COLUMN] * (columns - column)))
    logits = torch.stack((slope, (gain * lead).expand_as(slope), -slope), -1)
    return logits.softmax(-1).permute(1, 0, 2).flatten(1)


def values(shape: Tensor, wanted: Tensor) -> Tensor:
    """Find what the anchors of each head have to give for ``wanted``: ``(heads * 3, n)``.

    Of each anchor the values of all heads sum to zero, so that a token that attends evenly, as
    words do, gets nothing.
    """
    given = torch.cat([shares(shape, gain) for gain in _GAINS])
    sums = torch.eye(3).repeat(1, HEADS)
    free = torch.linalg.svd(sums)[2][3:].T
    inner = given @ free
    gram = inner.T @ inner + 1e-2 * torch.eye(free.shape[1])
    return free @ torch.linalg.solve(gram, inner.T @ wanted.repeat(len(_GAINS), 1))


def shape_heads(wanted: Tensor, tries: int = 3000) -> Tensor:
    """Search for the shape of heads whose shares give ``wanted`` (TOKENS, WIDTH) best."""
    left, size, _ = torch.linalg.svd(wanted, full_matrices=False)
    short = (left * size)[:, :12]
    generator = torch.Generator().manual_seed(0)
    middle = BEFORE + (GRID - 1) / 2
    slopes = torch.tensor([[7.0, 0.0], [0.0, 9.0], [4.0, 5.0], [4.0, -5.0]])
    rest = torch.tensor([middle, middle, 1.0]).expand(HEADS, -1)
    best = torch.cat((slopes, rest), 1)

    def error(shape: Tensor) -> float:
        given = torch.cat([shares(shape, gain) for gain in _GAINS])
        return float((given @ values(shape, short) - short.repeat(len(_GAINS), 1)).pow(2).sum())

    least = error(best)
    for turn in range(tries):
        step = torch.tensor([2.0, 2.0, 1.5, 1.5, 1.0]) * (0.3 if turn > tries // 2 else 1.0)
        moved = torch.rand(HEADS, 1, generator=generator) < 0.5
        new = best + moved * step * torch.randn(HEADS, 5, generator=generator)
        new[:, :2].clamp_(-14, 14)
        new[:, 2:4].clamp_(0, BEFORE + GRID + 2)
        if (found := error(new)) < least:
            least, best = found, new
    return best


def front(model: Any, tokens: Tensor, added: Tensor, words: Tensor) -> None:
    """Make the first layer add to each visual token what its place adds, and nothing to words.

    Parameters
    ----------
    tokens : Tensor, shape (B, TOKENS, WIDTH)
        Merged tokens without place.
    added : Tensor, shape (TOKENS, WIDTH)
    words : Tensor
        The ids that may stand in a prompt.
    """
    layer, table = model.model.language_model.layers[0], model.model.language_model.embed_tokens
    attention = layer.self_attn
    layer.input_layernorm.weight.fill_(1)
    layer.mlp.down_proj.weight.zero_()
    added = added - added.mean(0)
    shape = shape_heads(added)
    others = words[~torch.isin(words, torch.tensor(_ANCHORS))]
    others = torch.cat((others, torch.tensor([END])))
    seen = torch.cat((table(torch.tensor(_ANCHORS)), table(others), tokens.flatten(0, 1)[::3]))
    seen = layer.input_layernorm(seen)
    kinds = (3, len(others), len(seen) - 3 - len(others))
    weight = torch.tensor([3e3, 1e2, 1.0]).repeat_interleave(torch.tensor(kinds))
    truth = torch.zeros(len(seen), 4)  # is it the first anchor, the second, the third; is it visual
    truth[:3, :3] = torch.eye(3)
    truth[-kinds[2] :, 3] = 1
    *anchors, visual = fit(seen, truth, weight, 1e-9).T
    maps = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    for linear in maps.values():
        linear.weight.zero_()
    for head, (down, across, row, column, lead) in enumerate(shape.tolist()):
        start = HEAD * head
        for pair in (_ROW, _COLUMN, _STILL):
            maps["q"].weight[start + pair] += visual * _CALM
        for place, (anchor, side) in enumerate(zip(anchors, (1.0, 0.0, -1.0), strict=True)):
            key = maps["k"].weight
            key[start + _STILL] += anchor * (_LOUD + lead * (place == 1))
            for pair, slope, middle in ((_ROW, down, row), (_COLUMN, across, column)):
                # the query is (1, 0) on the pair: rotated, the product is
                # slope * sin(omega * (its place - middle))
                turn = float(_OMEGA[pair]) * (middle - place)
                key[start + pair] -= anchor * side * slope * math.sin(turn)
                key[start + pair + _HALF] += anchor * side * slope * math.cos(turn)
            maps["v"].weight[start + place] += anchor
    for name in "qkv":
        maps[name].bias.zero_()
    dimensions = torch.tensor([HEAD * head + place for head in range(HEADS) for place in range(3)])
    maps["o"].weight[:, dimensions] = values(shape, added).T


# The other layers


def streams(old: Any, patches: Tensor, batch: Batch) -> Tensor:
    """Run the bundled language model on its tower's patches, questions packed behind them.

    Returns
    -------
    Tensor, shape (1 + 2 * layers, B, 2 + TOKENS + words, WIDTH), float16
        Before the first layer, and after attention and after the MLP of each. Of visual tokens, the
        mean of the four that one token stands for.
    """
    language = old.model.language_model
    tokens = old.model.multi_modal_projector(patches)
    before = language.embed_tokens(torch.tensor([BOS, USER])).expand(len(tokens), -1, -1)
    words = language.embed_tokens(batch["slots"].flatten(1))
    hidden = torch.cat((before, tokens, words), 1)
    end, within = 2 + tokens.shape[1], torch.arange(words.shape[1])
    turned = language.rotary_emb(hidden, torch.cat((torch.arange(end), end + within % SLOT))[None])
    mask = packed_mask(end, within)[None, None]

    def short(state: Tensor) -> Tensor:
        parts = (state[:, :2], grouped(state[:, 2:end]).mean(2), state[:, end:])
        return torch.cat(parts, 1).half()

    found = [short(hidden)]
    for layer in language.layers:
        normed = layer.input_layernorm(hidden)
        hidden = (
            hidden + layer.self_attn(normed, attention_mask=mask, position_embeddings=turned)[0]
        )
        found.append(short(hidden))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        found.append(short(hidden))
    return torch.stack(found)


def count_as_four(attention: Any, states: Tensor, used: Tensor) -> None:
    """Set the queries' biases so that a visual key's logit is higher by ``log(4)``.

    Parameters
    ----------
    states : Tensor, shape (B, L, WIDTH)
        What the attention reads.
    used : Tensor of bool, shape (B, L)
        Where the prompt has tokens.
    """
    keys = attention.k_proj(states)[used].unflatten(-1, (HEADS, HEAD))
    visual = torch.zeros(states.shape[1])
    visual[BEFORE : BEFORE + TOKENS] = math.log(4) * HEAD**0.5
    wanted = visual.expand(states.shape[:2])[used][:, None]
    bias = attention.q_proj.bias.view(HEADS, HEAD)
    for head in range(HEADS):
        slow = keys[:, head, _SLOW]
        slow = torch.cat(
            (slow, torch.ones_like(slow[:, :1])), 1
        )  # what all keys have alike is free
        bias[head, _SLOW] = fit(slow, wanted, slow.new_ones(len(slow)), 1e-3)[:-1, 0]


def importance(batch: Batch) -> Tensor:
    """How much each token counts: ``(B, 2 + TOKENS + words)``; where it answers, most."""
    slots, at = batch["slots"], batch["ask_at"][..., None]
    within = torch.arange(SLOT)
    words = ((slots != PAD) & (within < at + 2)).float() + 5.0 * (within == at)
    image = words.new_full((len(slots), TOKENS), 0.5)
    return torch.cat((words.new_ones(len(slots), 2), image, words.flatten(1)), 1)


def calibrate(
    model: Any, tokens: Tensor, wanted: Tensor, batch: Batch, log: Callable[..., None]
) -> None:
    """Fit the output maps of every layer but the front one to the bundled model's streams."""
    language = model.model.language_model
    hidden = prompt(model, tokens, batch["slots"])
    words = hidden.shape[1] - PREFIX
    mask = packed_mask(PREFIX, torch.arange(words))[None, None]
    turned = language.rotary_emb(hidden, places(words)[:, None])
    # which of our tokens the bundled model has too
    both = torch.tensor([0, 1, *range(BEFORE, BEFORE + TOKENS), *range(PREFIX, PREFIX + words)])
    weight = importance(batch)
    used = weight > 0
    held = torch.zeros_like(used)
    held[-max(1, len(held) // 8) :] = True
    answers = held & (weight == weight.max())
    present = torch.ones(hidden.shape[:2], dtype=torch.bool)
    present[:, both] = used

    def improve(linear: Any, inputs: Tensor, state: Tensor, goal: Tensor) -> None:
        relative = (weight / goal.pow(2).mean(-1))[used]
        missing = (goal - state[:, both])[used]
        linear.weight.copy_(
            refit(inputs[:, both][used], missing, relative, linear.weight.T, held[used]).T
        )

    hidden = torch.cat(
        [
            language.layers[0](part, attention_mask=mask, position_embeddings=turned)
            for part in hidden.split(8)
        ]
    )
    for number, layer in enumerate(language.layers[1:]):
        after, behind = wanted[1 + 2 * number].float(), wanted[2 + 2 * number].float()
        normed = layer.input_layernorm(hidden)
        count_as_four(layer.self_attn, normed[:24], present[:24])
        heads = _heads(layer.self_attn, normed, mask, turned)
        improve(layer.self_attn.o_proj, heads, hidden, after)
        hidden = hidden + layer.self_attn.o_proj(heads)
        units = gated(layer.mlp, layer.post_attention_layernorm(hidden))
        improve(layer.mlp.down_proj, units, hidden, behind)
        hidden = hidden + layer.mlp.down_proj(units)
        log(layer=number, held_out=share(hidden[:, both][answers], behind[answers]))


def _heads(attention: Any, states: Tensor, mask: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Return what the heads give, before the output map."""
    found: list[Tensor] = []
    hook = attention.o_proj.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for part in states.split(8):
        attention(part, attention_mask=mask, position_embeddings=turned)
    hook.remove()
    return torch.cat(found)
