"""A task in lmms-eval's own format, made of the bundled suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lftr import suites

MISSING = "lmms-eval is not installed: scripts/test-lmms-eval has an environment with it"
ENTRY = "lftr.lab.evaluation.lmms"
QUESTIONS = 12
TASK = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/questions.json
task: lftr_scenes
test_split: test
output_type: generate_until
doc_to_visual: !function utils.images
doc_to_text: !function utils.question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  do_sample: false
process_results: !function utils.results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""
UTILS = """
import os
from PIL import Image

def images(doc):
    with open(os.environ["ASKED"], "a") as file:
        print(os.environ.get("RANK", "0"), doc["image"], file=file)
    return [Image.open(doc["image"]).convert("RGB")]

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, results):
    return {"accuracy": float(results[0].strip().lower() == doc["answer"])}
"""


@dataclass(frozen=True)
class Task:
    """A folder for ``--include_path``, and the examples in it."""

    folder: Path
    examples: list[suites.Example]


@dataclass(frozen=True)
class Evaluated:
    """What lmms-eval wrote down."""

    accuracy: float
    answers: dict[int, str]
    asked: dict[int, set[str]]  # which process looked at which images


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    examples = list(suites.load("scenes", split="validation", n=QUESTIONS))
    rows = []
    for number, example in enumerate(examples):
        path = folder / f"{number}.png"
        example.image.save(path)
        rows.append({"image": str(path), "question": example.question, "answer": example.answer})
    (folder / "questions.json").write_text(json.dumps(rows))
    (folder / "lftr_scenes.yaml").write_text(TASK.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)
    return Task(folder, examples)


@pytest.fixture(scope="session")
def lmms_eval(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Evaluated]:
    """Run lmms-eval as a user does, from its command line, and read what it wrote."""
    cache = tmp_path_factory.mktemp("cache")

    def run(arguments: str, *launcher: str, batch: int = 4) -> Evaluated:
        out = tmp_path_factory.mktemp("out")
        command = [sys.executable, "-m", *(launcher or [ENTRY])]
        command += ["--model", "lftr_hf", "--model_args", arguments, "--batch_size", str(batch)]
        command += ["--tasks", "lftr_scenes", "--include_path", str(task.folder)]
        command += ["--log_samples", "--output_path", str(out)]
        environment = os.environ | {"HF_HOME": str(cache), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"ASKED": str(out / "asked"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-4000:]
        results = list(out.rglob("*_results.json"))
        assert len(results) == 1, output[-4000:]
        told = json.loads(results[0].read_text())["results"]["lftr_scenes"]
        (samples,) = out.rglob("*_samples_lftr_scenes.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        answers = {line["doc_id"]: _answer(line) for line in lines}
        assert len(answers) == len(lines), "a question was answered twice"
        asked: dict[int, set[str]] = {}
        for line in (out / "asked").read_text().splitlines():
            rank, image = line.split(" ", 1)
            asked.setdefault(int(rank), set()).add(image)
        return Evaluated(told["accuracy,none"], answers, asked)

    return run


def _answer(line: dict[str, Any]) -> str:
    value = line["filtered_resps"]
    return value[0] if isinstance(value, list) else value
