"""A run directory: nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lftr.lab.asking.journal import Journal
from lftr.lab.evaluation import Run
from lftr.lab.evaluation.runs import PREDICTIONS
from lftr.values.errors import ArgumentError

CONFIG = {
    "format": 1,
    "settings": [{"label": "full", "method": "full", "keep": "1"}],
    "data": [{"name": "t", "questions": 2}],
}
MS = {"encode": 1.0, "method": 0.0, "host": 0.0, "total": 2.0}


def line(id, setting="full", **changes):
    return {
        "id": id,
        "setting": setting,
        "task": "t",
        "category": "c",
        "question": "?",
        "answers": ["a"],
        "image": None,
        "answer": "a",
        "score": 1.0,
        "tokens": 9,
        "kept": 9,
        "index": None,
        "grid": None,
        "ms": MS,
    } | changes


def run_of(path, config, lines):
    """A run that nobody writes to."""
    return Run(Journal(path, PREDICTIONS, config, lines))


def test_what_was_added_is_read_again(tmp_path):
    with Run.open(tmp_path / "new", CONFIG) as run:
        run.add([line("1"), line("ü\n2")])
        assert run.done() == {("1", "full"), ("ü\n2", "full")}
    again = Run.read(tmp_path / "new")
    assert again.predictions == run.predictions
    assert again.config == CONFIG | {"left_out": {}}
    assert again.metrics["complete"]
    assert json.loads((tmp_path / "new" / "predictions.jsonl").read_bytes().splitlines()[0])


def test_every_way_a_line_can_be_torn(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1"), line("2")])
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole), 37):
        file.write_bytes(whole[:length])
        assert [one["id"] for one in Run.read(tmp_path).predictions] == ["1"]
        with Run.open(tmp_path, CONFIG) as run:
            assert run.done() == {("1", "full")}
            run.add([line("2")])
        assert file.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1"), line("2")])
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(file.read_bytes()[5:])
    with pytest.raises(ArgumentError, match=r"line 1"):
        Run.open(tmp_path, CONFIG)
    with pytest.raises(ArgumentError, match=r"line 1"):
        Run.read(tmp_path)


def test_another_configuration_is_refused_and_nothing_touched(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1")])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ArgumentError, match=r"its metric, seed differ: null there, \"vqa\" now"):
        Run.open(tmp_path, CONFIG | {"metric": "vqa", "seed": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    Run.open(tmp_path, CONFIG).close()  # and the refusal let go of it


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    (tmp_path / ".lock").write_text("precious")
    with pytest.raises(ArgumentError, match=r"this one holds thesis.tex"):
        Run.open(tmp_path, CONFIG)
    assert (tmp_path / ".lock").read_text() == "precious"
    with pytest.raises(ArgumentError, match=r"a folder that `lftr eval --out` wrote"):
        Run.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"a folder to write to"):
        Run.open(tmp_path / "file" / "run", CONFIG)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArgumentError, match=r"a folder to write to"):
        Run.open(tmp_path, CONFIG)


def test_a_disk_that_is_full_is_said(tmp_path, monkeypatch):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1")])

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ArgumentError, match=r"No space left"):
            run.add([line("2")])
        assert run.done() == {("1", "full")}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_a_failed_write_left_behind_spoils_nothing(tmp_path, monkeypatch, error):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1")])
        file = tmp_path / "predictions.jsonl"

        def torn(_):
            file.write_bytes(file.read_bytes()[:-9])  # as much as there was room for
            raise error

        with monkeypatch.context() as context:
            context.setattr(os, "fsync", torn)
            with pytest.raises((ArgumentError, KeyboardInterrupt)):
                run.add([line("2")])
        run.add([line("2"), line("3")])
    with Run.open(tmp_path, CONFIG) as run:
        assert [one["id"] for one in run.predictions] == ["1", "2", "3"]


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("\udcff.png:1")])
    assert Run.read(tmp_path).predictions[0]["id"] == "\udcff.png:1"


def test_metrics_that_cannot_be_written_are_said(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        (tmp_path / "metrics.json").mkdir()
        with pytest.raises(ArgumentError, match=r"a folder to write to"):
            run.write_metrics()


def test_an_answer_given_twice_is_refused(tmp_path):
    with Run.open(tmp_path, CONFIG) as run:
        run.add([line("1")])
        for lines in ([line("1")], [line("2"), line("2")]):
            with pytest.raises(ArgumentError, match=r"one answer under 'full'"):
                run.add(lines)
    assert len(Run.read(tmp_path).predictions) == 1


def test_what_is_left_out_is_remembered_and_counts_no_more(tmp_path):
    settings = [*CONFIG["settings"], {"label": "pool 4", "method": "pool", "keep": "4"}]
    config = CONFIG | {"settings": settings}
    with Run.open(tmp_path, config) as run:
        run.add([line("1"), line("2"), line("1", "pool 4")])
        assert run.metrics["questions"] == 1
        run.leave_out("pool", "no\n  grid")
        assert run.metrics["questions"] == 2
    for again in (Run.read(tmp_path), Run.open(tmp_path, config)):
        assert again.config["settings"] == CONFIG["settings"]
        assert again.config["left_out"] == {"pool": "no grid"}
        assert {one["setting"] for one in again.predictions} == {"full"}
        assert ("1", "pool 4") in again.done()


def test_one_process_at_a_time(tmp_path):
    code = f"from lftr.evaluation import Run; Run.open({str(tmp_path)!r}, {CONFIG!r})"
    with Run.open(tmp_path, CONFIG):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "is not being written to" in done.stderr
        with pytest.raises(ArgumentError, match=r"by this or another process"):
            Run.open(tmp_path, CONFIG)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0


def test_any_id_has_a_picture_of_its_own(tmp_path):
    run = run_of(tmp_path, CONFIG, [])
    paths = {run.image(id) for id in ("a/b", "a", "../a", "x" * 999, "ü")}
    assert len(paths) == 5
    assert {path.parent for path in paths} == {tmp_path / "images"}


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "config.json.part").write_text("{")
    Run.open(tmp_path, {"settings": []}).close()
    assert (tmp_path / "config.json").is_file()
