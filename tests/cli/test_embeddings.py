"""`lftr embeddings`: an index of the user's pictures, reduced."""

from __future__ import annotations

import importlib
import json
from contextlib import closing

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lftr.lab.asking.items import Item
from lftr.lab.asking.journal import Journal
from lftr.lab.asking.settings import Setting, full_model
from lftr.lab.cli.run_folder import LEFT_OUT
from lftr.lab.evaluation.index import BATCHES, index_metrics
from lftr.methods import get_method
from lftr.values.errors import ArgumentError, UnsupportedModelError

CONTROLS = ["random", "uniform", "pool", "downsample"]


@pytest.fixture
def album(tmp_path):
    """Five pictures and one prompt."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(5):
        picture = Image.new("RGB", (64, 64), (40 * number, 200 - 30 * number, 90))
        picture.paste((250, 250, 20), (8 * number, 10, 8 * number + 20, 40))
        picture.save(folder / f"{number}.png")
    (folder / "prompts.txt").write_text("What is there?\n")
    return folder


def test_a_folder_has_cosine_and_recall_beside_the_controls(lftr, reads, album, tmp_path):
    words = ["embeddings", "--data", album, "--keep", "1/16", "--k", 2, "--batch", 2]
    words += ["--out", tmp_path / "run"]
    told = reads(*words)
    assert (told["prompts"], told["k"], told["chance"]) == (5, 2, 0.5)
    rows = {row["label"]: row for row in told["settings"]}
    assert list(rows) == ["full", "lftr 1/16", *(f"{name} 1/16" for name in CONTROLS)]
    assert rows["full"]["cosine"] == rows["full"]["recall"] == 1.0
    for label, row in rows.items():
        assert row["tokens"] == (576 if label == "full" else 36)
        assert row["cosine_low"] <= row["cosine"] <= row["cosine_high"]
        assert 0 <= row["recall_low"] <= row["recall"] <= row["recall_high"] <= 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"] == list(
        rows.values()
    )
    result = lftr(*words)
    assert "recall@2 agreement" in result.stdout
    assert "by chance 50%" in result.stdout


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(reads, album, tmp_path):
    words = ["embeddings", "--data", album, "--keep", "1/16", "--batch", 2]
    whole = reads(*words, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    reads(*words, "--out", killed)
    file = killed / "batches.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:-9])  # the second line was being written
    (killed / "000002.safetensors").unlink()
    first = (killed / "000000.safetensors").stat().st_mtime_ns
    again = reads(*words, "--out", killed)
    assert again["settings"] == whole["settings"]
    assert (killed / "000000.safetensors").stat().st_mtime_ns == first  # not asked again
    assert len(file.read_bytes().splitlines()) == 3


@pytest.mark.slow
def test_what_was_left_out_is_told_and_tried_again(lftr, album, tmp_path, monkeypatch):
    module = importlib.import_module("lftr.lab.tuning.workload")
    read = module.read_image

    def away(path):
        if path.name == "1.png":
            raise ArgumentError("a disk that does not answer")
        return read(path)

    monkeypatch.setattr(module, "read_image", away)
    words = ["embeddings", "--data", album, "--keep", "1/16", "--batch", 2, "--k", 2]
    words += ["--out", tmp_path / "run", "--json"]
    for _ in range(2):
        result = lftr(*words)
        assert result.exit_code == LEFT_OUT
        assert "left out: 1.png:1" in result.stderr
        assert json.loads(result.stdout)["prompts"] == 4
    monkeypatch.undo()
    for said in ("going on: 4 prompts in", "going on: 5 prompts in"):
        result = lftr(*words)
        assert result.exit_code == 0
        assert said in result.stderr
        told = json.loads(result.stdout)
        assert told["prompts"] == 5
        assert {row["tokens"] for row in told["settings"]} == {576, 36}


@pytest.mark.slow
def test_a_control_that_fails_later_is_left_out(lftr, album, tmp_path, monkeypatch):
    """As downsample does where the second image is cut into tiles."""
    module = importlib.import_module("lftr.lab.evaluation.index")
    embed, calls = module.embed_batch, []

    def tiled(model, processor, asked, settings, **kwargs):
        for setting, found in zip(
            settings, embed(model, processor, asked, settings, **kwargs), strict=True
        ):
            if setting.name == "downsample":
                calls.append(1)
                if len(calls) == 2:
                    raise UnsupportedModelError("images are cut into tiles")
            yield found

    monkeypatch.setattr(module, "embed_batch", tiled)
    words = ["embeddings", "--data", album, "--keep", "1/16", "--batch", 2]
    words += ["--out", tmp_path / "run", "--json"]
    for _ in range(2):
        told = json.loads(lftr(*words).stdout)
        assert told["left_out"] == {"downsample": "images are cut into tiles"}
        labels = [row["label"] for row in told["settings"]]
        assert labels == ["full", "lftr 1/16", "random 1/16", "uniform 1/16", "pool 1/16"]
        assert told["prompts"] == 5
    assert len(calls) == 2  # no more asked


@pytest.mark.slow
def test_recall_of_all_there_are_is_no_measure(lftr, reads, album, tmp_path):
    words = ["embeddings", "--data", album, "--keep", "1/16", "--out", tmp_path / "run"]
    told = reads(*words)  # --k is 10
    assert (told["k"], told["chance"]) == (4, 1.0)
    assert {row["recall"] for row in told["settings"]} == {None}
    assert all(row["cosine"] is not None for row in told["settings"])


def test_prompts_about_one_image_count_as_one(subject_rows, tmp_path):
    """Six rows that differ by image alone are as sure as three."""
    wide, narrow = (subject_rows(images) for images in ("aabbcc", "abcdef"))
    assert wide["cosine"] == narrow["cosine"]
    assert wide["cosine_high"] - wide["cosine_low"] > narrow["cosine_high"] - narrow["cosine_low"]


@pytest.fixture
def subject_rows(tmp_path):
    """Metrics of a run of six prompts about images that letters name, under one setting."""

    def rows(images):
        folder = tmp_path / images
        full = torch.eye(6)
        turned = torch.tensor([[0.9] * 2, [0.5] * 2, [0.1] * 2]).flatten().diag() + 0.1
        settings = [full_model(), Setting("own", get_method("uniform"), 0.5)]
        with closing(Journal.open(folder, BATCHES, {})) as journal:
            save_file({"full": full, "own": turned}, folder / "0.safetensors")
            kept = {"full": [1.0] * 6, "own": [1.0] * 6}
            ids = list("012345")
            journal.add([{"batch": 0, "ids": ids, "file": "0.safetensors", "kept": kept}])
            items = [Item(id, "t", "?", (), image=one) for id, one in zip(ids, images, strict=True)]
            return index_metrics(journal, items, settings, 2)["settings"][1]

    return rows


@pytest.mark.slow
def test_n_and_split_are_heard(reads, album, tmp_path):
    words = ["embeddings", "--keep", "1/16", "--batch", 4, "--n", 3]
    assert reads(*words, "--data", album, "--out", tmp_path / "a")["prompts"] == 3
    runs = [
        reads(*words, "--data", "scenes", "--split", split, "--out", tmp_path / split)
        for split in ("train", "validation")
    ]
    assert [run["prompts"] for run in runs] == [3, 3]
    assert runs[0]["config"]["data"] != runs[1]["config"]["data"]


@pytest.mark.parametrize(
    "words",
    [
        ("embeddings", "--metric", "vqa"),
        ("embeddings", "--max-new-tokens", 4),
        ("embeddings", "--report", "x.html"),
        ("eval", "--prompt", "What?"),
        ("eval", "--k", 3),
    ],
)
def test_options_of_the_other_command_are_wrong_usage(lftr, words):
    result = lftr(*words)
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.slow
def test_the_old_spelling_warns_and_works(lftr, album, tmp_path):
    words = ["--data", album, "--keep", "1/16", "--method", "uniform", "--k", 2, "--json"]
    old = lftr("eval", *words, "--embeddings", "--out", tmp_path / "run")
    new = lftr("embeddings", *words, "--out", tmp_path / "run")
    assert old.exit_code == new.exit_code == 0
    assert old.stdout == new.stdout
    assert "use `lftr embeddings`" in old.stderr
    assert "deprecated" not in new.stderr


@pytest.mark.slow
def test_merges_of_one_label_are_refused(fails, album):
    words = ["--data", album, "--tokens", 8, "--encoder", "tome", "--encoder", "tome:r=16"]
    assert "one of each; there are two" in fails("embeddings", *words)


@pytest.mark.slow
def test_what_cannot_be_embedded(lftr, fails, album, tmp_path):
    embed = ["embeddings", "--tokens", 8]
    assert "--data = " in fails(*embed, "--data", album, "--data", "scenes")
    assert "two or more prompts" in fails(*embed, "--n", 1)
    (album / "prompts.txt").unlink()
    assert "prompts.txt" in fails(*embed, "--data", album)
    (album / "5.png").write_text("no image")
    out = tmp_path / "run"
    result = lftr(*embed, "--data", album, "--prompt", "What?", "--out", out)
    assert result.exit_code == LEFT_OUT
    assert "left out: 5.png" in result.stderr
    assert "a run of answers" in fails("report", out)
    assert "its settings differ" in fails(
        "embeddings", "--tokens", 9, "--data", album, "--prompt", "What?", "--out", out
    )
