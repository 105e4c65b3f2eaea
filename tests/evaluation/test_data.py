"""Questions from suites and JSONL files; what cannot be asked is named by its line."""

from __future__ import annotations

import pytest
from PIL import Image

import lftr
from lftr import suites
from lftr.lab.asking.settings import is_control
from lftr.lab.evaluation import load_data, settings_grid, settings_of
from lftr.lab.tuning.plan import Plan
from lftr.methods import get_method
from lftr.values.budget import spell
from lftr.values.errors import ArgumentError

RED = {"image": "red.png", "question": "What colour?", "answers": ["red"]}


def test_a_suite(tmp_path):
    data = load_data("scenes", split="validation", n=3, seed=1)
    examples = suites.load("scenes", "validation", 3, 1)
    assert [item.id for item in data.items] == [example.scene for example in examples]
    assert data.items[1].answers == (examples[1].answer,)
    assert data.items[2].images[0].tobytes() == examples[2].image.tobytes()
    assert data.describe()["questions"] == 3


def test_a_file(jsonl, folder):
    path = jsonl(
        RED,
        "",
        {"image": ["red.png", str(folder / "noise.png")], "question": "Same?", "answers": "no"}
        | {"id": 7, "category": "pairs", "choices": ["yes", "no"]},
    )
    data = load_data(str(path))
    first, second = data.items
    assert not data.problems
    assert (first.id, first.task, first.category) == ("questions:1", "questions.jsonl", "")
    assert first.image == str(folder / "red.png")
    assert (second.id, second.category, second.choices) == ("7", "pairs", ("yes", "no"))
    assert second.answers == ("no",)
    assert [image.mode for image in second.images] == ["RGB", "RGB"]
    assert len(load_data(str(path), n=1).items) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "red.png", ', "Expecting property name"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ({"question": "?", "answers": ["a"]}, "no 'image', 'images', 'video' or 'videos'"),
        ({"image": "red.png", "answers": ["a"]}, "no 'question'"),
        ({"image": "red.png", "question": "?"}, "no 'answers' or 'answer'"),
        (RED | {"answers": []}, "answers = []; allowed: one text or more"),
        (RED | {"answers": [3]}, "answers = 3; allowed: a text"),
        (RED | {"question": None}, "question = None; allowed: a text"),
        (RED | {"question": ["a", "b"]}, "question = ['a', 'b']; allowed: a text"),
        (RED | {"category": 3}, "category = 3; allowed: a text"),
        (RED | {"id": [1]}, "id = [1]; allowed: a text or a whole number"),
        (RED | {"image": "absent.png"}, "absent.png'; allowed: a file that exists"),
        (RED | {"image": "text.png"}, "text.png'; allowed: an image file"),
        (RED | {"image": "."}, "allowed: an image file"),
        (RED | {"answer": "red"}, "'answers' and 'answer'; allowed: one of them"),
        (RED | {"images": ["red.png"]}, "'image' and 'images'; allowed: one of them"),
        (RED | {"id": "questions:1"}, "id 'questions:1' is that of line 1 already"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "line",
)
def test_a_bad_line_is_named_and_the_rest_goes_on(jsonl, line, said):
    data = load_data(str(jsonl(RED, line, RED)))
    assert [item.id for item in data.items] == ["questions:1", "questions:3"]
    (problem,) = data.problems
    assert str(problem).startswith("questions.jsonl line 2: ")
    assert said in str(problem)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("quesiton", "question"),
        ("Question", "question"),
        ("question ", "question"),
        ("questions", "question"),
        ("iamge", "image"),
        ("imag", "image"),
        ("Images", "images"),
        ("anwsers", "answers"),
        ("Answer", "answer"),
        ("choice", "choices"),
        ("chioces", "choices"),
        ("catagory", "category"),
        ("vidoe", "video"),
        ("ID", "id"),
    ],
)
def test_a_field_that_was_meant_to_be_another_is_told(jsonl, typo, meant):
    """Also where the line could be asked without it."""
    right = "answers" if meant == "answer" else meant.replace("images", "image")
    line = {name: value for name, value in RED.items() if name != right} | {typo: "red"}
    (problem,) = load_data(str(jsonl(RED, line))).problems
    assert str(problem) == (
        f"questions.jsonl line 2: unknown field {typo!r}; did you mean {meant!r}?"
    )


def test_fields_of_one_s_own_are_welcome(jsonl):
    """Those of public data sets, and whatever is near a field that the line has."""
    own = (
        "meta", "idx", "uid", "qid", "index", "question_id", "question_type", "image_id",
        "image_path", "video_id", "answer_type", "multiple_choice_answer", "options", "label",
        "ocr_tokens", "caption", "conversations", "prompt", "categories", "split", "topic",
        "questions", "image2", "answer_",
    )  # fmt: skip
    data = load_data(str(jsonl(RED | dict.fromkeys(own, 0))))
    assert not data.problems
    assert data.items[0].answers == ("red",)


def test_one_or_several_under_either_name(jsonl):
    one = {"images": "red.png", "question": "What colour?", "answer": "red"}
    several = {"image": ["red.png"], "question": "What colour?", "answers": ["red"]}
    found = load_data(str(jsonl(one, several))).items
    assert found[0].answers == found[1].answers == ("red",)
    assert found[0].image == found[1].image


