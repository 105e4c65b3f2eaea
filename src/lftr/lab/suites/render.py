"""Draws scenes and clips: objects over textured, cluttered backgrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .digits import glyph
from .example import SceneObject
from .layout import COLOURS, SIDE
from .tracks import Track

Float32Array = npt.NDArray[np.float32]
_Finish = tuple[npt.NDArray[np.float64], float, float]
_FINE = 4  # supersampling of shape outlines
_CUTS = 0.15  # share of clips that cut to another background


def render(objects: Sequence[SceneObject], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Returns
    -------
    numpy.ndarray
        ``(SIDE, SIDE, 3)``, RGB.
    """
    near = objects[int(rng.integers(len(objects)))].colour if objects else "white"
    canvas = _background(rng, near, SIDE)
    for obj in objects:
        _paint(canvas, obj, _finish(rng))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def render_clip(
    tracks: Sequence[Track], frames: int, side: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Draw a clip: one background, in some clips with a cut to another, and sensor noise.

    Returns
    -------
    numpy.ndarray
        ``(frames, side, side, 3)``, RGB.
    """
    near = [str(colour) for colour in rng.choice(list(COLOURS), 2)]
    backgrounds = [_background(rng, colour, side) for colour in near]
    finishes = [_finish(rng) for _ in tracks]
    cut = int(rng.integers(1, frames)) if frames > 1 and rng.random() < _CUTS else frames
    noise = np.float32(rng.uniform(0.5, 3))
    drawn = []
    for frame in range(frames):
        canvas = backgrounds[frame >= cut].copy()
        for track, finish in zip(tracks, finishes, strict=True):
            obj = track.states[frame]
            if obj is not None:
                _paint(canvas, obj, finish)
        canvas += noise * _grain(rng, side)
        drawn.append(np.clip(canvas, 0, 255).astype(np.uint8))
    return np.stack(drawn)


def _finish(rng: np.random.Generator) -> _Finish:
    """Return a random tint ``(3,)`` and the shading at the top and at the bottom of an object."""
    tint = rng.uniform(-14, 14, 3)
    light, dark = rng.uniform(-12, 12, 2).tolist()
    return tint, light, dark


def _paint(canvas: Float32Array, obj: SceneObject, finish: _Finish) -> None:
    tint, light, dark = finish
    alpha, left, top = mask(obj)
    height, width = alpha.shape
    window = canvas[top : top + height, left : left + width]
    paint = np.asarray(COLOURS[obj.colour], np.float32) + tint
    shade = np.linspace(light, dark, height, dtype=np.float32)
    window += alpha[..., None] * (paint.astype(np.float32) + shade[:, None, None] - window)


def mask(obj: SceneObject) -> tuple[Float32Array, int, int]:
    """Return an object's coverage of pixels, ``(size, size)`` from 0 to 1, and its left and top."""
    left, top = round(obj.x - obj.size / 2), round(obj.y - obj.size / 2)
    if obj.sample is not None:
        return _digit_mask(obj.sample, obj.size, obj.angle), left, top
    return _shape_mask(obj.kind, obj.size, obj.angle), left, top


@lru_cache(maxsize=8192)
def _digit_mask(sample: int, size: int, angle: int) -> Float32Array:
    ink = Image.fromarray(glyph(sample)).resize((size, size), Image.Resampling.BICUBIC)
    turned = ink.rotate(-angle, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(turned, np.float32) / 255 * 1.25, 0, 1)


@cache
def _shape_mask(kind: str, size: int, angle: int) -> Float32Array:
    fine = size * _FINE
    image = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(image)
    half = fine / 2
    if kind in ("circle", "ring"):
        draw.ellipse((0, 0, fine - 1, fine - 1), fill=255)
        if kind == "ring":
            draw.ellipse((fine * 0.26, fine * 0.26, fine * 0.74, fine * 0.74), fill=0)
    else:
        turn = math.radians(angle)
        cosine, sine = math.cos(turn), math.sin(turn)
        points = _outline(kind)
        turned = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in points]
        reach = max(max(abs(x), abs(y)) for x, y in turned)
        draw.polygon([(half + half * x / reach, half + half * y / reach) for x, y in turned], 255)
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


