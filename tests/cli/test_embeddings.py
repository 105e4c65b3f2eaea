"""`lftr eval --embeddings`: an index of one's own pictures, reduced."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lftr.cli.left_out import LEFT_OUT

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
    words = ["eval", "--embeddings", "--data", album, "--keep", "1/16", "--k", 2, "--batch", 2]
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


def test_it_goes_on_where_it_was_killed(reads, album, tmp_path):
    words = ["eval", "--embeddings", "--data", album, "--keep", "1/16", "--batch", 2]
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


def test_what_cannot_be_embedded(lftr, fails, album, tmp_path):
    embed = ["eval", "--embeddings", "--keep", 8]
    assert "--data = " in fails(*embed, "--data", album, "--data", "scenes")
    assert "--report = " in fails(*embed, "--data", album, "--report", tmp_path / "x.html")
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
        "eval", "--embeddings", "--keep", 9, "--data", album, "--prompt", "What?", "--out", out
    )
