"""Training data, drawn endlessly: a scene, what covers each patch, and a pack of questions."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from architecture import IMAGE_SIDE, PATCH
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from vocabulary import ASSISTANT, BOS, EOS, PAD, clip_words, tokenizer

from lftr.lab.suites.example import SceneObject, SuiteQuestion
from lftr.lab.suites.layout import COLOURS, KINDS, sample_objects
from lftr.lab.suites.questions import CATEGORIES, ask
from lftr.lab.suites.render import mask, render

GRID = IMAGE_SIDE // PATCH
OBJECTS = 8
SLOTS, SLOT = 18, 15  # questions behind one image, tokens of each: 2 + 576 + 18 * 15 = 8 * 106
TEXTS, TEXT, CAPTION = 4, 17, 36  # phrases of one scene, their tokens, tokens of the whole caption
BACKGROUND, UNSURE = -1, -2
Arrays = dict[str, np.ndarray]

_COLOURS = {name: i for i, name in enumerate(COLOURS)}
_KINDS = {name: i for i, name in enumerate(KINDS)} | {
    ("crosses" if name == "cross" else f"{name}s"): i for i, name in enumerate(KINDS)
}


def scene(rng: np.random.Generator, split: str, most: int = OBJECTS) -> Arrays:
    """Draw one scene with everything that it teaches."""
    objects = sample_objects(rng, split, int(rng.integers(max(1, most // 2), most + 1)))
    image = render(objects, rng)
    questions = pick(objects, rng)
    slots, answers = zip(*(encode(q.text, q.answer) for q in questions), strict=True)
    phrases = [phrase(objects, questions, rng) for _ in range(TEXTS)]
    return {
        "image": image,
        "owner": owners(objects),
        "objects": attributes(objects),
        "slots": np.stack(slots),
        "ask_at": np.array(answers, np.int64),
        "category": np.array([CATEGORIES.index(q.category) for q in questions], np.int64),
        "texts": np.stack([closed(text, TEXT) for text in phrases]),
        "mentions": np.stack([mentions(text) for text in phrases]),
        "caption": caption(objects, rng),
    }


def pick(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> list[SuiteQuestion]:
    """Choose the questions of a scene: every category, with answers as even as the scene allows."""
    picked: list[SuiteQuestion] = []
    spare: list[SuiteQuestion] = []
    for category in CATEGORIES:
        by_answer: dict[str, list[SuiteQuestion]] = {}
        for question in itertools.islice(ask(category, objects, rng), 17):
            by_answer.setdefault(question.answer, []).append(question)
        groups = [by_answer[answer] for answer in rng.permutation(sorted(by_answer))]
        turns = [q for turn in itertools.zip_longest(*groups) for q in turn if q is not None]
        picked += turns[:2]
        spare += turns[2:6]
    while len(picked) < SLOTS:
        source = spare or picked
        picked.append(source[int(rng.integers(len(source)))])
    return picked[:SLOTS]


def owners(objects: Sequence[SceneObject], grid: int = GRID) -> np.ndarray:
    """Which object covers each patch: ``(grid, grid)``, `BACKGROUND`, or `UNSURE` at an edge."""
    owner = np.full((grid, grid), BACKGROUND, np.int8)
    best = np.full((grid, grid), 0.2, np.float32)
    for i, thing in enumerate(objects):
        alpha, left, top = mask(thing)
        row, column = top // PATCH, left // PATCH
        y, x = top % PATCH, left % PATCH
        rows, columns = (-(-(start + thing.size) // PATCH) for start in (y, x))
        window = np.zeros((rows * PATCH, columns * PATCH), np.float32)
        window[y : y + thing.size, x : x + thing.size] = alpha
        share = window.reshape(rows, PATCH, columns, PATCH).mean((1, 3))
        at = np.s_[row : row + rows, column : column + columns]
        owner[at][(share > 0) & (owner[at] == BACKGROUND)] = UNSURE
        owner[at][share >= best[at]] = i
        best[at] = np.maximum(best[at], share)
    return owner


def attributes(objects: tuple[SceneObject, ...]) -> np.ndarray:
    """Colour, kind, digit (or -1), and x, y, size as shares: ``(OBJECTS, 6)``, padded with -1."""
    table = np.full((OBJECTS, 6), -1, np.float32)
    for row, o in zip(table, objects, strict=False):
        value = -1 if o.value is None else o.value
        place = (o.x / IMAGE_SIDE, o.y / IMAGE_SIDE, o.size / 36)
        row[:] = (_COLOURS[o.colour], _KINDS[o.kind], value, *place)
    return table


@cache
def _tokenizer(closing: bool):  # noqa: ANN202
    return tokenizer(closing)


@cache
def _clip_tokenizer():  # noqa: ANN202
    return tokenizer(known=clip_words())


@cache
def encode(question: str, answer: str, clips: bool = False) -> tuple[np.ndarray, int]:
    """One slot, ``question <assistant> answer </s>``, and where the answer is asked for."""
    spell = (_clip_tokenizer() if clips else _tokenizer(False)).encode
    asked = spell(f" {question}", add_special_tokens=False)
    row = [*asked, ASSISTANT, *spell(f" {answer}", add_special_tokens=False), EOS]
    if len(row) != len(asked) + 3 or len(row) > SLOT:
        raise ValueError(f"{question!r} or {answer!r} does not fit its slot")
    return np.array(row + [PAD] * (SLOT - len(row)), np.int64), len(asked)


def phrase(
    objects: tuple[SceneObject, ...], questions: list[SuiteQuestion], rng: np.random.Generator
) -> str:
    """Draw a text that some objects match and others do not: a question, or a few words."""
    if rng.random() < 0.5:
        text = questions[int(rng.integers(len(questions)))].text
        if (mentions(text) > -2).any():
            return text
    thing = objects[int(rng.integers(len(objects)))]
    forms = (
        f"{thing.colour} {thing.kind}",
        f"a {thing.colour} {thing.kind}",
        f"the {thing.kind}",
        f"a picture of a {thing.kind}",
        f"{thing.colour}",
        f"{thing.colour} objects",
    )
    return forms[int(rng.integers(len(forms)))]


def caption(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> np.ndarray:
    """Spell ``a red circle, a blue digit, ...``: all objects of a scene, in random order."""
    ids = [BOS]
    for i in rng.permutation(len(objects)):
        ids += _listed(objects[i].colour, objects[i].kind)
    ids[-1] = EOS  # in place of the last comma
    return np.array(ids + [PAD] * (CAPTION - len(ids)), np.int64)


@cache
def _listed(colour: str, kind: str) -> list[int]:
    return _tokenizer(True).encode(f"a {colour} {kind},", add_special_tokens=False)


@cache
def mentions(text: str) -> np.ndarray:
    """Which objects a text names: two rows of (colour, kind), -1 for any, -2 for no object."""
    found: list[tuple[int, int]] = []
    colour = -1
    for word in text.replace("?", " ").replace(",", " ").split():
        if word in _COLOURS:
            colour = _COLOURS[word]
        elif word in _KINDS or (word in ("object", "objects") and colour >= 0):
            found.append((colour, _KINDS.get(word, -1)))
            colour = -1
    if colour >= 0:
        found.append((colour, -1))
    return np.array((found + [(-2, -2)] * 2)[:2], np.int64)


@cache
def closed(text: str, length: int) -> np.ndarray:
    """Token ids for the text tower, padded or cut to ``length``."""
    ids = _tokenizer(True).encode(text, add_special_tokens=False)[: length - 2]
    return np.array([BOS, *ids, EOS] + [PAD] * (length - 2 - len(ids)), np.int64)


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Endless batches. ``most`` is shared memory, so that the curriculum reaches the workers."""

    def __init__(self, seed: int, batch: int, most: torch.Tensor) -> None:
        super().__init__()
        self.seed, self.batch, self.most = seed, batch, most

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        # Four numbers where the suite itself takes three: no scene of `load` can come up.
        rng = np.random.default_rng([0, self.seed, 0, info.id if info else 0])
        while True:
            yield collate([scene(rng, "train", int(self.most)) for _ in range(self.batch)])