def _outline(kind: str) -> list[tuple[float, float]]:
    """Corner points with y downwards, within the unit square around the origin."""
    if kind == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if kind == "triangle":
        return [(0, -1), (1, 0.9), (-1, 0.9)]
    if kind == "diamond":
        return [(0, -1), (0.8, 0), (0, 1), (-0.8, 0)]
    if kind == "cross":
        a = 0.3
        arm = [(-a, -1.0), (a, -1.0), (a, -a), (1.0, -a), (1.0, a), (a, a)]
        return arm + [(-x, -y) for x, y in arm]
    if kind == "star":
        rays = [(1.0 if i % 2 == 0 else 0.42, math.pi * i / 5) for i in range(10)]
        return [(r * math.sin(t), -r * math.cos(t)) for r, t in rays]
    turns = [2 * math.pi * i / 40 for i in range(40)]  # heart
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def _background(rng: np.random.Generator, near: str, side: int) -> Float32Array:
    """Return a muted colour, shifted towards ``near``, with three textures and clutter."""
    tint = np.asarray(COLOURS[near], np.float32)
    lean = rng.uniform(0.0, 0.45)
    grey = rng.uniform(40, 165) + rng.uniform(-18, 18, 3)
    base = ((1 - lean) * grey + lean * tint).astype(np.float32)
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = base
    canvas += (_blobs(rng, side) + _stripes(rng, side))[..., None]
    canvas += rng.uniform(4, 14) * _grain(rng, side)
    return _clutter(rng, canvas, base)


def _blobs(rng: np.random.Generator, side: int) -> Float32Array:
    cells = int(rng.integers(3, 16))
    coarse = (rng.uniform(8, 24) * rng.standard_normal((cells, cells))).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def _stripes(rng: np.random.Generator, side: int) -> Float32Array:
    turn, period = rng.uniform(0, math.pi), rng.uniform(6, 40)
    along = np.arange(side, dtype=np.float32) * np.float32(2 * math.pi / period)
    phase = along[None, :] * np.float32(math.cos(turn)) + along[:, None] * np.float32(
        math.sin(turn)
    )
    if rng.random() < 0.3:  # a checked cloth
        phase = np.sin(along)[None, :] * np.sin(along)[:, None] * np.float32(math.pi / 2)
    return np.float32(rng.uniform(0, 14)) * np.sin(phase)


@lru_cache(maxsize=1)
def _grain_bank() -> Float32Array:
    return np.random.default_rng(0).standard_normal((2 * SIDE, 2 * SIDE, 3), np.float32)


def _grain(rng: np.random.Generator, side: int) -> Float32Array:
    """Return pixel noise: a window of one fixed field, which is faster than new noise."""
    y, x = rng.integers(SIDE, size=2)
    return _grain_bank()[y : y + side, x : x + side]


def _clutter(rng: np.random.Generator, canvas: Float32Array, base: Float32Array) -> Float32Array:
    """Draw thin strokes and specks in colours close to the background's, as distractors."""
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(0, max(1, round(30 * (len(canvas) / SIDE) ** 2))))
    ends = rng.uniform(0, len(canvas), (count, 2))
    steps = rng.uniform(-14, 14, (count, 2))
    inks = np.clip(base + rng.uniform(-55, 55, (count, 3)), 0, 255).astype(int)
    for (x, y), (dx, dy), ink in zip(ends.tolist(), steps.tolist(), inks.tolist(), strict=True):
        draw.line((x, y, x + dx, y + dy), fill=tuple(ink), width=1 + (dx > 7))
    return np.asarray(image).astype(np.float32)
