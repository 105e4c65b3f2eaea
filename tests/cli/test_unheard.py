"""An option that would go unheard is refused, by every verb in the same words."""

from __future__ import annotations

import json

import pytest

from lftr import bundled
from lftr.cli.options import refuse
from lftr.values.errors import ArgumentError


@pytest.fixture
def lines(tmp_path, picture):
    path = tmp_path / "mine.jsonl"
    row = {"image": str(picture), "question": "What?", "answers": ["red"]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("bench", "--frames", 3), "without --video"),
        (("bench", "--suite", "clips", "--fps", 1.0), "beside --suite"),
        (("bench", "--suite", "clips", "--image", "a.png"), "beside --suite"),
        (("bench", "--suite", "clips", "--question", "What?"), "beside --suite"),
        (("eval", "--n", 1, "--frames", 3), "without questions about clips in files"),
        (("eval", "--suite", "clips", "--n", 1, "--fps", 2.0), "without questions about clips"),
        (("embeddings", "--n", 1, "--frames", 3), "without questions about clips"),
        (("tune", "--n", 100, "--frames", 3), "without questions about clips in files"),
        (("tune", "--option", "diversity=0"), "without --method"),
        (("demo", "--json", "--markdown"), "beside --json"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_option_is_named(fails, words, where):
    name, value = words[-2:] if words[-1] != "--markdown" else ("--markdown", True)
    assert f"{name} = '{value}'; allowed: no such option {where}" in fails(*words)


@pytest.mark.parametrize("words", [("--split", "train"), ("--seed", 1), ("--frames", 3)])
@pytest.mark.parametrize("verb", ["eval", "embeddings"])
def test_a_file_has_no_splits_and_pictures_no_frames(fails, lines, words, verb):
    assert f"{words[0]} = '{words[1]}'" in fails(verb, "--data", lines, *words)


def test_a_suite_and_a_file_have_questions(fails, lines):
    said = "prompt = 'What?'; allowed: a folder of images; "
    assert f"{said}a suite has" in fails("tune", "--prompt", "What?")
    assert f"{said}this file has" in fails("tune", lines, "--prompt", "What?")


def test_a_text_tower_that_nothing_asks(fails, picture):
    words = ("run", picture, "What?", "--text-tower", "nowhere/clip")
    assert "no such option without --model" in fails(*words, "--method", "trim")
    model = ("--model", bundled.path())
    assert "that use no text in CLIP's space" in fails(*words, *model, "--method", "divprune")
    assert "--text-tower = 'nowhere/clip'; allowed: a Hugging Face id or folder" in fails(
        *words, *model, "--method", "trim"
    )


def test_what_was_not_given_is_not_refused():
    refuse({"--a": None, "--b": False, "--c": []}, "anywhere")
    with pytest.raises(ArgumentError, match=r"--b = '0'; allowed: no such option here"):
        refuse({"--a": None, "--b": 0}, "here")
    with pytest.raises(ArgumentError, match=r"--a = 'x, y'; allowed"):
        refuse({"--a": ["x", "y"]}, "here")
