"""Which tests run for every family by default, and which in `.ci/run` alone."""

from __future__ import annotations

import pytest

# families over which tests of details run in `.ci/run`; they differ from each other in kind: how
# tokens are packed and placed, which masks and caches there are
CORE = {
    *("llava", "vipllava", "llava_next", "llava_onevision", "llava_onevision-videos"),
    *("qwen2_vl", "qwen2_5_vl", "qwen2_5_vl-videos", "qwen3_vl", "qwen3_vl-mixed", "qwen3_5"),
    *("glm4v", "internvl", "idefics3", "gemma3", "gemma4", "gemma4_shared", "paligemma"),
    *("mistral3", "aya_vision", "kimi_k25", "llama4"),
}
# those over which tests run by default: of two that share most of their code, one
QUICK = CORE - {
    "vipllava",
    "qwen2_vl",
    "qwen3_vl-mixed",
    "glm4v",
    "gemma4",
    "paligemma",
    "aya_vision",
}


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark the tests of other families as slow, unless they are marked `every_family`."""
    for item in items:
        entry = item.callspec.params.get("entry") if hasattr(item, "callspec") else None
        if entry is None or str(entry) in QUICK or item.get_closest_marker("every_family"):
            continue
        item.add_marker(pytest.mark.slow)
