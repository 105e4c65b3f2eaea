"""lmms-eval, really installed, asks the bundled model through the plugin."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lftr import bundled
from lftr.lab.evaluation import Setting, answer_all
from lftr.methods import get_method

from .conftest import ENTRY, MISSING, QUESTIONS, Evaluated

pytest.importorskip("lmms_eval", reason=MISSING)

ARGUMENTS = "pretrained=bundled,method=lftr,keep=0.0625"


LAUNCHERS = {  # of two processes
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
}


@pytest.fixture(scope="session")
def single(lmms_eval) -> Evaluated:
    return lmms_eval(ARGUMENTS)


def own_answers(task, method, keep):
    model, processor = bundled.load()
    settings = [Setting("only", get_method(method), keep)]
    found = answer_all(model, processor, task.examples, settings, batch=4)
    return {i: text for i, text in enumerate(a.text for _, part in found for a in part)}


def test_answers_are_the_librarys_own(task, single):
    assert single.answers == own_answers(task, "lftr", 1 / 16)
    right = [e.is_correct(single.answers[i]) for i, e in enumerate(task.examples)]
    assert single.accuracy == pytest.approx(sum(right) / QUESTIONS)


def test_a_folder_other_methods_and_their_options(task, lmms_eval):
    arguments = f"pretrained={bundled.path()},method=random,seed=3,keep=1/16,dtype=float32"
    answers = lmms_eval(arguments, batch=1).answers
    model, processor = bundled.load()
    settings = [Setting("only", get_method("random", seed=3), 1 / 16)]
    found = answer_all(model, processor, task.examples, settings, batch=1)
    assert list(answers.values()) == [part[0].text for _, part in found]


def test_the_environment_is_what_the_extra_allows():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["optional-dependencies"]["eval"]):
        version = metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_give_the_result_of_one(lmms_eval, single, launcher):
    shared = lmms_eval(ARGUMENTS, *LAUNCHERS[launcher], "-m", ENTRY)
    assert sorted(shared.asked) == [0, 1]
    assert not shared.asked[0] & shared.asked[1]
    assert len(shared.asked[0]) == len(shared.asked[1]) == QUESTIONS // 2
    assert shared.answers == single.answers
    assert shared.accuracy == single.accuracy


@pytest.mark.parametrize(
    ("arguments", "tasks", "reason"),
    [
        ("pretrained=bundled,method=nameless", "lftr_scenes", "unknown method 'nameless'"),
        (ARGUMENTS, "task_of_no_name", "Tasks not found"),
    ],
)
def test_a_failed_evaluation_is_no_success(task, arguments, tasks, reason):
    command = [sys.executable, "-m", ENTRY, "--model", "lftr_hf", "--model_args", arguments]
    command += ["--tasks", tasks, "--include_path", str(task.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1
    assert reason in done.stdout + done.stderr
    assert done.stderr.rstrip().endswith(
        "1 of lmms-eval's evaluations failed; its errors are above"
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failure_of_two_processes_is_no_success(task, launcher):
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", ENTRY, "--model", "lftr_hf"]
    command += ["--model_args", "pretrained=bundled,method=nameless", "--tasks", "lftr_scenes"]
    command += ["--include_path", str(task.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1
    assert "1 of lmms-eval's evaluations failed" in done.stderr
