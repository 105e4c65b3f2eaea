"""Free Video-LLM: regions of frames relevant to the text in detail, all frames coarsely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.errors import MissingEvidenceError
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.apportion import apportion
from ..operations.cells import frame_cells
from ..operations.flows import grouped_flow
from ..operations.regions import Region, halved, pairs_of, regions
from ..operations.scaling import unit
from ..operations.signals import FRAMES, TEXT, Notes, stand_in
from .base import ClipMethod, natural_counts


@dataclass(frozen=True)
class FreeVideoLLM(ClipMethod, name="free-video-llm"):
    """Pool every frame coarsely; add a region in detail of frames relevant to the text, and others.

    Two kinds of frames add a region of interest: the ``slow`` frames of highest cosine with the
    text, and ``middle`` evenly spread ones. The region is a box of the share ``region`` of the
    frame, around the tokens of highest cosine with the text, in pairs of neighbouring tokens. All
    frames add ``side x side`` averaged cells.

    Parameters
    ----------
    slow, middle : int
        Numbers of these frames; a frame of both kinds counts once.
    side : int
        Number of cells on each side of a frame; 0 for no cells.
    region : float
        Area of the region, as a share in (0, 1] of the frame.
    pool : {"max", "avg"}
        How the embeddings of a pair are pooled, in the space of the text, to place the region.
    frames_by : {"patches", "frame"}
        What is compared with the text to choose frames: the mean of the patches, or
        ``frame_features`` where the host has them in the space of the text, as in the original.
    transposed : bool
        Whether to arrange the pairs of a frame as a grid of half its height and full width. The
        original does so by mistake: its region is not a rectangle of the frame.

    Notes
    -----
    Published: 50 frames of 24 x 24 tokens give 8 regions of 11 x 21 pairs and 50 x 16 cells, 2,648
    tokens.
    Evidence: text and patches in CLIP's shared space; without a text tower the prompt's own
    embeddings and the features.
    Differs from the original: a slot is always a mean (there a pair is the maximum of each channel,
    which is no weighted sum of tokens). Any count can be kept: ``keep="auto"`` keeps what the
    original keeps; for other counts all parts change in proportion, regions up to single tokens.
    """

    source = Source(
        "Free Video-LLM",
        arxiv="2410.10441",
        code="https://github.com/contrastive/FreeVideoLLM",
        function="temporal_aggregation, roi_crop",
    )
    slow: Annotated[int, Range(0)] = 3
    middle: Annotated[int, Range(0)] = 5
    side: Annotated[int, Range(0)] = 4
    region: Annotated[float, Range(1e-6, 1.0)] = 0.8
    pool: Literal["max", "avg"] = "max"
    frames_by: Literal["patches", "frame"] = "patches"
    transposed: bool = False

    @property
    def evidence(self) -> Evidence:
        needs = (TEXT, ("visual_projected", "features"))
        return (*needs, FRAMES[:1]) if self.frames_by == "frame" else needs

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        size = height * width
        text, seen, notes = _in_one_space(tokens)
        seen = seen.reshape(frames, size, -1)
        detailed = self.frames(self._text_cosines(tokens, seen, text), frames)
        boxes = self.regions_of(seen[detailed], text, (height, width))
        counts = apportion(keep, self._claims(tokens, detailed)[None], torch.tensor([size]))[
            0
        ].tolist()
        groups, anchors, first = [], [], 0
        for frame, count in enumerate(counts):
            if count == 0:
                continue
            if frame in detailed:
                slot, source, anchor = self._add_region(
                    boxes[detailed.index(frame)], (height, width), count
                )
            else:
                slot, anchor = frame_cells(height, width, count)
                source = torch.arange(size)
            groups.append(torch.stack([slot + first, source + frame * size]))
            anchors.append(anchor + frame * size)
            first += count
        slot, source = torch.cat(groups, dim=1).to(seen.device)
        flow = grouped_flow(source, slot, keep)
        return Selection(torch.cat(anchors).to(seen.device), flow, notes)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return natural_counts(tokens, self._natural)

    def _natural(self, tokens: VisualTokens) -> list[int]:
        frames = tokens.blocks[0][0]
        counts = []
        for item in (tokens.item(i) for i in range(len(tokens.features))):
            text, seen, _ = _in_one_space(item)
            near = self._text_cosines(item, seen.reshape(frames, -1, seen.shape[-1]), text)
            counts.append(int(self._claims(item, self.frames(near, frames)).sum()))
        return counts

    def frames(self, score: Tensor, total: int) -> list[int]:
        """Return the frames that add a region, ascending; ``score`` ``(T,)`` is by the text."""
        near = score.argsort(descending=True, stable=True)[: self.slow].tolist()
        spread = [step * total // self.middle for step in range(self.middle)]
        return sorted({*near, *spread})

    def regions_of(self, seen: Tensor, text: Tensor, shape: tuple[int, int]) -> list[Region]:
        """Return the region of each of some frames ``(F, N, P)``, by the text ``(P,)``."""
        pooled = pairs_of(seen.float(), shape, self.pool)
        score = unit(pooled) @ text
        return regions(score, halved(shape, self.transposed), self.region)

    def _claims(self, tokens: VisualTokens, detailed: list[int]) -> Tensor:
        """Return how many slots each frame has in the original, ``(T,)``."""
        frames, height, width = tokens.blocks[0]
        h, w = halved((height, width), self.transposed)
        claims = torch.full((frames,), float(min(self.side**2, height * width)))
        claims[detailed] += math.prod(Region.size(h, w, self.region))
        return claims.clamp_max(height * width)

    def _text_cosines(self, tokens: VisualTokens, seen: Tensor, text: Tensor) -> Tensor:
        """Return each frame's cosine with the text, ``(T,)``."""
        if self.frames_by == "patches":
            return unit(seen.float().mean(dim=1)) @ text
        whole = tokens.evidence(FRAMES[0])[1]
        if whole.shape != (len(seen), len(text)):
            raise MissingEvidenceError(
                "frames_by = 'frame' needs one of frame_features for each frame, in the space of "
                f"the text (width {len(text)}); here they are {tuple(whole.shape)}: use 'patches'"
            )
        return unit(whole) @ text

    def _add_region(
        self, region: Region, shape: tuple[int, int], count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return slots and tokens that flow, and the anchors, of a frame that adds its region."""
        size = shape[0] * shape[1]
        claims = torch.tensor([[float(len(region.index)), min(float(self.side**2), size)]])
        limits = torch.tensor([int(region.tokens(shape).numel()), size])
        fine, coarse = apportion(count, claims, limits)[0].tolist()
        slots, sources, anchors = [], [], []
        if fine:
            slot, source, anchor = region.slots(shape, fine)
            slots, sources, anchors = [slot], [source], [anchor]
        if coarse:
            cell, middle = frame_cells(*shape, coarse)
            taken = set(torch.cat(anchors).tolist()) if anchors else set()
            slots.append(cell + fine)
            sources.append(torch.arange(size))
            anchors.append(_free(middle.tolist(), cell.tolist(), taken))
        return torch.cat(slots), torch.cat(sources), torch.cat(anchors)


def _free(middle: list[int], cell: list[int], taken: set[int]) -> Tensor:
    """Return an anchor for each cell that none has yet: the middle, or the nearest that is free."""
    chosen = []
    for number, wish in enumerate(middle):
        free = (token for token in range(len(cell)) if token not in taken)
        at = min(free, key=lambda token: (cell[token] != number, abs(token - wish), token))
        taken.add(at)
        chosen.append(at)
    return torch.tensor(chosen)


def _in_one_space(tokens: VisualTokens) -> tuple[Tensor, Tensor, Notes]:
    """Return the text's direction ``(P,)`` and the tokens ``(N, P)`` in one space, and notes."""
    text, seen = tokens.text_embeds, tokens.visual_projected
    used = TEXT[0]
    if text is None or seen is None:
        if text is not None and tokens.text_token_embeds is None:
            tokens.evidence("visual_projected")
        used, text = tokens.evidence(*reversed(TEXT))
        seen = tokens.features
    return unit(unit(text).mean(dim=0)), seen, stand_in(used, TEXT[0])
