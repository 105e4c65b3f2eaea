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
    from lftr.hosts.vllm.model.encoder_inputs import EncoderInputs

    class Rows(EncoderInputs):
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

    from lftr.hosts.vllm.families.anyres import OnevisionVideos

    lengths = (3, 3) if batched else (2, 5)
    clips: Any = [torch.full((n, 3, 4, 4), float(n)) for n in lengths]
    given = OnevisionVideos(
        None, None, {"pixel_values_videos": torch.stack(clips) if batched else clips}
    )
    found = [given.part(i, i + 1).inputs["pixel_values_videos"] for i in range(2)]
    assert [tuple(one.shape) for one in found] == [(1, n, 3, 4, 4) for n in lengths]
    assert [float(one.mean()) for one in found] == [float(n) for n in lengths]


def test_packed_clips() -> None:
    """Patches of all in one sequence, and what else there is of each, however it is held."""
    from types import SimpleNamespace

    import torch

    from lftr.hosts.transformers.families.qwen import PackedClips
    from lftr.hosts.vllm.families.qwen import Patches

    grids = [(2, 4, 6), (3, 2, 2), (1, 4, 4)]
    sizes = [t * h * w for t, h, w in grids]
    model = SimpleNamespace(
        visual=SimpleNamespace(spatial_merge_size=2),
        config=SimpleNamespace(vision_config=SimpleNamespace(tokens_per_second=4)),
    )
    whole = Patches(
        model,
        PackedClips(),
        {
            "pixel_values_videos": torch.arange(sum(sizes))[:, None],
            "video_grid_thw": torch.tensor(grids),
            "second_per_grid_ts": torch.tensor([0.5, 1.0, 2.0]),
            "timestamps": [[0.0, 1.0], [0.0, 2.0, 4.0], [9.0]],
        },
    )
    assert whole.sizes == [12, 3, 4]
    assert whole.packed == [24, 24, 4, 4, 4, 16]
    part = whole.part(1, 3)
    assert part.inputs["pixel_values_videos"].flatten().tolist() == list(range(48, 76))
    assert part.inputs["timestamps"] == [[0.0, 2.0, 4.0], [9.0]]
    assert part.grids == [(3, 1, 1), (1, 2, 2)]
    assert part.offsets(0).tolist() == [[0, 4, 8], [0, 0, 0], [0, 0, 0]]
    assert part.offsets(1).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