def collate(scenes: list[Arrays]) -> dict[str, torch.Tensor]:
    """Stack scenes into one batch."""
    return {key: torch.from_numpy(np.stack([s[key] for s in scenes])) for key in scenes[0]}


def stream(
    seed: int, batch: int, most: torch.Tensor, workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Draw batches in ``workers`` processes, or in this one."""
    loader = DataLoader(
        Stream(seed, batch, most),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    return iter(loader)


def held_out(split: str, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """``n`` scenes that training never sees, packed the same way."""
    rng = np.random.default_rng([1 + ("validation", "test").index(split), seed, 0, 0])
    return collate([scene(rng, split) for _ in range(n)])


class Pool:
    """Batches on the device, renewed by a thread as the workers deliver, drawn in any order.

    The device takes steps faster than scenes can be drawn; it sees each batch a few times rather
    than wait.
    """

    def __init__(
        self, batches: Iterator[dict[str, torch.Tensor]], device: str, capacity: int = 300
    ) -> None:
        self.batches, self.device, self.capacity = batches, device, capacity
        self.held = [self.next()]
        self.drawn = 1
        self.choice = random.Random(0)
        self.renewing: threading.Thread | None = None
        self.over = threading.Event()

    def next(self) -> dict[str, torch.Tensor]:
        """Wait for a new batch."""
        return {key: value.to(self.device) for key, value in next(self.batches).items()}

    def start(self) -> None:
        """Begin to renew, unless begun."""
        if self.renewing is None:
            self.renewing = threading.Thread(target=self._renew, daemon=True)
            self.renewing.start()

    def stop(self) -> None:
        """Renew no more: a thread on the device would outlive the interpreter."""
        self.over.set()
        if self.renewing is not None:
            self.renewing.join()

    def _renew(self) -> None:
        stream = torch.cuda.Stream()
        while not self.over.is_set():
            with torch.cuda.stream(stream):
                batch = self.next()
            stream.synchronize()
            if len(self.held) < self.capacity:
                self.held.append(batch)
            else:
                self.held[self.drawn % self.capacity] = batch
            self.drawn += 1

    def draw(self) -> dict[str, torch.Tensor]:
        """Take one of the batches held."""
        batch = self.choice.choice(self.held)
        for tensor in batch.values():
            tensor.record_stream(torch.cuda.current_stream())
        return batch
