"""Folders and files of questions without answers."""

from __future__ import annotations

import pytest

from lftr.lab.tuning.workload import load_workload
from lftr.values.errors import ArgumentError


def test_a_folder_asks_every_image_every_prompt(folder):
    (folder / "prompts.txt").write_text("What colour?\n\n How many? \n")
    workload = load_workload(folder)
    assert [[item.question for item in group] for group in workload.groups] == [
        ["What colour?", "How many?"]
    ] * 3
    assert [group[0].id for group in workload.groups] == ["cut.png:1", "noise.png:1", "red.png:1"]
    assert [problem.where for problem in workload.problems] == ["text.png"]
    assert workload.groups[2][0].images[0].getpixel((0, 0)) == (200, 40, 40)


def test_prompts_by_hand_go_before_the_file(folder):
    (folder / "prompts.txt").write_text("What colour?\n")
    workload = load_workload(folder, ["What is it?"])
    assert {item.question for group in workload.groups for item in group} == {"What is it?"}


def test_a_file_needs_no_answers_and_its_images_are_grouped(jsonl):
    path = jsonl(
        {"image": "red.png", "question": "What colour?"},
        {"image": "noise.png", "question": "What is it?"},
        "{broken",
        {"image": "red.png", "question": "How many?", "answers": ["1"]},
        {"image": "red.png"},
    )
    workload = load_workload(path)
    assert [len(group) for group in workload.groups] == [2, 1]
    assert [problem.where for problem in workload.problems] == [
        "questions.jsonl line 3",
        "questions.jsonl line 5",
    ]


def test_what_is_not_read_is_not_looked_at(jsonl):
    """Answers, which a search does not need; but a choice of words is the question's."""
    line = {"image": "red.png", "question": "What colour?"}
    workload = load_workload(jsonl(line | {"anwser": 3}, line | {"answer": "", "answers": ""}))
    assert not workload.problems
    (problem,) = load_workload(jsonl(line, line | {"chioces": ["red"]})).problems
    assert "did you mean 'choices'" in problem.reason


def test_a_suite_may_be_tried():
    assert len(load_workload("scenes", n=5, seed=3).groups) == 5


def test_what_cannot_be_asked(folder, jsonl, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    cases = [
        (folder, (), "prompts.txt"),
        (empty, ["What?"], "at least one image and question"),
        (empty / "absent", (), "a folder of images or clips, a JSONL file, or a suite: scenes"),
        (jsonl("{}", name="empty.jsonl"), (), "empty.jsonl line 1"),
        (jsonl({"image": "red.png", "question": "?"}), ["What?"], "this file has questions"),
        ("scenes", ["What?"], "a suite has questions"),
    ]
    for source, prompts, said in cases:
        with pytest.raises(ArgumentError, match=said):
            load_workload(source, prompts)
    (folder / "prompts.txt").write_text("\n\n")
    with pytest.raises(ArgumentError, match=r"has none"):
        load_workload(folder)