def test_bytes_that_are_no_text(folder):
    path = folder / "bytes.jsonl"
    path.write_bytes(b'{"image": "\xff"}\n' + b"\xef\xbb\xbf{}\n")
    with pytest.raises(ArgumentError, match=r"bytes.jsonl line 1"):
        load_data(str(path))


def test_nothing_to_ask_is_an_error(jsonl, folder):
    with pytest.raises(ArgumentError, match=r"at least one question$"):
        load_data(str(jsonl("", "")))
    with pytest.raises(ArgumentError, match=r"at least one question; questions.jsonl line 1: not"):
        load_data(str(jsonl("[]")))
    with pytest.raises(ArgumentError, match=r"a JSONL file that exists, or a suite: scenes, clips"):
        load_data(str(folder / "absent.jsonl"))
    with pytest.raises(ArgumentError, match=r"a JSONL file that exists"):
        load_data(str(folder))


def test_the_digest_is_of_what_is_asked(jsonl):
    one = load_data(str(jsonl(RED))).describe()
    assert load_data(str(jsonl(RED))).describe() == one
    for change in ({"category": "x"}, {"answers": ["blue"]}, {"choices": ["red", "blue"]}):
        assert load_data(str(jsonl(RED | change))).describe() != one


def test_the_digest_is_of_what_the_image_shows(jsonl, folder):
    """A run must not go on with answers to the picture that a file held before."""
    path = jsonl(RED)
    one = load_data(str(path)).describe()
    image = folder / RED["image"]
    Image.new("RGB", Image.open(image).size, "blue").save(image)
    assert load_data(str(path)).describe() != one


def test_lines_that_the_metric_cannot_score_are_named(jsonl):
    path = jsonl(RED, RED | {"choices": ["red", "blue"]})
    data = load_data(str(path), metric="choice")
    assert [item.id for item in data.items] == ["questions:2"]
    assert str(data.problems[0]).startswith("questions.jsonl line 1: choices = []")


def test_one_budget_spelt_twice_is_one_and_all_is_not_one_token():
    labels = [one.label for one in settings_grid([get_method("lftr")], [0.25, 0.25 + 1e-12, 1], ())]
    assert labels == ["full", "lftr 1/4", "lftr 1"]
    composed = [get_method("Merge(divprune)"), get_method("Merge(random)")]
    labels = [one.label for one in settings_grid(composed, [0.25], ())]
    assert labels == ["full", "Merge(divprune) 1/4", "Merge(random) 1/4"]
    assert spell(1.0) == "1/1"


class Plain(lftr.Method):
    """A method that is equal to no other."""

    def choose(self, tokens, keep):
        raise NotImplementedError


def test_methods_that_differ_in_options_have_rows_of_their_own():
    texts = ["lftr(diversity=0.2)", "lftr(diversity=0.8)", "lftr", "random(seed=3)"]
    methods = [*map(get_method, texts), get_method("lftr")]
    rows = settings_grid(methods, [0.25], ["random", "pool"])
    assert [one.label for one in rows] == ["full", *(f"{text} 1/4" for text in [*texts, "pool"])]
    assert [one.method for one in rows[1:5]] == methods[:4]
    assert [one.label for one in settings_of([4], texts[0], [])] == ["full", texts[0]]
    (level,) = Plan(methods[:3], [0.25]).levels(methods[:3])
    assert [one.label for one in level] == [f"{text} 1/4" for text in texts[:3]]
    with pytest.raises(ArgumentError, match=r"methods = 'Plain'.*two that differ"):
        settings_grid([Plain(), Plain()], [0.25])


def test_a_control_with_options_is_a_control():
    names = ["random", "random(seed=3)", "random + tome:r=8", "random(seed=3) + tome:r=8"]
    assert [is_control(name) for name in names] == [True, True, False, False]
    assert not any(map(is_control, ["full", "lftr", "Mix(random, uniform)"]))


def test_questions_of_a_suite_that_the_metric_cannot_score_are_counted():
    data = load_data("scenes", n=40, metric="yesno")
    assert 0 < len(data.items) < 40
    assert {item.answers[0] for item in data.items} <= {"yes", "no"}
    (problem,) = data.problems
    left = 40 - len(data.items)
    assert f"scenes: {left} of 40 questions cannot be scored by 'yesno'" in str(problem)


def test_a_metric_that_scores_nothing_of_a_suite_is_refused(monkeypatch):
    def never(metric, answers, choices):
        raise ArgumentError.of("answers", answers, "none")

    monkeypatch.setattr("lftr.lab.asking.data.check_scored", never)
    with pytest.raises(ArgumentError, match=r"one that fits 'scenes': 3 of 3 questions cannot"):
        load_data("scenes", n=3, metric="choice")


def test_a_file_of_which_nothing_can_be_scored_says_how_many_lines(jsonl):
    with pytest.raises(ArgumentError, match=r"line 1: answers = .*\(2 lines cannot be used\)"):
        load_data(str(jsonl(RED, RED)), metric="yesno")
