"""Methods made of other methods, which have no name of their own."""

from __future__ import annotations

from .adaptive import Adaptive
from .coordinates import Coordinates
from .merge import Merge
from .merge_inside import MergeInside
from .mix import Mix
from .per_frame import PerFrame
from .per_tile import PerTile
from .then import Then

__all__ = ["Adaptive", "Coordinates", "Merge", "MergeInside", "Mix", "PerFrame", "PerTile", "Then"]
