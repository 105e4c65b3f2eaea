"""Every benchmark still runs: what it measures is not checked here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
COMMANDS = [
    "coverage_search.py --n 3",
    "coverage_search.py --test --n 3",
    "diffusion.py --rounds 2",
    "fit.py --prompts 2 --steps 2 --n 3",
    "inside_accuracy.py --n 3",
    "lftr_defaults.py --n 3",
    "lftr_video.py --n 3",
    "lftr_video.py --test --n 3",
    "methods_accuracy.py --split test --n 3",
    "options_search.py --n 3",
    "weights.py --suite clips --n 3",
    "weights.py --suite scenes --n 3",
    "weights.py --test --suite clips --n 3",
    "weights.py --test --suite scenes --n 3",
    "weights_distance.py --n 3",
]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """A copy, so that no figures are overwritten."""
    return shutil.copytree(FOLDER, tmp_path_factory.mktemp("copy") / "benchmarks")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_runs(benchmarks, command):
    script, *options = command.split()
    ran = subprocess.run(
        [sys.executable, str(benchmarks / script), *options],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "|" in ran.stdout  # a table
