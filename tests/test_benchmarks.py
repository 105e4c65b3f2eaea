"""The benchmarks still run: what they measure is not checked here."""

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
    "hallucination.py --n 3",
    "inside_accuracy.py --n 3",
    "lftr_defaults.py --n 3",
    "lftr_video.py --n 3",
    "lftr_video.py --test --n 3",
    "methods.py --sizes 1x64x8 --seconds 0.01",
    "methods_accuracy.py --split test --n 3",
    "options_search.py --n 3",
    "video_methods.py --seconds 0.01 --frames 32",
    "weights.py --suite clips --n 3",
    "weights.py --suite scenes --n 3",
    "weights.py --test --suite clips --n 3",
    "weights.py --test --suite scenes --n 3",
    "weights_distance.py --n 3",
]
WIDE = "takes minutes, at the widths of a 7B model"
NOT_RUN = {
    "claims.py": "needs torchao; tests/test_claims.py tests its rules and its report",
    "inside.py": WIDE,
    "overhead.py": WIDE,
    "peers.py": WIDE,
    "prefill.py": WIDE,
    "second_model.py": "needs what training/convert.py writes, which takes minutes",
    "serving.py": "needs vLLM",
    "serving_accuracy.py": "needs vLLM",
    "weights_cost.py": WIDE,
}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """A copy, so that no figures are overwritten."""
    return shutil.copytree(FOLDER, tmp_path_factory.mktemp("copy") / "benchmarks")


def test_every_script_is_run_or_has_a_reason_not_to():
    documents = {"readme.py", *(path.name for path in FOLDER.glob("*_doc.py"))}  # measure nothing
    scripts = {path.name for path in FOLDER.glob("[!_]*.py")} - documents
    assert sorted({command.split()[0] for command in COMMANDS} | NOT_RUN.keys()) == sorted(scripts)


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
