"""A search that is killed goes on where it was: nothing lost, nothing double, the same verdicts."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest

import lftr
from lftr.lab.asking.answering import Answer, Timing
from lftr.lab.tuning import batches
from lftr.lab.tuning import tune as tuning
from lftr.lab.tuning.answers import ANSWERS
from lftr.lab.tuning.plan import Plan, plain_workload
from lftr.lab.tuning.search import Goal
from lftr.lab.tuning.workload import load_workload
from lftr.values.errors import ArgumentError, TooLittleMemoryError
from lftr.values.report import ItemReport

GOAL = Goal(0.7, 0.8)
METHODS = [lftr.get_method("lftr"), lftr.get_method("uniform")]
PLAN = Plan(METHODS, [1 / 2, 1 / 8, 1 / 32], batch=3, seed=5)


class Killed(BaseException):
    """What ends a process."""


class Oracle:
    """Stands in for a model: its answers depend on question and setting alone; it counts."""

    def __init__(self, patience: int = 10**9) -> None:
        self.patience = patience
        self.asked: Counter[str] = Counter()

    @contextmanager
    def one_batch(self, model, processor, asked, **_):
        def ask(setting):
            if self.patience == 0:
                raise Killed
            self.patience -= 1
            self.asked[f"{setting.label} {[id(one.images[0]) for one in asked]}"] += 1
            return [self._answer(one, setting) for one in asked]

        yield ask

    def _answer(self, one, setting) -> Answer:
        pixels = one.images[0].tobytes()[:999]
        draw = hashlib.sha256(pixels + one.question.encode() + setting.label.encode()).digest()[0]
        keep = float(setting.keep)
        text = "full" if setting.full or draw < 256 * keep**0.1 else setting.label
        item = ItemReport(0, 0, 64, round(64 * keep), ((1, 8, 8),), ())
        ms = Timing(0.0, 0.0, 0.0, 0.0)
        return Answer(text, (item,), 64 * keep, ms, draw % 7 > 0)


@pytest.fixture
def workload():
    return load_workload("scenes", n=60, seed=1)


@pytest.fixture
def search(monkeypatch, workload, subject):
    """Search as the oracle answers; returns what came out, and the oracle."""
    return functools.partial(_search, workload, monkeypatch, subject)


def _search(workload, monkeypatch, subject, folder=None, patience: int = 10**9):
    """Return what came out, and the oracle; an oracle whose patience is short kills the search."""
    oracle = Oracle(patience)
    monkeypatch.setattr(batches, "one_batch", oracle.one_batch)
    monkeypatch.setattr(tuning, "_unmet", lambda *_: {})
    monkeypatch.setattr(tuning, "_measure_saving", lambda *_: {"questions": 0})
    try:
        return tuning.tune(subject, workload, GOAL, PLAN, run=folder), oracle
    except Killed:
        return None, oracle


def keys(folder):
    lines = map(json.loads, (folder / ANSWERS).read_text().splitlines())
    return [(line["setting"], *line["ids"]) for line in lines]


def test_killed_at_any_place_it_finds_what_it_would_have_found(search, tmp_path):
    whole, oracle = search()
    asked = oracle.asked.total()
    assert asked > 30
    assert {proof.verdict for proof in whole.proofs} >= {"holds"}
    for patience in (1, 2, asked // 3, asked - 1):
        folder = tmp_path / str(patience)
        none, first = search(folder, patience)
        assert none is None
        again, second = search(folder)
        assert again.preset == whole.preset
        assert [p.verdict for p in again.proofs] == [p.verdict for p in whole.proofs]
        assert first.asked.total() + second.asked.total() == asked  # nothing twice
        assert len(set(keys(folder))) == len(keys(folder)) == asked


def test_killed_again_and_again_with_torn_lines(search, tmp_path):
    whole, oracle = search()
    found, torn = None, 0
    while found is None:
        found, _ = search(tmp_path, patience=9)
        if found is None:
            file = tmp_path / ANSWERS
            file.write_bytes(file.read_bytes()[:-5])  # the last line was being written
            torn += 1
    assert found.preset == whole.preset
    assert torn > 3
    assert len(keys(tmp_path)) == oracle.asked.total()


def test_a_finished_search_asks_nothing(search, tmp_path):
    first, _ = search(tmp_path)
    before = (tmp_path / ANSWERS).read_bytes()
    again, oracle = search(tmp_path, patience=0)
    assert again.preset == first.preset
    assert not oracle.asked
    assert (tmp_path / ANSWERS).read_bytes() == before


def test_another_search_in_the_same_folder_is_refused(search, subject, workload, tmp_path):
    search(tmp_path, patience=3)
    for goal, changes, name in (
        (Goal(0.7, 0.9), {}, "goal"),
        (GOAL, {"batch": 4}, "batch"),
        (GOAL, {"seed": 6}, "seed"),
        (GOAL, {"budgets": [1 / 2]}, "settings"),
        (GOAL, {"methods": [lftr.get_method("lftr", diversity=0.0), METHODS[1]]}, "settings"),
        (GOAL, {"encoder": lftr.EncoderToMe(r=8)}, "settings"),
        (GOAL, {"positions": "compact"}, "settings"),
    ):
        with pytest.raises(ArgumentError, match=f"its {name} differ"):
            tuning.tune(subject, workload, goal, replace(PLAN, **changes), run=tmp_path)
    with pytest.raises(ArgumentError, match="its workload differ"):
        tuning.tune(subject, load_workload("scenes", n=61), GOAL, PLAN, run=tmp_path)


def test_another_subject_in_the_same_folder_is_refused(search, subject, workload, tmp_path):
    search(tmp_path, patience=3)
    for changes, name in (({"name": "mine"}, "model"), ({"max_new_tokens": 9}, "max_new_tokens")):
        other = replace(subject, **changes)
        with pytest.raises(ArgumentError, match=f"its {name} differ"):
            tuning.tune(other, workload, GOAL, PLAN, run=tmp_path)


def test_a_method_that_is_there_twice_is_refused(subject, workload):
    twice = [METHODS[0], METHODS[0]]
    with pytest.raises(ArgumentError, match=r"setting = 'lftr 1/2'; allowed: one of each"):
        tuning.tune(subject, workload, GOAL, replace(PLAN, methods=twice))


def test_a_method_with_other_options_is_a_setting_of_its_own(subject, workload):
    plan = replace(PLAN, methods=[METHODS[0], lftr.get_method("lftr", diversity=0.0)])
    settings = tuning.tune_configuration(subject, workload, GOAL, plan)["settings"]
    labels = [setting["label"] for setting in settings]
    assert {"lftr 1/2", "lftr(diversity=0.0) 1/2"} <= set(labels)


def test_too_little_memory_bars_no_setting(subject, workload, monkeypatch):
    """Another program may have it: a start without that one would decide otherwise."""

    @contextmanager
    def small(*_, **__):
        def ask(setting):
            raise TooLittleMemoryError("no room")

        yield ask

    monkeypatch.setattr(tuning, "one_batch", small)
    with pytest.raises(TooLittleMemoryError, match="no room"):
        tuning.tune(subject, workload, GOAL, PLAN)


def test_a_picture_that_was_changed_is_another_workload(folder):
    (folder / "prompts.txt").write_text("What?\n")
    one = load_workload(folder)
    (folder / "red.png").write_bytes((folder / "noise.png").read_bytes())
    assert plain_workload(load_workload(folder)) != plain_workload(one)


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_preset(tmp_path):
    """Really killed, by SIGKILL, on the bundled model."""
    words = ["--n", 14, "--agreement", 0.6, "--confidence", 0.6, "--max-new-tokens", 3]
    words += ["--method", "uniform", "--keep", "1/4", "--keep", "1/16", "--batch", 2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def lftr_tune(name):
        own = ["--run", str(tmp_path / name), "--out", str(tmp_path / f"{name}.json")]
        command = [sys.executable, "-m", "lftr", "tune", "scenes", *map(str, words), *own]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    process, file = lftr_tune("killed"), tmp_path / "killed" / ANSWERS
    while process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= 4:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, process.stdout.read().decode()
    for name in ("killed", "whole"):
        process = lftr_tune(name)
        assert process.wait(timeout=300) == 0, process.stdout.read().decode()
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("killed", "whole")]
    for one in found:
        del one["found"]["prefill"]  # times
    assert found[0] == found[1]
    assert len(set(keys(tmp_path / "killed"))) == len(keys(tmp_path / "killed"))
    assert sorted(keys(tmp_path / "killed")) == sorted(keys(tmp_path / "whole"))
