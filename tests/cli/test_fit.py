"""`lftr fit`: from questions to a file that a method takes."""

from __future__ import annotations

import pytest
from PIL import Image

import lftr as library
from lftr.lab.cli.run_folder import LEFT_OUT

FEW = ("--n", 2, "--steps", 2, "--max-new-tokens", 1, "--batch", 2)


@pytest.fixture
def album(tmp_path):
    """Two images and a prompt."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (200, 90 * number, 40)).save(folder / f"{number}.png")
    (folder / "prompts.txt").write_text("What colour is the square?\n")
    return folder


def test_writes_a_part_that_run_takes(reads, picture, album, tmp_path):
    out = tmp_path / "part.safetensors"
    told = reads("fit", album, *FEW, "--keep", "1/32", "--out", out)
    assert told["file"] == str(out)
    assert told["method"] == "scorer"
    assert len(told["losses"]) == 2
    assert told["problems"] == []
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [out.name]
    words = ("--method", "scorer", "--option", f"fitted={out}", "--keep", "1/32")
    run = reads("run", picture, "What?", *words, "--max-new-tokens", 1)
    assert run["report"]["kept"] == 18


@pytest.mark.slow
def test_gates_by_the_same_verb(lftr, album, tmp_path):
    (album / "broken.png").write_text("no image")
    out = tmp_path / "gates"
    result = lftr("fit", album, *FEW, "--method", "dyvte", "--out", out)
    assert result.exit_code == LEFT_OUT
    assert f"--method dyvte --option gates={out}" in " ".join(result.stdout.split())
    assert library.get_method("dyvte", gates=str(out)).gates == str(out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "divprune"), "method = 'divprune'; allowed: one of dyvte, region-router"),
        (("--method", "nothing"), "nothing"),
        (("--keep", "1.5"), "1.5"),
        (("--learning-rate", "-1"), "learning_rate = -1.0"),
        (("--method", "dyvte", "--keep", "1/8"), "with --method dyvte"),
        (("--option", "leftovers=melt"), "leftovers = 'melt'"),
    ],
    ids=str,
)
def test_refused(fails, album, tmp_path, words, said):
    assert said in fails("fit", album, *FEW, "--out", tmp_path / "part", *words)
