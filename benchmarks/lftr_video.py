"""How LFTR's options for videos were chosen where slots have no weights, on validation clips.

    python benchmarks/lftr_video.py [--n 400] [--json]
    python benchmarks/lftr_video.py --test

The reduction in time alone, in space alone, and in both, by the share of it that is in time; what
does not stay merged or dropped; the options of the spatial stage that could matter differently in
videos; and the controls. The choice is by the mean relative accuracy over 4x, 8x and 16x. The test
split is not looked at but by ``--test``: every method at equal tokens, once all is fixed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _accuracy import run

from lftr.methods import Adaptive, Lftr, PerFrame, get_method
from lftr.methods.base import ImageMethod, Method

DEFAULT = Lftr(space="encoder", candidates=1.0, leftovers="drop")
LFTR = Lftr()
CONTROLS = {name: get_method(name) for name in ("random", "uniform", "pool", "frame-sample")}
VARIANTS: dict[str, Any] = {
    "default": DEFAULT,
    **{f"time share {s}": replace(DEFAULT, time_share=s) for s in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{
        f"time share {s}, still dropped": replace(DEFAULT, time_share=s, still="drop")
        for s in (0.25, 0.5, 0.75, 1.0)
    },
    **{
        f"time share {s}, first frame {first}": replace(DEFAULT, time_share=s, first=first)
        for s in (0.25, 0.5, 0.75, 1.0)
        for first in ("whole", "even")
        if first != DEFAULT.first
    },
    "leftovers merged": replace(DEFAULT, leftovers="merge"),
    "all candidates": replace(DEFAULT, candidates=float("inf")),
    "among relevant": replace(DEFAULT, among="relevant"),
    "diversity 0.9": replace(DEFAULT, diversity=0.9),
    "diversity 0.9, text +": replace(DEFAULT, diversity=0.9, relevance="text"),
    **CONTROLS,
}
# of images, put on every frame; with a budget spread over the frames
FRAMEWISE = {
    "per frame: divprune": PerFrame("divprune"),
    "per frame: coverage": PerFrame("coverage"),
    "adaptive: divprune": Adaptive("divprune"),
    "adaptive: pool": Adaptive("pool"),
}


def everything() -> dict[str, Method]:
    """Return LFTR in space and in time, every other method that the host can feed, the controls."""
    names = lftr_first()
    halves = {
        "lftr, in time only": replace(DEFAULT, time_share=1.0),
        "lftr, in time and space": replace(DEFAULT, time_share=0.5),
    }
    return {"lftr": LFTR, **halves, **{n: get_method(n) for n in names}, **FRAMEWISE}


def lftr_first() -> list[str]:
    """Return the other methods: those for videos, then the controls, then those of images."""
    before = [n for n in Method.registry if not isinstance(get_method(n), ImageMethod)]
    video = [n for n in before if type(get_method(n)).__module__.startswith("lftr.methods.video.")]
    rest = [n for n in before if n not in {*video, *CONTROLS, "lftr"}]
    return [*dict.fromkeys([*sorted(video), *CONTROLS, *sorted(rest)])]


if __name__ == "__main__":
    command = "python benchmarks/lftr_video.py"
    run(VARIANTS, "lftr_video", command, __doc__, everything(), suite="clips")
