"""Figures made of configuration and answers alone."""

from __future__ import annotations

import pytest

from lftr.lab.evaluation import summarise
from lftr.lab.reporting.setting_rows import setting_rows
from lftr.lab.reporting.summary import tiles_of

from .test_runs import MS, line, run_of

CONFIG = {
    "settings": [
        {"label": "full", "method": "full", "keep": "1"},
        {"label": "lftr 1/4", "method": "lftr", "keep": "1/4"},
    ],
    "data": [{"name": "t", "questions": 4}, {"name": "u", "questions": 2}],
}


def lines():
    scores = {"full": [1, 1, 0, 1, 1, 0], "lftr 1/4": [1, 0, 0, 1, 0, 0]}
    found = []
    for label, values in scores.items():
        for number, score in enumerate(values):
            changes = {"score": float(score), "answer": "yes" if score else "no"}
            changes |= {"task": "tu"[number > 3], "category": "ab"[number % 2]}
            changes |= {"kept": 9 if label == "full" else 3}
            changes |= {"answers": ["yes"], "ms": MS | {"total": float(number)}}
            found.append(line(str(number), label, **changes))
    return found


def test_every_figure():
    told = summarise(CONFIG, lines())
    assert (told["questions"], told["complete"]) == (6, True)
    full, own = told["settings"]
    assert (full["label"], full["tokens"], full["relative"], full["agreement"]) == ("full", 9, 1, 1)
    assert (own["method"], own["keep"], own["tokens"], own["questions"]) == ("lftr", "1/4", 3, 6)
    assert own["score"] == pytest.approx((2 / 4 + 0) / 2)
    assert own["relative"] == pytest.approx((2 / 3 + 0) / 2)
    assert own["agreement"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    for name in ("score", "relative", "agreement"):
        assert own[f"{name}_low"] <= own[name] <= own[f"{name}_high"]
    assert own["tasks"]["t"] == {"score": 0.5, "relative": pytest.approx(2 / 3), "questions": 4}
    assert own["categories"]["b"] == {"score": 1 / 3, "relative": 0.5, "questions": 3}
    assert own["ms"]["total"] == {"median": 2.5, "low": 1.25, "high": 3.75}
    assert own["hallucination"]["recall"] == pytest.approx(2 / 6)
    assert own["hallucination"]["questions"] == 6


@pytest.mark.parametrize(("count", "share"), [(2, 0.158), (35, 0.9), (36, 0.9)])
def test_how_much_so_many_images_can_show(count, share):
    """Clopper and Pearson's lower end, were all answers right; images count, not questions."""
    config = CONFIG | {"data": [{"name": "t", "questions": 2 * count}]}
    labels = [setting["label"] for setting in CONFIG["settings"]]
    found = [
        line(f"{n} {ask}", label, image=f"{n}.png")
        for label in labels
        for n in range(count)
        for ask in range(2)
    ]
    told = summarise(config, found)["can_show"]
    assert told == pytest.approx(share, abs=0.003)
    assert (told < 0.9) == (count < 36)


def test_the_order_of_the_answers_does_not_matter():
    assert summarise(CONFIG, lines()[::-1]) == summarise(CONFIG, lines())


def test_questions_about_one_image_count_as_one():
    alone = summarise(CONFIG, lines())["settings"][1]
    shared = summarise(CONFIG, [one | {"image": "a.png"} for one in lines()])["settings"][1]
    assert shared["score"] == alone["score"]
    assert shared["score_high"] - shared["score_low"] > alone["score_high"] - alone["score_low"]


def test_the_full_model_is_itself_for_certain():
    full = summarise(CONFIG, lines())["settings"][0]
    for name in ("relative", "agreement"):
        assert (full[f"{name}_low"], full[f"{name}_high"]) == (1, 1)


@pytest.mark.parametrize(("count", "figure"), [(20, "none"), (200, "3")])
def test_a_few_perfect_answers_do_not_show_that_95_per_cent_are_kept(tmp_path, count, figure):
    settings = ("full", 9), ("lftr 1/4", 3)
    found = [line(str(n), label, kept=kept) for label, kept in settings for n in range(count)]
    rows = setting_rows(run_of(tmp_path, CONFIG, found))
    (fewest,) = [one for one in tiles_of(rows, 9) if one.subject.startswith("Fewest")]
    assert fewest.figure == figure


def test_questions_that_some_setting_has_not_answered_do_not_count():
    told = summarise(CONFIG, lines()[:-1])
    assert (told["questions"], told["complete"]) == (5, False)
    assert all(row["questions"] == 5 for row in told["settings"])
    assert summarise(CONFIG, lines()[:6])["settings"] == []


def test_without_yes_and_no_there_is_no_hallucination_to_count():
    told = summarise(CONFIG, [one | {"answers": ["red"]} for one in lines()])
    assert told["settings"][0]["hallucination"] is None


def test_a_full_model_that_is_never_right_leaves_no_share():
    told = summarise(CONFIG, [one | {"score": 0.0} for one in lines()])
    own = told["settings"][1]
    assert (own["score"], own["relative"], own["relative_low"]) == (0, None, None)
    assert own["categories"]["a"]["relative"] is None
