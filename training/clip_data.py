"""Training data of the clip model: a clip, what its patches have gone through, a pack of questions.

Each patch that an object covers knows, of that object: whether it was there a frame ago, in which
frame it came, how often it has come so far, which way it has gone since, and which colour it had
at first. A patch that none covers knows what was there before. All of it lies in the past of that
frame, so that a causal model can tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from data import BACKGROUND, Arrays, collate, encode, owners
from torch import Tensor

from lftr.lab.suites.clip_questions import CLIP_CATEGORIES, ask_clip
from lftr.lab.suites.clips import sample_roles
from lftr.lab.suites.example import SuiteQuestion
from lftr.lab.suites.layout import COLOURS, KINDS
from lftr.lab.suites.render import render_clip
from lftr.lab.suites.tracks import CLIP_SIDE, FRAMES, Track, sample_tracks

CLIP_GRID = CLIP_SIDE // 8
CLIP_SLOTS = 10  # questions behind one clip
# Most clips are full of what takes longest to learn.
_DRILL, _DRILLS = 0.6, ("mover", "flasher", "flasher", "mover", "flasher")
UNKNOWN = -1  # of a target: not asked for here
# What a patch is asked, and how many answers there are.
TOLD = {
    "frame": FRAMES,
    "new": 2,
    "came": FRAMES,
    "times": 4,
    "way": 5,
    "was": len(COLOURS),
    "gone": 1 + len(KINDS),
}
_COLOURS, _KINDS = list(COLOURS), list(KINDS)


def clip(rng: np.random.Generator, split: str, most: int, frames: int = FRAMES) -> Arrays:
    """Draw one clip with everything that it teaches."""
    questions: list[SuiteQuestion] = []
    while not questions:
        count = int(rng.integers(min(3, most), most + 1))
        drilled = rng.random() < _DRILL
        roles = _DRILLS[:count] if drilled else sample_roles(rng, count)
        tracks = sample_tracks(rng, split, roles, frames)
        questions = pick(tracks, rng)
    slots, answers = zip(*(encode(q.text, q.answer, clips=True) for q in questions), strict=True)
    return {
        "image": render_clip(tracks, frames, CLIP_SIDE, rng),
        "told": histories(tracks, frames),
        "slots": np.stack(slots),
        "ask_at": np.array(answers, np.int64),
        "category": np.array([CLIP_CATEGORIES.index(q.category) for q in questions], np.int64),
    }


def pick(tracks: Sequence[Track], rng: np.random.Generator) -> list[SuiteQuestion]:
    """Choose the questions of a clip: every category, answers as even as the clip allows."""
    picked: list[SuiteQuestion] = []
    spare: list[SuiteQuestion] = []
    for category in CLIP_CATEGORIES:
        by_answer: dict[str, list[SuiteQuestion]] = {}
        for question in itertools.islice(ask_clip(category, tracks, rng), 8):
            by_answer.setdefault(question.answer, []).append(question)
        groups = [by_answer[answer] for answer in rng.permutation(sorted(by_answer))]
        turns = [q for turn in itertools.zip_longest(*groups) for q in turn if q is not None]
        picked += turns[:2]
        spare += turns[2:5]
    while picked and len(picked) < CLIP_SLOTS:
        source = spare or picked
        chosen = int(rng.integers(len(source)))
        picked.append(source.pop(chosen) if spare else source[chosen])
    return [picked[i] for i in rng.permutation(len(picked))[:CLIP_SLOTS]]


def histories(tracks: Sequence[Track], frames: int) -> np.ndarray:
    """Tell what each patch knows: ``(frames, patches, len(TOLD))``, `UNKNOWN` where not asked."""
    told = np.full((frames, CLIP_GRID, CLIP_GRID, len(TOLD)), UNKNOWN, np.int64)
    before = np.zeros((CLIP_GRID, CLIP_GRID), np.int64)  # the track last seen there, from one
    for frame in range(frames):
        shown = [i for i, track in enumerate(tracks) if track.states[frame] is not None]
        looks = [look for i in shown if (look := tracks[i].states[frame]) is not None]
        owner = owners(looks, CLIP_GRID)
        told[frame, ..., 0] = frame
        for row, i in enumerate(shown):
            told[frame, owner == row, 1:6] = _history(tracks[i], frame)
        bare = owner == BACKGROUND
        gone = [i + 1 for i in range(len(tracks)) if i not in shown]
        kinds = np.array([0, *(1 + _KINDS.index(track.kind) for track in tracks)])
        told[frame, bare, 6] = np.where(np.isin(before, gone), kinds[before], 0)[bare]
        for row, i in enumerate(shown):
            before[owner == row] = i + 1
    return told.reshape(frames, -1, len(TOLD))


def _history(track: Track, frame: int) -> list[int]:
    first, now = track.looks[0], track.states[frame]
    assert now is not None
    dx, dy = now.x - first.x, now.y - first.y
    way = 0
    if max(abs(dx), abs(dy)) >= 3:
        way = 1 + int(dx > 0) if abs(dx) > abs(dy) else 3 + int(dy > 0)
    return [
        UNKNOWN if frame == 0 else int(track.states[frame - 1] is None),
        track.shown[0],
        sum(run[0] <= frame for run in track.runs) - 1,
        way,
        _COLOURS.index(first.colour),
    ]


def clip_stream(seed: int, batch: int, most: Tensor) -> Iterator[dict[str, Tensor]]:
    """Draw batches endlessly; ``most`` is objects and frames, and may change on the way."""
    rng = np.random.default_rng([3, seed])  # the suites begin theirs with a split: 0 to 2
    while True:
        objects, frames = most.tolist()
        many = batch * FRAMES // frames
        yield collate([clip(rng, "train", objects, frames) for _ in range(many)])


def clips_held_out(split: str, n: int) -> dict[str, Tensor]:
    """``n`` clips that training never sees, packed the same way."""
    rng = np.random.default_rng([4, ("validation", "test").index(split)])
    return collate([clip(rng, split, 5) for _ in range(n)])
