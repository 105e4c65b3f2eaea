"""Colours, marks, and the front, on rows made up for it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lftr.lab.reporting.front import draw_front, front_of
from lftr.lab.reporting.marks import marks_of
from lftr.lab.reporting.panels import draw_panels
from lftr.lab.reporting.setting_rows import SettingRow, Spread
from lftr.lab.reporting.svg import inline_svg
from lftr.lab.reporting.theme import DARK, HUES, LIGHT, STEPS, contrast, heat, heat_step
from lftr.lab.scoring.intervals import Interval

ROW = SettingRow(
    label="one 1/4",
    full=False,
    series="one",
    control=False,
    questions=10,
    tokens=144.0,
    score=0.5,
    relative=Interval(0.5, 0.4, 0.6),
    agreement=Interval(0.5, 0.4, 0.6),
    categories={"count": 0.5},
    encoder_ms=1.0,
    method_ms=1.0,
    latency=Spread(10.0, 9.0, 11.0),
    merging=False,
    hallucination={},
)
FULL = replace(ROW, label="full", full=True, series="full", tokens=576.0, score=1.0)


def at(label, ms, score):
    return replace(ROW, label=label, series=label, latency=Spread(ms, ms, ms), score=score)


def test_the_front_is_what_nothing_beats_in_both():
    rows = [at("a", 5, 0.5), at("b", 4, 0.6), at("c", 9, 0.9), at("d", 9, 0.8), at("e", 12, 0.9)]
    assert [row.label for row in front_of(rows)] == ["b", "c"]
    assert [row.label for row in front_of([*rows, at("f", 4, 0.7)])] == ["f", "c"]


def test_forty_methods_and_the_controls_are_told_apart():
    rows = [replace(ROW, series=f"method {i}") for i in range(40)]
    rows += [replace(ROW, series=f"control {i}", control=True) for i in range(4)]
    marks = marks_of(rows)
    assert len(set(marks.values())) == 44
    controls = {marks[f"control {i}"].colour for i in range(4)}
    assert controls == {LIGHT["control"]}
    assert controls.isdisjoint(marks[f"method {i}"].colour for i in range(40))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(theme):
    for text in ("ink", "quiet"):
        for ground in ("ground", "raised"):
            assert contrast(theme[text], theme[ground]) >= 4.5
    for mark in (*HUES, "control"):
        assert contrast(theme[mark], theme["ground"]) >= 3
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_the_themes_have_the_same_roles_and_no_colour_has_two():
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_heat_map_runs_one_way_and_stays_legible(theme):
    steps = heat(theme)
    assert len(steps) == STEPS + 1
    assert steps[0][0] == (LIGHT if theme == "light" else DARK)["ground"]
    lightness = [contrast(ground, "#000000") for ground, _ in steps]
    assert lightness == sorted(lightness, reverse=theme == "light")
    assert len(set(lightness)) == len(lightness)
    assert all(contrast(*pair) >= 4.5 for pair in steps)


@pytest.mark.parametrize(
    ("relative", "step"), [(1.2, 0), (1.0, 0), (0.75, 2), (0.5, 5), (0.0, 10)], ids=str
)
def test_a_loss_has_its_step(relative, step):
    assert heat_step(relative) == step


@pytest.mark.parametrize("width", [7.2, 3.6], ids=["wide", "narrow"])
def test_names_of_the_front_do_not_overlap(width):
    rows = [at(f"method {i}", 5 + i * 0.01, 0.5 + i * 0.001) for i in range(6)]
    figure = draw_front(rows, width)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [row.label for row in front_of(rows)]
    assert len(axes.texts) == 6
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_one_budget_and_many_methods_fit_the_panels():
    rows = [FULL] + [replace(ROW, series=f"method {i}", label=f"method {i} 1/4") for i in range(9)]
    figure = draw_panels(rows, 7.2)
    assert sum(panel.get_visible() for panel in figure.axes) == 9
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()]
    assert titles == [f"method {i}" for i in range(9)]
    figure.draw_without_rendering()
    labelled = [any(label.get_visible() for label in p.get_xticklabels()) for p in figure.axes]
    assert labelled[:9] == [False] * 5 + [True] * 4  # the lowest of each column


def test_svg_takes_its_colours_from_the_page():
    text = inline_svg(draw_panels([FULL, ROW], 3.6), "panels")
    assert text.startswith("<svg")
    assert "var(--ink)" in text
    assert "var(--blue)" in text
    assert re.findall(r"#[0-9a-f]{6}\b", text) == []
