"""Handwritten digits from scikit-learn, split so that no sample is in two splits."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...values.errors import MissingExtraError

# Of the 1,797 samples, in an order shuffled once and for all.
_SHARES = {"train": slice(0, 1300), "validation": slice(1300, 1500), "test": slice(1500, None)}


@lru_cache(maxsize=1)
def _samples() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError.of("scikit-learn", "suites") from None
    data: Any = load_digits()
    return (data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)


def glyph(sample: int) -> npt.NDArray[np.uint8]:
    """Return the intensity of one sample's pixels, ``(8, 8)`` from 0 to 255."""
    ink: npt.NDArray[np.uint8] = _samples()[0][sample]
    return ink


@cache
def samples(split: str, value: int) -> tuple[int, ...]:
    """Return the numbers of the samples of ``split`` that show the digit ``value``."""
    targets = _samples()[1]
    order = np.random.default_rng(2501).permutation(len(targets))[_SHARES[split]]
    return tuple(int(sample) for sample in order if targets[sample] == value)
