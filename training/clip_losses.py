"""Forward pass of the clip model, equal to plain inference, and what it is trained for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from architecture import ClipTowers
from clip_data import TOLD, UNKNOWN
from losses import Batch, Losses, Prefix, answer_losses, mean, pixels, read
from torch import Tensor, nn
from vocabulary import BOS, IMAGE, USER, clip_words, tokenizer

from lftr.lab.suites.clip_questions import CLIP_CATEGORIES

# After how many layers the language model's tokens are asked for their frame, and for the rest.
EARLY, TAPPED = 2, 4
# What takes longest to learn counts most; what no question needs, least.
_EMPHASIS = {"motion": 3.0, "flashes": 3.0, "order": 1.5, "digit": 1.5}
_WEIGHTS = {"way": 1.5, "times": 1.5, "gone": 0.05}


class ClipHeads(nn.Module):
    """Read-outs that only training uses: what a patch knows of the past of what covers it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.told = nn.Linear(width, sum(TOLD.values()))
        self.early_norm = nn.LayerNorm(width)
        self.early = nn.Linear(width, TOLD["frame"])


@torch.no_grad()
def see_clip(towers: ClipTowers, images: Tensor) -> Tensor:
    """Run the frozen vision tower: ``(B, T, H, W, 3)`` bytes to ``(B, T, patches, C)``."""
    vision = towers.llava.model.vision_tower
    hidden = vision.pre_layrnorm(vision.embeddings(pixels(images.flatten(0, 1))))
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.bfloat16)
    for layer in vision.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:].unflatten(0, images.shape[:2])


def prompt(frames: int, patches: int) -> Tensor:
    """Ids before a question, as the processor spells them."""
    spell = tokenizer(known=clip_words()).encode
    ids = [BOS, USER]
    for frame in range(1, frames + 1):
        ids += [*spell(f" {frame}", add_special_tokens=False), *[IMAGE] * patches]
    return torch.tensor(ids)


def answer_clip(
    towers: ClipTowers, patches: Tensor, batch: Batch, keep: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Answer all questions of each clip.

    Parameters
    ----------
    patches : Tensor, shape (B, T, patches, C)
    keep : Tensor, optional
        ``(B, K)``: which of the clip's patches to keep, ascending. All by default.

    Returns
    -------
    logits : Tensor
        As in `losses.answer`.
    states : list of Tensor, shape (B, T * patches, C)
        Of all visual tokens after `EARLY` and `TAPPED` layers; none with ``keep``.
    """
    model = towers.llava.model
    features = model.multi_modal_projector(patches.flatten(1, 2))
    ids = prompt(*patches.shape[1:3]).to(features.device)
    visual = (ids == IMAGE).nonzero()[:, 0]
    words = model.language_model.embed_tokens(ids).to(features.dtype)
    rows = words.expand(len(features), -1, -1).index_copy(1, visual, features)
    at = torch.arange(len(ids), device=ids.device)[None]
    if keep is not None:
        text = at[0, ids != IMAGE].expand(len(keep), -1)
        at = torch.cat((text, visual[keep]), 1).sort(1).values
        rows = rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1]))
    taps = () if keep is not None else (EARLY, TAPPED)
    logits, states = read(towers, Prefix(rows, at, len(ids)), batch, taps)
    return logits, [state[:, visual] for state in states]


def told_losses(heads: ClipHeads, states: Tensor, told: Tensor) -> Losses:
    """Each patch tells the past of what covers it; rare answers weigh as much as usual ones."""
    found: Losses = {}
    outputs = heads.told(heads.norm(states)).float().split(list(TOLD.values()), -1)
    for (name, _), logits, truth in zip(TOLD.items(), outputs, told.unbind(-1), strict=True):
        truth = truth.flatten(1)
        wrong = F.cross_entropy(
            logits.flatten(0, 1), truth.clamp(min=0).flatten(), reduction="none"
        ).view_as(truth)
        some, usual = truth > 0, truth == 0
        found[name] = (
            mean(wrong, truth != UNKNOWN)
            if name in ("frame", "came", "was")
            else (mean(wrong, some) + mean(wrong, usual)) / 2
        )
    return found


def clip_losses(towers: ClipTowers, heads: ClipHeads, batch: Batch) -> tuple[Tensor, Losses]:
    """All of it, and its parts for the log."""
    patches = see_clip(towers, batch["image"])
    logits, states = answer_clip(towers, patches, batch)
    early, late = states
    told = told_losses(heads, late, batch["told"])
    frame = heads.early(heads.early_norm(early)).float().flatten(0, 1)
    told["early"] = F.cross_entropy(frame, batch["told"][..., 0].flatten())
    weight = torch.tensor([_EMPHASIS.get(category, 1.0) for category in CLIP_CATEGORIES])
    answers = answer_losses(logits, batch, weight.to(logits.device)[batch["category"]])
    total = answers["answer"] + answers["end"]
    total = total + sum(_WEIGHTS.get(name, 0.3) * loss for name, loss in told.items())
    return total, {**told, **answers}
