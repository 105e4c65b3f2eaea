"""Divide a clip into segments of frames; a segment is ``(first, end)``, its end excluded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .density import density_peaks
from .scaling import unit

Segments = list[tuple[int, int]]


def cut_at(starts: Sequence[int], frames: int) -> Segments:
    """Return the segments that begin at the given frames, the first of which is 0."""
    return list(pairwise([*starts, frames]))


def unlike_cuts(descriptors: Tensor, least: int, threshold: float) -> Segments:
    """Cut where adjacent frames differ: at the lowest cosines, and at all below a threshold.

    Parameters
    ----------
    descriptors : Tensor, shape (T, F)
        One for each frame.
    least : int
        Smallest number of segments, as far as there are frames.
    threshold : float
        Below this cosine, adjacent frames are always in different segments.

    Notes
    -----
    FastVID's dynamic segmentation (DySeg, arXiv 2503.11187).
    """
    frames = len(descriptors)
    x = unit(descriptors)
    cosine = (x[1:] * x[:-1]).sum(dim=1)
    cut = cosine < threshold
    cut[cosine.argsort(stable=True)[: min(least, frames) - 1]] = True
    return cut_at([0, *(cut.nonzero().squeeze(1) + 1).tolist()], frames)


def still_windows(still: Tensor, longest: int | None = None) -> Segments:
    """Divide a clip so that most tokens are saved by keeping static positions once a segment.

    Maximises the sum over segments of ``(length - 1) * positions that never change in it``, by
    dynamic programming. Of equally good last segments, the shortest is taken. Memory and time are
    those of ``T x T`` numbers, whatever the size of a frame.

    Parameters
    ----------
    still : Tensor of bool, shape (T - 1, N)
        Whether each position is unchanged since the frame before.
    longest : int, optional
        Largest number of frames in a segment.

    Notes
    -----
    HoliTom (arXiv 2505.21334), ``select_static_windows``.
    """
    frames, size = len(still) + 1, still.shape[1]
    run = torch.zeros(size, dtype=torch.int64)  # steps for which each position has been still
    best = torch.zeros(frames + 1, dtype=torch.int64)
    first = [0] * (frames + 1)
    changes = still.cpu()
    steps = torch.arange(frames)
    for end in range(1, frames + 1):
        if end > 1:
            run = torch.where(changes[end - 2], run + 1, 0)
        through = run.bincount(minlength=end).flip(0).cumsum(0).flip(0)[:end]  # by length - 1
        worth = best[:end] + (through * steps[:end]).flip(0)
        if longest is not None and end > longest:
            worth[: end - longest] = -1
        first[end] = int((worth == worth.max()).nonzero()[-1])
        best[end] = worth[first[end]]
    segments: Segments = []
    end = frames
    while end:
        segments.append((first[end], end))
        end = first[end]
    return segments[::-1]


def clustered(descriptors: Tensor, count: int, neighbours: int) -> Segments:
    """Divide a clip where the cluster of the frames changes, one segment for each cluster.

    Frames are clustered around density peaks. The frames of a cluster may form several runs; the
    longest run (the first of equal ones) becomes the segment. Frames of the other runs join the
    segment before them, or after them at the start of the clip.

    Parameters
    ----------
    descriptors : Tensor, shape (T, F)
        One for each frame.
    count : int
        Clusters, at least one and at most T.
    neighbours : int
        See `density_peaks`.

    Notes
    -----
    PruneVid (arXiv 2412.16117), its temporal clustering.
    """
    x = descriptors.float()
    peaks = density_peaks(x[None], count, neighbours)[0].sort().values
    label = torch.cdist(x, x[peaks]).argmin(dim=1)
    label[peaks] = torch.arange(count, device=x.device)
    labels = label.tolist()
    starts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1])]
    longest: dict[int, tuple[int, int]] = {}
    for start, end in cut_at(starts, len(labels)):
        before = longest.get(labels[start], (0, 0))
        if end - start > before[1] - before[0]:
            longest[labels[start]] = (start, end)
    stay = sorted(start for start, _ in longest.values())
    return cut_at([0, *stay[1:]], len(labels))
