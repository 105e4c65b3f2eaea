"""How a call's items are cut into portions that the encoder's memory was measured for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None)  # the first example imports vLLM
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 120))
def test_portions(sizes: list[int], most: int) -> None:
    """All items, in order, none twice; no portion of several beyond the bound, none to spare."""
    from lftr.hosts.vllm.given import Given

    class Rows(Given):
        @property
        def sizes(self) -> Any:
            return self.inputs["sizes"]

    portions = [part.sizes for part in Rows(None, None, {"sizes": sizes}).portions(most)]
    assert [size for part in portions for size in part] == sizes
    assert all(len(part) == 1 or sum(part) <= most for part in portions)
    assert all(sum(one) + other[0] > most for one, other in pairwise(portions))


@pytest.mark.parametrize("batched", [True, False])
def test_clips_of_different_lengths(batched: bool) -> None:
    """LLaVA-OneVision's come one by one, in a stack or, if of several lengths, in a list."""
    import torch

    from lftr.hosts.vllm.anyres import Clips

    lengths = (3, 3) if batched else (2, 5)
    clips: Any = [torch.full((n, 3, 4, 4), float(n)) for n in lengths]
    given = Clips(None, None, {"pixel_values_videos": torch.stack(clips) if batched else clips})
    found = [given.part(i, i + 1).inputs["pixel_values_videos"] for i in range(2)]
    assert [tuple(one.shape) for one in found] == [(1, n, 3, 4, 4) for n in lengths]
    assert [float(one.mean()) for one in found] == [float(n) for n in lengths]
