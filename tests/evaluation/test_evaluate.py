"""Runs of the bundled model: killed, resumed, with images that break off, settings that cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

import lftr
from lftr.lab.evaluation import (
    Run,
    Setting,
    Subject,
    answer_all,
    answer_batch,
    configuration,
    evaluate,
    load_data,
    settings_grid,
    try_settings,
    write_thumbnails,
)
from lftr.lab.evaluation.gallery import gallery
from lftr.methods import get_method
from lftr.methods.encoder.merges import EncoderToMe
from lftr.values.errors import ArgumentError, LftrError, UnsupportedModelError

from .test_runs import run_of

METHODS = [get_method("lftr")]


def start(path, subject, data, settings, **changes):
    config = configuration(subject, [data], settings, metric="exact")
    with Run.open(path, config) as run:
        problems = evaluate(run, subject, data.items, settings, metric="exact", **changes)
    return run, problems


def timeless(run):
    return sorted(
        ({k: v for k, v in line.items() if k != "ms"} for line in run.predictions),
        key=lambda line: (line["id"], line["setting"]),
    )


def test_a_run_holds_every_answer_with_what_was_kept(tmp_path, subject):
    data = load_data("scenes", split="validation", n=3)
    settings = settings_grid(METHODS, [1 / 16, 72], controls=["pool"])
    seen = []
    run, problems = start(
        tmp_path, subject, data, settings, batch=2, step=lambda label, new: seen.append(len(new))
    )
    assert not problems
    assert sum(seen) == len(run.predictions) == 3 * 5
    answers = answer_all(subject.model, subject.processor, data.items, settings, max_new_tokens=4)
    for number, found in answers:
        for item, answer in zip(data.items, found, strict=True):
            key = (item.id, settings[number].label)
            (line,) = [one for one in run.predictions if (one["id"], one["setting"]) == key]
            assert line["answer"] == answer.text
            assert line["score"] == float(answer.text == item.answers[0])
            assert (line["tokens"], line["kept"]) == (576, answer.kept)
    told = {line["setting"]: line for line in run.predictions}
    assert told["full"]["index"] is None
    assert len(told["lftr 1/16"]["index"]) == 36
    assert told["lftr 72"]["kept"] == 72
    assert told["lftr 72"]["grid"] == [1, 24, 24]
    times = told["lftr 1/16"]["ms"]
    assert 0 < times["encode"] + times["method"] + times["host"] < times["total"]
    assert times["encode"] >= told["full"]["ms"]["encode"] > 0


@pytest.mark.slow
def test_killed_twice_and_gone_on_is_as_never_killed(tmp_path, subject):
    """Really killed, by SIGKILL, in the middle; with a batch half written on top."""
    words = ["--n", 4, "--batch", 2, "--keep", "1/16", "--max-new-tokens", 4, "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def lftr_eval(folder):
        command = [sys.executable, "-m", "lftr", "eval", *map(str, words), "--out", str(folder)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    killed = tmp_path / "killed"
    file = killed / "predictions.jsonl"
    for least in (4, 14):
        process = lftr_eval(killed)
        while process.poll() is None:
            if file.exists() and file.read_bytes().count(b"\n") >= least:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        assert process.wait() == -signal.SIGKILL, process.stdout.read().decode()
        rows = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(rows[:-1]) + rows[-1][: len(rows[-1]) // 2])
    for folder in (killed, tmp_path / "whole"):
        process = lftr_eval(folder)
        assert process.wait(timeout=300) == 0, process.stdout.read().decode()
    run, whole = Run.read(killed), Run.read(tmp_path / "whole")
    assert len(run.predictions) == len(run.done()) == 4 * 6
    assert timeless(run) == timeless(whole)
    metrics = [json.loads((one.path / "metrics.json").read_text()) for one in (run, whole)]
    for one in metrics:
        for row in one["settings"]:
            del row["ms"]
    assert metrics[0] == metrics[1]


def test_a_whole_run_asks_nothing_again(tmp_path, subject, monkeypatch):
    data = load_data("scenes", split="validation", n=2)
    settings = settings_grid(METHODS, [1 / 16], controls=[])
    first, _ = start(tmp_path, subject, data, settings)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    monkeypatch.setattr(sys.modules["lftr.lab.evaluation.evaluate"], "answer_batch", None)
    again, _ = start(tmp_path, subject, data, settings)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    assert again.predictions == first.predictions


def test_an_image_that_breaks_off_does_not_make_others_be_asked_again(
    tmp_path, subject, jsonl, monkeypatch
):
    red = {"question": "What colour is the square?", "answers": "red"}
    data = load_data(str(jsonl(*({"image": name} | red for name in ("red.png", "cut.png")))))
    settings = settings_grid(METHODS, [1 / 16], controls=[])
    start(tmp_path / "run", subject, data, settings)
    monkeypatch.setattr(sys.modules["lftr.lab.evaluation.evaluate"], "answer_batch", None)
    _, problems = start(tmp_path / "run", subject, data, settings)
    assert [problem.where for problem in problems] == ["questions:2"]


def test_an_image_that_is_gone_has_no_thumbnail(tmp_path, subject, jsonl, folder):
    rows = [{"image": n, "question": "?", "answers": "a"} for n in ("red.png", "noise.png")]
    data = load_data(str(jsonl(*rows)))
    run, _ = start(tmp_path / "run", subject, data, settings_grid([], [], controls=[]))
    (folder / "red.png").unlink()
    problems = write_thumbnails(run, data.items, subject.processor)
    assert [problem.where for problem in problems] == ["questions:1"]
    assert run.image("questions:2").exists()


def test_a_budget_that_cannot_be_met_names_its_setting(subject):
    items = load_data("scenes", split="validation", n=1).items
    for keep in (0.1, 36):  # found when the reduction is made, and when it runs
        with pytest.raises(ArgumentError, match=rf"^mine: keep = {keep}"):
            try_settings(subject, items, [Setting("mine", get_method("fastv"), keep)])


def test_an_image_that_breaks_off_is_left_out(tmp_path, subject, jsonl):
    red = {"question": "What colour is the square?", "answers": "red"}
    names = ["red.png", "cut.png", "noise.png", "cut.png"]
    data = load_data(str(jsonl(*({"image": name} | red for name in names))))
    settings = settings_grid(METHODS, [1 / 16], controls=[])
    run, problems = start(tmp_path / "run", subject, data, settings, batch=3)
    assert [problem.where for problem in problems] == ["questions:2", "questions:4"]
    assert "an image that is whole" in problems[0].reason
    assert {line["id"] for line in run.predictions} == {"questions:1", "questions:3"}
    assert run.predictions[0]["image"].endswith("red.png")
    assert not run.metrics["complete"]
    write_thumbnails(run, data.items, subject.processor)
    assert Image.open(run.image("questions:1")).size == (64, 64)
    assert not run.image("questions:2").exists()


def test_several_images_have_no_grid_of_their_own(tmp_path, subject, jsonl):
    row = {"image": ["red.png", "noise.png"], "question": "Which is red?", "answers": "one"}
    run, _ = start(
        tmp_path / "run",
        subject,
        load_data(str(jsonl(row))),
        settings_grid(METHODS, [36], controls=[]),
    )
    line = run.predictions[1]
    assert (line["tokens"], line["kept"], line["index"], line["grid"]) == (1152, 72, None, None)


def test_a_batch_that_does_not_fit_loses_nothing(tmp_path, subject, monkeypatch):
    data = load_data("scenes", split="validation", n=3)
    settings = settings_grid(METHODS, [1 / 16], controls=[])
    generate, calls = subject.model.generate, []

    def small(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return generate(*args, **kwargs)

    monkeypatch.setattr(subject.model, "generate", small)
    with pytest.raises(ArgumentError, match=r"batch = 1; allowed: fewer questions .*2 GiB"):
        start(tmp_path, subject, data, settings, batch=1)
    assert len(Run.read(tmp_path).predictions) == 3
    run, _ = start(tmp_path, subject, data, settings, batch=2)  # another batch is the same run
    assert len(run.predictions) == 6
    with pytest.raises(LftrError):
        lftr.prepare(subject.model)  # no reduction is left on


class Refusing(lftr.Method):
    """A method that this model cannot feed."""

    name = "refusing"
    evidence = (("nothing",),)

    def choose(self, tokens, keep):
        raise AssertionError


def test_a_control_that_a_model_cannot_do_is_found_at_once(subject, monkeypatch):
    items = load_data("scenes", split="validation", n=1).items
    settings = settings_grid(METHODS, [1 / 4, 1 / 16], controls=["pool", "uniform"])
    monkeypatch.setattr(type(get_method("pool")), "evidence", (("nothing",),))
    left_out = try_settings(subject, items, settings)
    assert list(left_out) == ["pool"]
    assert "cannot provide" in left_out["pool"]
    with pytest.raises(LftrError, match=r"needs nothing"):
        try_settings(subject, items, [Setting("mine", Refusing(), 0.5)])


def test_settings_are_tried_on_an_image_that_can_be_read(subject, jsonl):
    rows = [{"image": n, "question": "?", "answers": "a"} for n in ("cut.png", "red.png")]
    settings = [Setting("mine", Refusing(), 0.5)]
    with pytest.raises(LftrError, match=r"needs nothing"):
        try_settings(subject, load_data(str(jsonl(*rows))).items, settings)
    assert try_settings(subject, load_data(str(jsonl(rows[0]))).items, settings) == {}


def test_a_control_that_fails_on_a_later_image_is_left_out_of_the_whole_run(
    tmp_path, subject, monkeypatch
):
    """As downsample does once an image is large enough to be cut into tiles."""
    data = load_data("scenes", split="validation", n=3)
    settings = settings_grid(METHODS, [36, 72], controls=["uniform", "random"])
    calls, whole = [], answer_batch

    def tiled(model, processor, held, waiting, **kwargs):
        for number, answers in whole(model, processor, held, waiting, **kwargs):
            if waiting[number].label == "uniform 36" and len(calls) == 1:
                raise UnsupportedModelError("images are cut into tiles")
            calls.append(1) if waiting[number].label == "uniform 36" else None
            yield number, answers

    module = sys.modules["lftr.lab.evaluation.evaluate"]
    monkeypatch.setattr(module, "answer_batch", tiled)
    run, _ = start(tmp_path, subject, data, settings, batch=1)
    assert run.left_out == {"uniform": "images are cut into tiles"}
    assert run.metrics["complete"]
    labels = ["full", "lftr 36", "random 36", "lftr 72", "random 72"]
    assert [row["label"] for row in run.metrics["settings"]] == labels
    assert len(run.done()) == 3 * 5 + 2  # those of the first image stay on the disk
    again, _ = start(tmp_path, subject, data, settings, batch=1)
    assert again.done() == run.done()


def test_the_configuration_tells_runs_apart(subject):
    data = load_data("scenes", split="validation", n=1)
    settings = settings_grid([get_method("random", seed=3)], [1 / 16, 5])
    config = configuration(subject, [data], settings, metric="vqa", seed=2)
    labels = [one["label"] for one in config["settings"]]
    assert labels[:3] == ["full", "random(seed=3) 1/16", "uniform 1/16"]
    assert labels[-1] == "downsample 5"
    assert config["settings"][1]["options"] == {"seed": 3}
    assert config["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(config)) == config
    assert config["text_tower"] is None
    assert config["settings"][0]["keep"] == "1/1"  # 1 is a token
    merging = Setting("merging", METHODS[0], 0.5, encoder=EncoderToMe())
    told = configuration(subject, [data], [merging], metric="vqa")["settings"][0]["encoder"]
    assert told["encoder"] == "EncoderToMe"
    tower = lftr.bundled.load_text_tower(subject.model)
    guided = Subject("b", subject.model, subject.processor, tower)
    assert configuration(guided, [data], settings, metric="vqa")["text_tower"]
    with pytest.raises(ArgumentError, match=r"scenes and scenes both have it"):
        configuration(subject, [data, data], settings, metric="vqa")
    with pytest.raises(ArgumentError, match=r"there are two"):
        configuration(subject, [data], [settings[0], settings[0]], metric="vqa")


def test_the_gallery_holds_the_worst_and_some_that_agree(tmp_path):
    settings = [{"label": label, "method": label} for label in ("full", "a", "b")]
    lines = []
    for number in range(40):
        for rank, setting in enumerate(settings):
            wrong = rank and number >= 10 + 15 * (rank - 1)  # 0-9 none, 10-24 one, 25-39 two
            answer = "no" if wrong else "yes"
            lines.append({"id": f"{number:02}", "setting": setting["label"], "answer": answer})
    found = gallery(run_of(tmp_path, {"settings": settings}, lines))
    assert found[:15] == [f"{number}" for number in range(25, 40)]
    assert len(found) == 24
    assert all(int(id) < 10 for id in found[16:])
