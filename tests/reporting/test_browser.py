"""The page in headless Chromium: everything is drawn, on a desk and a phone, by day and night."""

from __future__ import annotations

import pytest

from lftr.drawing import ACCENT
from lftr.lab.reporting.theme import DARK, LIGHT, contrast

FIGURES = ("latency", "tokens")
SCREENS = [
    pytest.param(1200, False, id="desk-light"),
    pytest.param(1200, True, id="desk-dark"),
    pytest.param(390, False, id="phone-light"),
    pytest.param(390, True, id="phone-dark"),
]

SHOWN_FIGURES = """
const seen = element => element.getBoundingClientRect().width > 0;
return [...document.querySelectorAll('figure')].map(figure => {
  const shown = [...figure.querySelectorAll('.plot svg')].filter(seen);
  const inside = selector => shown.flatMap(svg => [...svg.querySelectorAll(selector)]);
  return {
    name: figure.getAttribute('aria-labelledby'),
    sizes: shown.map(svg => svg.getBoundingClientRect()).map(box => [box.width, box.height]),
    marks: inside('path, use').filter(seen).length,
    texts: inside('text').map(text => text.textContent),
    inks: inside('text').map(text => getComputedStyle(text).fill),
  };
});
"""

BROKEN_IMAGES = """
return Promise.all([...document.querySelectorAll('image')].map(async one => {
  const image = new Image();
  image.src = one.getAttribute('href');
  try { await image.decode(); } catch { return one.id; }
  return image.naturalWidth > 0 ? null : one.id;
})).then(found => found.filter(Boolean));
"""


def rgb(colour):
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_every_figure_and_image_is_drawn_without_a_complaint(browser, page, width, dark):
    browser.show(page.as_uri(), width, dark)
    figures = browser.run(SHOWN_FIGURES)
    assert [figure["name"] for figure in figures] == [f"{name}-caption" for name in FIGURES]
    for figure in figures:
        ((wide, high),) = figure["sizes"]  # one of the two variants, never both
        assert 300 < wide <= width
        assert high > 150
        assert figure["marks"] > 10
    assert {"lftr", "random", "full"} <= set(figures[0]["texts"])
    assert {"lftr", "random (control)", "36", "144"} <= set(figures[1]["texts"])
    assert browser.run("return document.querySelectorAll('image').length") > 3
    assert browser.run(BROKEN_IMAGES) == []
    assert browser.errors() == []
    assert browser.hosts() == set()


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_nothing_is_wider_than_the_screen(browser, page, width, dark):
    browser.show(page.as_uri(), width, dark)
    wide, room = browser.run(
        "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
    )
    assert wide == room
    assert browser.run("return innerWidth") == width  # a phone zooms out where it is not


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_colours_follow_the_scheme_in_the_plots_too(browser, page, dark):
    theme = DARK if dark else LIGHT
    browser.show(page.as_uri(), dark=dark)
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == rgb(theme["ground"])
    inks = {ink for figure in browser.run(SHOWN_FIGURES) for ink in figure["inks"]}
    assert inks == {rgb(theme["ink"]), rgb(theme["quiet"])}
    plot = browser.picture("figure .wide svg")
    common = max(plot.getcolors(plot.width * plot.height))[1]
    assert rgb("#" + "".join(f"{part:02x}" for part in common)) == rgb(theme["ground"])
    cells = browser.run(
        "return [...document.querySelectorAll('table.heat td')].map(cell => {"
        "const style = getComputedStyle(cell); return [style.color, style.backgroundColor] })"
    )
    assert len(cells) == 4 * 8  # settings by categories
    for pair in cells:
        one, other = ("#" + "".join(f"{int(p):02x}" for p in c[4:-1].split(",")) for c in pair)
        assert contrast(one, other) >= 4.5


def test_kept_tokens_are_bright_and_the_others_dim(browser, page):
    browser.show(page.as_uri())
    card = ".card:not([hidden]) "
    plain = browser.picture(card + ".pictures svg:first-child", 4)
    kept = browser.picture(card + ".pictures svg:last-child", 4)
    cells = browser.run(f"return document.querySelector('{card}.edge').getAttribute('d')")
    places = {tuple(map(int, cell.split("h")[0].split())) for cell in cells.split("M")[1:]}
    assert len(places) == 36  # the tightest setting of LFTR is shown first
    side = plain.width / 24
    for row in range(24):
        for column in range(24):
            at = (round((column + 0.5) * side), round((row + 0.5) * side))
            before, after = sum(plain.getpixel(at)), sum(kept.getpixel(at))
            if (column, row) in places:
                assert abs(before - after) <= 60  # blurred a little where it is scaled
            else:
                assert after <= 0.3 * before + 60
    accents = sum(
        count
        for count, colour in kept.getcolors(kept.width * kept.height)
        if max(abs(a - b) for a, b in zip(colour, ACCENT, strict=True)) < 90
    )
    assert accents > 36 * 4


def test_the_table_sorts(browser, page):
    browser.show(page.as_uri())
    figures = (
        "return [...document.querySelectorAll('table.sortable tbody tr')]"
        ".map(row => Number(row.cells[arguments[0]].dataset.value))"
    )
    own_order = browser.run(figures, 0)
    click = (
        "const head = document.querySelector('table.sortable thead').rows[0].cells[arguments[0]];"
        "head.querySelector('button').click()"
    )
    for column in (0, 1, 2, 3, 5, 6, 7):  # the fifth holds no figures, it draws those before it
        browser.run(click, column)
        found = browser.run(figures, column)
        assert found == sorted(found, reverse=column > 0)
    browser.run(click, 0)
    assert browser.run(figures, 0) == own_order


def test_the_gallery_filters(browser, page):
    browser.show(page.as_uri())
    shown = (
        "return [...document.querySelectorAll('.card:not([hidden])')]"
        ".map(card => [card.dataset.setting, card.dataset.kind])"
    )
    first = browser.run(shown)
    assert {setting for setting, _ in first} == {"lftr 1/16"}
    browser.run(
        "const form = document.querySelector('.filter');"
        "form.elements.setting.value = 'random 1/16';"
        "form.elements.kind.value = 'differs';"
        "form.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    chosen = browser.run(shown)
    assert chosen
    assert {tuple(one) for one in chosen} == {("random 1/16", "differs")}
    told = browser.run("return document.querySelector('.filter output').value")
    assert told == f"{len(chosen)} shown"
