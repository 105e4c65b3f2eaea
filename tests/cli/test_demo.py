"""`lftr demo`, end to end, on a few questions."""

from __future__ import annotations

import math

import pytest
from PIL import Image

import lftr as library
from lftr import bundled, suites
from lftr.cli.terminal import Table
from lftr.hosts.transformers.encoder.encode_cache import encode_once
from lftr.lab.evaluation import compare, settings_of
from lftr.prompting import inputs_of

CONTROLS = ["random", "uniform", "pool", "downsample"]


@pytest.mark.slow
def test_compares_the_full_model_lftr_and_the_controls(reads, tmp_path):
    told = reads("demo", "--questions", 8, "--out", tmp_path / "new")
    rows = told["rows"]
    assert [row["method"] for row in rows] == ["full", *(["lftr", *CONTROLS] * 3)]
    assert [row["tokens"] for row in rows] == [576] + [144] * 5 + [72] * 5 + [36] * 5
    assert told["questions"] == 8
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["agreement"] <= 1
        assert row["prefill_ms"] > 0
        assert math.isfinite(row["encoder_ms"])
    assert rows[0]["agreement"] == 1.0
    assert Image.open(told["picture"]).width > 4 * 288


@pytest.mark.slow
def test_prints_answers_a_table_and_where_the_picture_is(lftr, tmp_path):
    result = lftr("demo", "--questions", 1, "--out", tmp_path)
    assert result.exit_code == 0
    assert "Some of the answers" in result.stdout
    assert str(tmp_path / "lftr-demo.png") in result.stdout
    assert result.stdout.count("downsample") >= 3


def test_a_folder_that_cannot_be_made(fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--out = " in fails("demo", "--out", tmp_path / "file")


def test_no_questions_is_wrong_usage(lftr):
    assert lftr("demo", "--questions", 0).exit_code == 2


def test_unknown_method(fails):
    assert "did you mean 'lftr'" in fails("demo", "--method", "lfrt")


@pytest.mark.slow
def test_answers_are_those_of_each_question_alone():
    """Batching, padding and encoding once change no answer."""
    model, processor = bundled.load()
    examples = suites.load("scenes", split="validation", n=3)
    settings = settings_of([16], "divprune", ["pool"])
    outcomes = compare(model, processor, examples, settings, batch=2)
    for outcome in outcomes:
        for example, answer in zip(examples, outcome.answers, strict=True):
            inputs = inputs_of(processor, [example.image], example.question)
            with library.reduce(model, outcome.setting.method, keep=outcome.setting.keep):
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)
            new = ids[:, inputs["input_ids"].shape[1] :]
            assert processor.batch_decode(new, skip_special_tokens=True)[0].strip() == answer


def test_images_are_encoded_once_and_methods_see_only_what_they_ask_for():
    model, processor = bundled.load()
    inputs = inputs_of(processor, [suites.load(n=1)[0].image], "What?")
    calls, seen = [], {}
    tower = model.base_model.vision_tower
    handle = tower.register_forward_hook(lambda *_: calls.append(1))

    class Watching(library.Method):
        needs: tuple = ()

        @property
        def evidence(self):
            return self.needs

        def choose(self, tokens, keep):
            seen[self.needs] = {
                name
                for name in ("encoder_features", "cls_attention", "keys")
                if getattr(tokens, name) is not None
            }
            return library.Selection.top(tokens.features.norm(dim=-1), keep)

    def look(*needs):
        method = Watching()
        method.needs = tuple((need,) for need in needs)
        with library.reduce(model, method, tokens=9):
            return library.prepare(model, **inputs)["mm_encoder_outputs"]["image"].pooler_output

    with encode_once(model):
        first = look("cls_attention", "encoder_features")
        again = look()
        look("encoder_features")
        assert len(calls) == 1
        look("keys")  # more than was gathered: once more
        look("keys", "cls_attention")
        assert len(calls) == 2
    look()
    assert len(calls) == 3
    handle.remove()
    assert all(fields == {need[0] for need in needs} for needs, fields in seen.items())
    assert (first[0] == again[0]).all()


def test_markdown_has_a_row_for_each_row():
    table = Table(["name", "value>"], caption="Said below.")
    table.add("a", "1")
    assert table.markdown() == "| name | value |\n| --- | ---: |\n| a | 1 |\n\nSaid below."


@pytest.mark.slow
def test_a_method_inside_the_model_is_shown_at_budgets_that_it_can_meet(lftr, tmp_path):
    result = lftr("demo", "--method", "fastv", "--questions", 1, "--out", tmp_path)
    assert result.exit_code == 0
    assert "note: fastv is shown at 1.5x, 2x, 3x, not at more: keep = 0.25" in result.stderr
    assert "fastv 3x" in result.stdout


@pytest.mark.slow
def test_methods_without_a_budget_are_refused(fails, tmp_path):
    words = ("demo", "--questions", 1, "--out", tmp_path)
    assert "one that can be given a budget" in fails(*words, "--method", "bypass")
    assert "--method = 'fastv'" in fails("web", "--method", "fastv")
