"""Which tests run for every family by default, and which in `.ci/run` alone."""

from __future__ import annotations

import pytest
from zoo import ZooEntry

# families over which tests of details run in `.ci/run`; they differ from each other in kind: how
# tokens are packed and placed, which masks and caches there are
CORE = {
    *("llava", "vipllava", "llava_next", "llava_onevision", "llava_onevision-videos"),
    *("qwen2_vl", "qwen2_5_vl", "qwen2_5_vl-videos", "qwen3_vl", "qwen3_vl-mixed", "qwen3_5"),
    *("glm4v", "internvl", "idefics3", "gemma3", "gemma4", "gemma4_shared", "paligemma"),
    *("mistral3", "aya_vision", "kimi_k25", "llama4"),
}
# those over which tests run by default: one square, tiles, M-RoPE, features added in layers, linear
# attention, images that are attended in both directions; clips counted and with M-RoPE
QUICK = {
    *("llava", "llava_next", "internvl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3"),
    *("llava_onevision-mixed", "qwen2_5_vl-videos", "qwen2_5_vl-mixed"),
}


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark the tests of other families as slow, unless they are marked `every_family`."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        families = {str(value) for value in values if isinstance(value, ZooEntry)}
        if families - QUICK and not item.get_closest_marker("every_family"):
            item.add_marker(pytest.mark.slow)
