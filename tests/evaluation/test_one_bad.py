"""One question that cannot be answered is left out by name; the rest goes on, also on resuming."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

import lftr
from lftr.lab.asking.journal import Journal
from lftr.lab.evaluation import (
    Run,
    configuration,
    evaluate,
    load_data,
    settings_grid,
    try_settings,
)
from lftr.lab.evaluation.index import embed_run, embedded, index_configuration, index_metrics
from lftr.lab.tuning.answers import ANSWERS, SearchAnswer
from lftr.lab.tuning.batches import BatchRunner
from lftr.lab.tuning.plan import Plan
from lftr.lab.tuning.search import Goal
from lftr.lab.tuning.tune import tune
from lftr.lab.tuning.workload import load_workload
from lftr.prompting import chat_inputs, inputs_of
from lftr.values.errors import ArgumentError, LftrError, TooLittleMemoryError

ASK = {"image": "red.png", "answers": ["no"]}
HOLDS_PLACEHOLDER = "<image>\nIs there a red digit?"
SETTINGS = settings_grid([lftr.get_method("uniform")], [1 / 16], controls=[])


class Choking:
    """The bundled processor; it fails at one word, and at another makes the model fail."""

    def __init__(self, processor, error: type[Exception] = KeyError) -> None:
        self._processor, self._error = processor, error

    def apply_chat_template(self, conversations, **options):
        asked = [json.dumps(conversation, default=str) for conversation in conversations]
        if any("choke" in one for one in asked):
            raise self._error("choke")
        inputs = self._processor.apply_chat_template(conversations, **options)
        for row, one in enumerate(asked):
            if "stumble" in one:
                inputs["input_ids"][row, -1] = 10**6  # no such token
        return inputs

    def __getattr__(self, name):
        return getattr(self._processor, name)


@pytest.fixture
def choking(subject):
    return dataclasses.replace(subject, processor=Choking(subject.processor))


def lines_of(*questions: str):
    return [ASK | {"question": question} for question in questions]


def run_of(path, subject, data, batch=3):
    config = configuration(subject, [data], SETTINGS, metric="exact")
    with Run.open(path, config) as run:
        problems = evaluate(run, subject, data.items, SETTINGS, metric="exact", batch=batch)
        return run, problems


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (HOLDS_PLACEHOLDER, "question = "),
        ("choke on this", "KeyError"),
        ("stumble here", "IndexError"),
    ],
)
def test_eval_leaves_one_question_out_and_goes_on(tmp_path, choking, jsonl, bad, said):
    own = ASK | {"question": bad, "id": "mine"}
    rows = [*lines_of("Is it red?", "Is it blue?"), own, *lines_of("Is there a digit?")]
    data = load_data(str(jsonl(*rows)))
    for _ in range(2):  # the second time it goes on where there is nothing left but the bad one
        run, problems = run_of(tmp_path / "run", choking, data)
        assert [problem.where for problem in problems] == ["mine (questions.jsonl line 3)"]
        assert said in problems[0].reason
        assert len(run.predictions) == len(run.done()) == 3 * 2
        assert {line["id"] for line in run.predictions} == {f"questions:{n}" for n in (1, 2, 4)}
    assert run.metrics["questions"] == 3
    assert not run.metrics["complete"]
    alone = load_data(str(jsonl(*lines_of("Is it red?", "Is it blue?"), name="two.jsonl")))
    other, _ = run_of(tmp_path / "two", choking, alone)
    answers = {(line["question"], line["setting"]): line["answer"] for line in other.predictions}
    here = {(line["question"], line["setting"]): line["answer"] for line in run.predictions}
    assert answers == {key: here[key] for key in answers}  # alone or in a batch


def test_the_first_question_may_be_the_bad_one(choking, jsonl):
    data = load_data(str(jsonl(*lines_of(HOLDS_PLACEHOLDER, "choke", "Is it red?"))))
    assert try_settings(choking, data.items, SETTINGS) == {}
    none = load_data(str(jsonl(*lines_of(HOLDS_PLACEHOLDER, "choke"))))
    with pytest.raises(ArgumentError, match="a text without '<image>'"):
        try_settings(choking, none.items, SETTINGS)


def test_too_little_memory_is_nobodys_fault(tmp_path, subject, jsonl):
    small = dataclasses.replace(subject, processor=Choking(subject.processor, TooLittleMemoryError))
    data = load_data(str(jsonl(*lines_of("Is it red?", "choke"))))
    with pytest.raises(TooLittleMemoryError):
        run_of(tmp_path / "run", small, data)


def test_embeddings_go_on_without_the_bad_prompt(tmp_path, choking, jsonl):
    rows = lines_of("Is it red?", "choke on this", "Is it blue?", "Is there a digit?")
    workload = load_workload(jsonl(*rows))
    items = workload.items
    config = index_configuration(choking, workload.name, items, SETTINGS, 2)
    for _ in range(2):
        journal = Journal.open(tmp_path / "run", "batches.jsonl", config)
        problems = embed_run(journal, choking, items, SETTINGS, batch=2)
        assert [problem.where for problem in problems] == ["questions:2"]
        assert "KeyError" in problems[0].reason
        assert embedded(journal) == 3
        assert len(journal.lines) == 2  # nothing is embedded anew
        assert index_metrics(journal, items, SETTINGS, 2)["prompts"] == 3
        journal.close()


def search_in(folder, subject, workload):
    plan = Plan([lftr.get_method("uniform")], [575], batch=3)  # all but one token
    return tune(subject, workload, Goal(0.5, 0.5), plan, run=folder)


@pytest.mark.slow
def test_tune_goes_on_without_the_bad_question(tmp_path, choking, folder):
    for number in range(12):
        Image.new("RGB", (64, 64), (200, 20 * number, 40)).save(folder / f"{number}.png")
    lines = [
        {"image": f"{number}.png", "question": "choke" if number in (3, 7) else "Is it red?"}
        for number in range(12)
    ]
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    first = search_in(tmp_path / "run", choking, load_workload(path))
    written = (tmp_path / "run" / ANSWERS).read_text()
    assert {problem.where for problem in first.problems} <= {"mine:4", "mine:8"}
    assert first.problems
    assert all("KeyError" in problem.reason for problem in first.problems)
    again = search_in(tmp_path / "run", choking, load_workload(path))
    assert (tmp_path / "run" / ANSWERS).read_text() == written
    assert [p.verdict for p in again.proofs] == [p.verdict for p in first.proofs]
    assert again.problems == first.problems


def test_what_fails_under_a_reduction_alone_does_not_agree(subject, folder):
    """To leave it out would count what cannot be answered in favour of the reduction."""
    answers = {
        "full": SearchAnswer("", 10, 10.0, True),
        "uniform 1/16": SearchAnswer("", 0, 0.0, True, "no room"),
    }
    runner = BatchRunner(subject, 3, lambda _: None)
    runner.answers.to = lambda ids, setting, ask: [answers[setting.label]] * len(ids)
    (red,) = (one for one in load_workload(folder, ["Red?"]).groups if "red" in one[0].id)
    for _, batch in runner.batches([red]):
        shares, _ = batch.agreements(SETTINGS[1])
        assert shares == [0.0]
    assert list(map(str, runner.problems)) == ["red.png:1, uniform 1/16: no room"]


def test_inputs_say_in_one_sentence_what_a_processor_raised(choking):
    image = Image.new("RGB", (64, 64))
    for question, said in (
        ("choke", r"question = 'choke'; allowed: what Choking takes .*KeyError"),
        (HOLDS_PLACEHOLDER, "a text without '<image>'"),
    ):
        with pytest.raises(LftrError, match=said):
            inputs_of(choking.processor, [image], question)
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        with pytest.raises(LftrError, match=said):
            chat_inputs(choking.processor, [[{"role": "user", "content": content}]])
    assert torch.is_tensor(inputs_of(choking.processor, [image], "What?")["input_ids"])
