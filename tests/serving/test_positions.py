"""Positions of shortened prompts, as of the full prompt: M-RoPE's, and of one dimension."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

IMAGE, VIDEO, TEXT = 199, 198, 5

grids = st.one_of(
    st.tuples(st.just(1), st.integers(1, 300), st.integers(1, 20)),
    st.tuples(st.just(1), st.integers(1, 20), st.integers(1, 300)),
    st.tuples(st.integers(1, 300), st.integers(1, 4), st.integers(1, 4)),
    st.just((9, 1, 2)),
)


@settings(deadline=None)  # the first example imports vLLM
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), grids, st.sampled_from([1.0, 0.3, 4.0, 20_000.0]), st.floats(0.01, 1)
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 4),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 2**31),
    st.integers(1, 40),
)
def test_the_kept_stand_where_they_stood(items, tail, dtype, seed, step):
    """At every chunking, in every dtype, whatever was written before."""
    from lftr.hosts.vllm.model import positions

    generator = np.random.default_rng(seed)
    ids, kept, media, rows, others, full_media, full = [], [], [], [], [], [], 0
    for text, grid, interval, ratio in items:
        text += bool(ids)  # between two items there is some
        ids += [TEXT] * text
        kept += range(full, full + text)
        full += text
        total = int(np.prod(grid))
        count = max(1, int(total * ratio))
        index = np.sort(generator.choice(total, count, replace=False))
        offsets = np.indices(grid).reshape(3, -1)
        offsets[0] = (offsets[0] * interval).astype(np.int64)
        media.append((len(ids), count, offsets))
        full_media.append((full, total, offsets))
        ids += [VIDEO if grid[0] > 1 else IMAGE] * count
        kept += (full + index).tolist()
        full += total
        features = torch.zeros(count, 2, dtype=dtype)
        places = torch.from_numpy(offsets[:, index])
        rows.append(positions.with_offsets(features, places))
        other = np.sort(generator.choice(total, count, replace=False))
        others.append(positions.with_offsets(features, torch.from_numpy(offsets[:, other])))
    ids += [TEXT] * tail
    kept += range(full, full + tail)
    wanted, ahead = positions.initial(full + tail, full_media)
    found, after = positions.initial(len(ids), media)
    assert after + len(ids) == ahead + full + tail
    for chosen in (others, rows, rows):  # chosen otherwise before a preemption
        for start in range(0, len(ids), max(step, len(ids) // 20)):
            stop = start + max(step, len(ids) // 20)
            parts = [
                row[max(0, start - first) : max(0, stop - first)]
                for row, (first, _, _) in zip(chosen, media, strict=True)
            ]
            parts = [part for part in parts if len(part)]
            bare, found, delta = positions.rewritten(
                torch.tensor(ids), parts, found, start, (IMAGE, VIDEO)
            )
            assert delta == after
            assert [one.shape for one in bare] == [(len(part), 2) for part in parts]
    assert torch.equal(found, wanted[:, kept])


def test_whole_items_keep_their_positions():
    from lftr.hosts.vllm.model import positions

    ids = torch.tensor([TEXT, VIDEO, VIDEO, TEXT])
    offsets = np.indices((2, 1, 1)).reshape(3, -1)
    start, ahead = positions.initial(4, [(1, 2, offsets)])
    rows = positions.without_offsets(torch.ones(2, 3))
    bare, after, delta = positions.rewritten(ids, [rows], start, 0, (IMAGE, VIDEO))
    assert torch.equal(after, start)
    assert delta == ahead
    assert torch.equal(bare[0], torch.ones(2, 3))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 400), st.floats(0.01, 1)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 2**31),
    st.integers(1, 40),
)
def test_gaps(items, tail, dtype, seed, step):
    """One dimension, at every chunking: items side by side, first and last, and kept whole."""
    from lftr.hosts.vllm.model import gaps, positions

    generator = np.random.default_rng(seed)
    length, kept, places, chosen, full = 0, [], [], [[], []], 0
    for text, total, ratio in items:
        kept += range(full, full + text)
        length, full = length + text, full + text
        count = max(1, int(total * ratio))
        places.append((torch.arange(length, length + count), total - count))
        for rows in chosen:
            index = torch.from_numpy(np.sort(generator.choice(total, count, replace=False)))
            rows.append(positions.with_offsets(torch.zeros(count, 2, dtype=dtype), index[None]))
        kept += (full + index).tolist()
        length, full = length + count, full + total
    kept += range(full, full + tail)
    length, full = length + tail, full + tail
    rows, ahead = gaps.initial(length, places)
    assert ahead == full - length
    for features in (*chosen, chosen[1]):  # chosen otherwise before a preemption
        for start in range(0, length, step):
            parts = [
                one[(start <= own) & (own < start + step)]
                for one, (own, _) in zip(features, places, strict=True)
            ]
            parts = [part for part in parts if len(part)]
            bare, rows, after = gaps.rewritten(parts, rows, start)
            assert after == ahead
            assert [one.shape for one in bare] == [(len(part), 2) for part in parts]
    assert rows[0].tolist() == kept
