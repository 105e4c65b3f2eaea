"""The colours of a report, light and dark.

The hues are those of Okabe and Ito, which people with any colour vision can distinguish, each with
a contrast of at least 3:1 to its background; no figure relies on colour alone.
"""

from __future__ import annotations

from itertools import pairwise

HUES = ("blue", "orange", "green", "purple", "ochre")

# Figures are drawn in the light colours; on the page each becomes a CSS variable of its name.
LIGHT = {
    "ink": "#1a1e26",
    "quiet": "#57606f",
    "rule": "#dfe2e8",
    "faint": "#c6ccd6",
    "ground": "#fffffe",
    "raised": "#f5f6f9",
    "control": "#737b89",
    "blue": "#0072b2",
    "orange": "#cf5a00",
    "green": "#00875f",
    "purple": "#a8447f",
    "ochre": "#997000",
}
DARK = {
    "ink": "#e8eaee",
    "quiet": "#a3abb9",
    "rule": "#2c313b",
    "faint": "#4b5362",
    "ground": "#13151a",
    "raised": "#1c1f26",
    "control": "#8f97a5",
    "blue": "#56b4e9",
    "orange": "#ff8c4a",
    "green": "#2fc797",
    "purple": "#e79acc",
    "ochre": "#efc14d",
}

_STOPS = {
    "light": ("#fffffe", "#fbd3b0", "#e0762c", "#7f2f00"),
    "dark": ("#13151a", "#552a0e", "#b85a1c", "#ffa05c"),
}
STEPS = 10  # of a heat map, from all kept to nothing kept

Rgb = tuple[float, float, float]


def heat(theme: str) -> list[tuple[str, str]]:
    """Return background and text colours of a heat map's steps, from no loss to full loss.

    Lightness is monotonic, so that the order is visible with any colour vision and in a grey print;
    the text of a step is black or white, whichever has the higher contrast.
    """
    grounds = [_blend(_STOPS[theme], step / STEPS) for step in range(STEPS + 1)]
    return [
        (ground, max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, ground)))
        for ground in grounds
    ]


def heat_step(relative: float) -> int:
    """Return the step of a relative score; a score above 1 is no loss."""
    return round(STEPS * (1 - min(max(relative, 0.0), 1.0)))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in _rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _rgb(colour: str) -> Rgb:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _blend(stops: tuple[str, ...], share: float) -> str:
    """Interpolate between colours at equal distances."""
    pairs = list(pairwise(stops))
    place = share * len(pairs)
    number = min(int(place), len(pairs) - 1)
    mixed = (
        a + (b - a) * (place - number)
        for a, b in zip(*(_rgb(stop) for stop in pairs[number]), strict=True)
    )
    return "#" + "".join(f"{round(part * 255):02x}" for part in mixed)
