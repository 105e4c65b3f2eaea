"""`lftr eval`: its table, its exit codes, and every kind of bad input."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from lftr import bundled
from lftr.lab import evaluation
from lftr.lab.cli.run_folder import LEFT_OUT
from lftr.lab.evaluation import Run

CONTROLS = ["random", "uniform", "pool", "downsample"]
QUICK = ["--max-new-tokens", 2, "--device", "cpu"]


@pytest.fixture
def questions(tmp_path):
    """Write a JSONL of so many questions about a red square."""

    def write(count, *more):
        Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "red.png")
        row = {"image": "red.png", "question": "What colour is it?", "answers": ["red", "Red"]}
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join([json.dumps(row)] * count + list(more)) + "\n")
        return path

    return write


@pytest.mark.slow
def test_every_table_holds_full_and_the_controls(reads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--n", 2, "--keep", "1/16", "--tokens", "72", *QUICK]
    told = reads(*words, "--method", "lftr", "--method", "divprune")
    rows = told["settings"]
    methods = ["lftr", "divprune", *CONTROLS]
    assert [row["label"] for row in rows] == [
        "full",
        *(f"{name} 1/16" for name in methods),
        *(f"{name} 72" for name in methods),
    ]
    assert [row["tokens"] for row in rows] == [576] + [36] * 6 + [72] * 6
    assert told["complete"]
    assert told["problems"] == []
    assert told["run"].startswith("lftr-eval/")
    run = Run.read(told["run"])
    assert run.config == told["config"]
    assert len(run.predictions) == 2 * 13
    assert json.loads((run.path / "metrics.json").read_text())["settings"] == rows
    assert sum(run.image(line["id"]).exists() for line in run.predictions[:2]) == 2


@pytest.mark.slow
def test_the_same_command_finds_its_run_again_and_another_has_its_own(
    lftr, reads, tmp_path, monkeypatch, questions
):
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--data", questions(1), "--tokens", "8", *QUICK]
    first = reads(*words)
    again = reads(*words)
    assert again == first  # times and all: nothing was asked
    assert reads(*words, "--metric", "anls")["run"] != first["run"]
    result = lftr(*words)
    assert result.exit_code == 0
    assert "1 questions of mine.jsonl" in result.stdout
    assert "Few images: even if every answer were right" in result.stdout
    assert first["run"] in result.stdout
    assert all(name in result.stdout for name in ["full", "lftr", *CONTROLS])


@pytest.mark.slow
def test_what_cannot_be_asked_is_named_and_the_rest_is_done(lftr, questions, tmp_path):
    path = questions(1, "{", json.dumps({"image": "absent.png", "question": "?", "answers": "a"}))
    words = ["eval", "--data", path, "--tokens", "8", "--out", tmp_path / "run", *QUICK]
    result = lftr(*words, "--json")
    assert result.exit_code == LEFT_OUT
    told = json.loads(result.stdout)
    assert told["questions"] == 1
    assert [one.partition(":")[0] for one in told["problems"]] == [
        "mine.jsonl line 2",
        "mine.jsonl line 3",
    ]
    assert "left out: mine.jsonl line 3: image = " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_of_another_configuration_is_refused(fails, lftr, questions, tmp_path):
    words = ["eval", "--data", questions(1), "--out", tmp_path / "run", *QUICK]
    assert lftr(*words, "--tokens", 8).exit_code == 0
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    line = fails(*words, "--tokens", 9)
    assert "its settings differ" in line
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "exat"], "unknown metric 'exat'; did you mean 'exact'"),
        (["--data", "scense"], "data = 'scense'; allowed: a JSONL file that exists, or a suite"),
        (["--method", "divprun"], "did you mean 'divprune'"),
        (["--keep", "0"], "keep = '0'; allowed: a ratio"),
        (["--keep", "auto"], "keep = 'auto'; allowed: a ratio"),
        (["--split", "tset"], "unknown split 'tset'"),
        (["--method", "random", "--option", "seed=x"], "seed = 'x'"),
        (
            ["--method", "random", "--method", "lftr", "--option", "seed=1"],
            "--option = 'seed=1'; allowed: method.name=value",
        ),
        (["--method", "random", "--method", "lftr", "--option", "random.sed=1"], "'seed'"),
        (["--report", "/nonexistent/x.html"], "report = '/nonexistent/x.html'"),
        (["--model", "nowhere/nothing"], "--model = 'nowhere/nothing'"),
    ],
    ids=lambda value: "_".join(value)[:30] if isinstance(value, list) else "said",
)
def test_bad_options_say_what_is_allowed(fails, words, said, tmp_path):
    out = tmp_path / "run"
    assert said in fails("eval", "--n", 1, "--out", out, *words)
    assert not out.exists()


def test_an_interrupt_says_where_to_go_on(lftr, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", stop)
    result = lftr("eval", "--n", 1, "--tokens", 8, "--out", tmp_path / "run", *QUICK)
    assert result.exit_code == 130
    assert f"interrupted; the same command continues it in {tmp_path / 'run'}" in result.stderr


def test_an_empty_set_is_an_error(fails, questions):
    assert "at least one question" in fails("eval", "--data", questions(0))


def test_a_folder_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    line = fails("eval", "--n", 1, "--tokens", 8, "--out", tmp_path / "file" / "run")
    assert "out = " in line
    assert "a folder to write to" in line


def test_a_model_that_does_not_fit(fails, monkeypatch, tmp_path):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB.\nmore")

    monkeypatch.setattr(LlavaForConditionalGeneration, "to", full)
    line = fails("eval", "--n", 1, "--model", bundled.path(), "--out", tmp_path / "run")
    assert "--model = " in line
    assert "a model that fits on c" in line
    assert "14 GiB.)" in line
    assert not (tmp_path / "run").exists()


def test_options_go_to_the_method_that_they_name():
    from lftr.cli.parsing import _options_of

    given = ["random.seed=3", "lftr.diversity=0.5"]
    assert _options_of("random", ["random", "lftr"], given) == ["seed=3"]
    assert _options_of("lftr", ["random", "lftr"], given) == ["diversity=0.5"]
    assert _options_of("lftr", ["lftr"], ["diversity=0.5"]) == ["diversity=0.5"]


def test_wrong_usage_exits_with_2(lftr):
    assert lftr("eval", "--n", 0).exit_code == 2
    assert lftr("eval", "--batch", 0).exit_code == 2
