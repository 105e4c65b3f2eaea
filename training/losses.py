"""What the towers are trained for; every forward pass here equals plain inference."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from architecture import Towers
from data import BACKGROUND, SLOT
from torch import Tensor, nn
from transformers import AttentionInterface
from vocabulary import BOS, EOS, USER

from lftr.lab.suites.layout import COLOURS, KINDS

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


class Heads(nn.Module):
    """Read-outs that only training uses: what covers a patch, and how texts compare to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (1 + len(KINDS), len(COLOURS), 10, 3)
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, sum(self.sizes))
        self.patch_scale = nn.Parameter(torch.tensor([2.3, -3.0]))
        self.scene_scale = nn.Parameter(torch.tensor(2.6))


def pixels(image: Tensor) -> Tensor:
    """Do what the image processor does to ``(B, H, W, 3)`` bytes."""
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1


def see(towers: Towers, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run the vision tower: the patches that the language model reads, and the CLS output."""
    vision = towers.llava.model.vision_tower
    hidden = vision.pre_layrnorm(vision.embeddings(images))
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.bfloat16)
    *layers, last = vision.encoder.layers
    for layer in layers:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:], vision.post_layernorm(last(hidden, attention_mask=None)[:, 0])


def dense_losses(heads: Heads, patches: Tensor, batch: Batch) -> Losses:
    """Each patch tells the kind, colour, digit, place and size of what covers it."""
    owner = batch["owner"].flatten(1).long()
    covered = owner >= 0
    table = batch["objects"]
    truth = table.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, table.shape[-1]))
    kind, colour, digit, box = heads.dense(heads.norm(patches)).float().split(heads.sizes, -1)
    kinds = torch.where(covered, truth[..., 1].long() + 1, 0)
    wrong = F.cross_entropy(kind.flatten(0, 1), kinds.flatten(), reduction="none").view_as(kinds)
    return {
        "kind": mean(wrong, covered) + 0.5 * mean(wrong, owner == BACKGROUND),
        "colour": masked_entropy(colour, truth[..., 0].long(), covered),
        "digit": masked_entropy(digit, truth[..., 2].long(), covered & (truth[..., 2] >= 0)),
        "box": 10 * mean((box - truth[..., 3:]).abs().mean(-1), covered),
    }


def text_losses(
    towers: Towers, heads: Heads, patches: Tensor, cls: Tensor, batch: Batch, sample: int = 32
) -> Losses:
    """Texts lie near the patches that they name, captions near their scenes."""
    norm = towers.llava.model.vision_tower.post_layernorm
    owner = batch["owner"].flatten(1).long()
    chance = torch.rand(owner.shape, device=owner.device) + 0.9 * (owner >= 0) - 2.0 * (owner < -1)
    chosen = chance.topk(sample, 1).indices
    owner = owner.gather(1, chosen)
    objects = batch["objects"].long()
    named = objects.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, objects.shape[-1]))
    some = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[-1]))
    seen = F.normalize(towers.visual_projection(norm(some)).flatten(0, 1).float(), dim=-1)
    said = F.normalize(embed(towers, batch["texts"].flatten(0, 1)), dim=-1)
    asked = batch["mentions"].flatten(0, 1)  # (texts, 2, 2)
    what = named[..., :2].flatten(0, 1)  # (patches, 2)
    fits = ((asked[None] == what[:, None, None]) | (asked[None] == -1)).all(-1).any(-1)
    fits &= (owner >= 0).flatten()[:, None]
    scale, shift = heads.patch_scale[0].exp(), heads.patch_scale[1]
    wrong = F.softplus(torch.where(fits, -1.0, 1.0) * (seen @ said.T * scale + shift))
    whole = F.normalize(towers.visual_projection(cls).float(), dim=-1)
    captions = F.normalize(embed(towers, batch["caption"]), dim=-1)
    match = whole @ captions.T * heads.scene_scale.exp()
    same = torch.arange(len(match), device=match.device)
    return {
        "region": mean(wrong, fits) + mean(wrong, ~fits),
        "scene": (F.cross_entropy(match, same) + F.cross_entropy(match.T, same)) / 2,
    }


def embed(towers: Towers, ids: Tensor) -> Tensor:
    """Run the text tower: ``(texts, projection)``."""
    text = towers.text_tower
    inner = getattr(text.text_model, "text_model", text.text_model)
    hidden = inner.embeddings(input_ids=ids)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    for layer in inner.encoder.layers:
        hidden = layer(hidden, attention_mask=causal[None, None])
    end = (ids == EOS).int().argmax(-1)
    pooled = inner.final_layer_norm(hidden[torch.arange(len(ids), device=ids.device), end])
    return text.text_projection(pooled).float()


def answer(towers: Towers, patches: Tensor, batch: Batch, keep: Tensor | None = None) -> Tensor:
    """Logits of the token after ``<assistant>`` and of the one after the answer.

    All questions of a scene stand behind one image. None sees another and each begins at the
    position right after the image, so that it is answered as if it had been asked alone.

    Parameters
    ----------
    keep : Tensor, optional
        ``(B, K)``: the patches to keep, at their own positions. All by default.

    Returns
    -------
    Tensor
        ``(B, SLOTS, 2, vocabulary)``.
    """
    model = towers.llava.model.language_model
    features = towers.llava.model.multi_modal_projector(patches)
    size, n = features.shape[:2]
    if keep is None:
        keep = torch.arange(n, device=features.device)[None]
    else:
        features = features.gather(1, keep[..., None].expand(-1, -1, features.shape[-1]))
    begin, user = (keep.new_full((size, 1), token) for token in (BOS, USER))
    words = model.embed_tokens(torch.cat((begin, user), 1)).to(features.dtype)
    start = torch.arange(2, device=keep.device).expand(len(keep), 2)
    prefix = Prefix(torch.cat((words, features), 1), torch.cat((start, 2 + keep), 1), 2 + n)
    return read(towers, prefix, batch)[0]


@dataclass
class Prefix:
    """What stands before the questions.

    Attributes
    ----------
    embeddings : Tensor, shape (B, L, C)
    positions : Tensor, shape (B or 1, L)
    end : int
        The position of the token after it.
    """

    embeddings: Tensor
    positions: Tensor
    end: int


def read(
    towers: Towers, prefix: Prefix, batch: Batch, tapped: Collection[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Read a pack of questions behind a prefix.

    Parameters
    ----------
    tapped : collection of int
        After how many layers to take the states of the prefix.

    Returns
    -------
    logits : Tensor, shape (B, slots, 2, vocabulary)
        Of the token after ``<assistant>`` and of the one after the answer.
    states : list of Tensor, shape (B, L, C)
        Of the prefix, one for each depth of ``tapped``, the shallowest first.
    """
    model = towers.llava.model.language_model
    slots = batch["slots"]
    long = prefix.embeddings.shape[1]
    words = model.embed_tokens(slots.flatten(1)).to(prefix.embeddings.dtype)
    hidden = torch.cat((prefix.embeddings, words), 1)
    within = torch.arange(words.shape[1], device=slots.device)
    after = (prefix.end + within % SLOT).expand(len(prefix.positions), -1)
    positions = torch.cat((prefix.positions, after), 1)
    mask = packed_mask(long, within)[None, None]
    rotation = model.rotary_emb(hidden, positions)
    states = []
    for depth, layer in enumerate(model.layers, 1):
        hidden = layer(
            hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotation
        )
        if depth in tapped:
            states.append(hidden[:, :long])
    hidden = model.norm(hidden)[:, long:].unflatten(1, slots.shape[1:])
    at = torch.stack((batch["ask_at"], batch["ask_at"] + 1), -1)
    logits = towers.llava.lm_head(
        hidden.gather(2, at[..., None].expand(-1, -1, -1, hidden.shape[-1]))
    )
    return logits, states


def packed_mask(prefix: int, within: Tensor) -> Tensor:
    """Tell what each token behind the prefix sees: the prefix, and its own slot up to itself."""
    slot, order = within // SLOT, within
    own = (slot[:, None] == slot[None]) & (order[:, None] >= order[None])
    return torch.cat((own.new_ones(len(within), prefix), own), 1)


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention over the prefix, masked attention only for the packed questions."""
    scale = options["scaling"]
    head, tail = query.split((query.shape[2] - mask.shape[2], mask.shape[2]), 2)
    n = head.shape[2]
    attend = F.scaled_dot_product_attention
    first = attend(head, key[:, :, :n], value[:, :, :n], is_causal=True, scale=scale)
    rest = attend(tail, key, value, attn_mask=mask, scale=scale)
    return torch.cat((first, rest), 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("packed", packed_attention)


def wanted(batch: Batch) -> Tensor:
    """Pick the tokens that `answer` should give: ``(B, SLOTS, 2)``."""
    at = batch["ask_at"][..., None] + torch.arange(1, 3, device=batch["ask_at"].device)
    return batch["slots"].gather(2, at)


def answer_losses(logits: Tensor, batch: Batch, weight: Tensor | None = None) -> Losses:
    """Cross entropy of the answers; of their ends, which is soon learnt, a little.

    Parameters
    ----------
    weight : Tensor, optional
        ``(B, SLOTS)``: how much each question counts. All alike by default.
    """
    wrong = F.cross_entropy(
        logits.float().flatten(0, 2), wanted(batch).flatten(), reduction="none"
    ).view(*logits.shape[:3])
    asked = wrong[..., 0]
    answered = asked.mean() if weight is None else (asked * weight).sum() / weight.sum()
    return {"answer": answered, "end": 0.1 * wrong[..., 1].mean()}


def mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of ``values`` over ``where``; zero over nothing."""
    return (values * where).sum() / where.sum().clamp(min=1)


def masked_entropy(logits: Tensor, classes: Tensor, where: Tensor) -> Tensor:
    """Mean cross entropy over ``where``."""
    safe = torch.where(where, classes, 0)
    wrong = F.cross_entropy(logits.flatten(0, 1), safe.flatten(), reduction="none")
    return mean(wrong.view_as(safe), where)
