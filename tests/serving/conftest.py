"""Tests of the vLLM plugin; those that need vLLM are skipped where there is none."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WITHOUT = {"test_setting.py", "test_command.py"}
WHY = "vLLM is not installed: scripts/test-vllm has an environment with it"
INSTALLED = importlib.util.find_spec("vllm") is not None

if INSTALLED:  # engines in this process, small
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
else:
    collect_ignore: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if INSTALLED:
        return
    for item in items:
        if item.path.parent == HERE and item.path.name not in WITHOUT:
            item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture(
    scope="module",
    params=[
        "llava",
        "llava_siglip",
        "llava_next",
        "llava_onevision",
        "internvl",
        "idefics3",
        "smolvlm",
        "gemma3",
        "glm4v",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
    ],
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[object]:
    """A family's tiny checkpoint in a reduced engine, with the stock engine's answers."""
    from .engines import Served

    if request.param == "smolvlm":
        pytest.importorskip("num2words")  # transformers' processor asks for it

    with Served.started(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found
