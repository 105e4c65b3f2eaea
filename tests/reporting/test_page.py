"""What the page says: the run's own figures, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import matplotlib
import pytest
from PIL import Image
from typer.testing import CliRunner

from lftr.app import app
from lftr.lab.evaluation import Run
from lftr.lab.reporting import write_report
from lftr.lab.reporting.gallery import AGREEMENTS, DISAGREEMENTS, cards_of
from lftr.lab.reporting.setting_rows import setting_rows
from lftr.lab.reporting.summary import interval, tiles_of
from lftr.values.errors import ArgumentError


class Reading(HTMLParser):
    """Collects tables as rows of text, addresses, ids and what should have an alternative."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.ids, self.unnamed = [], [], [], []
        self.cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [named[key] for key in ("href", "src", "action") if key in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag == "svg" and not {"aria-label", "aria-hidden"} & set(named):
            self.unnamed.append(named)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append("".join(self.cell).strip())
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)


def rewrite(run, change):
    path = run / "predictions.jsonl"
    found = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in found))


def test_stands_alone(page):
    text = page.read_text()
    read = Reading(text)
    assert {address[:1] for address in read.addresses if not address.startswith("data:")} == {"#"}
    assert "url(http" not in text
    assert "default-src 'none'" in text
    assert len(read.ids) == len(set(read.ids))
    anchors = {address[1:] for address in read.addresses if address.startswith("#")}
    assert anchors <= set(read.ids)
    assert read.unnamed == []


def test_tables_hold_the_metrics(finished, page):
    metrics = json.loads((finished / "metrics.json").read_text())["settings"]
    heat, table, hallucination = Reading(page.read_text()).tables
    for one, row in zip(metrics, table[1:], strict=True):
        control = " ○" if one["method"] == "random" else ""
        assert row[0] == one["label"] + control
        assert row[1:3] == [f"{one['tokens']:.0f}", f"{one['score']:.1%}"]
        assert row[3].startswith(f"{one['relative']:.1%} [{100 * one['relative_low']:.1f}, ")
        assert row[5].startswith(f"{one['agreement']:.1%} [")
        assert row[7] == f"{one['ms']['method']['median']:.1f}"
    for one, row in zip(metrics[1:], heat[1:], strict=True):
        wanted = [f"{part['relative']:.0%}" for part in one["categories"].values()]
        assert row == [one["label"], *wanted]
    assert heat[0][1:] == list(metrics[0]["categories"])
    assert [row[0] for row in hallucination[1:]] == [one["label"] for one in metrics]


def test_times_leave_the_encoder_out(run):
    def slower_encoder(lines):
        for line in lines:
            line["ms"] = {"encode": 1000.0, "method": 1.0, "host": 1.0, "total": 1008.0}
        return lines

    rewrite(run, slower_encoder)
    for row in setting_rows(Run.read(run)):
        assert row.latency.median == 8
        assert row.encoder_ms == 1000


def test_times_are_with_the_encoder_where_a_setting_merges_in_it(run, tmp_path):
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["settings"][1]["encoder"] = {"encoder": "EncoderToMe", "options": {"r": 8}}
    path.write_text(json.dumps(config))
    rewrite(
        run,
        lambda lines: [
            {**line, "ms": {"encode": 100.0, "method": 1.0, "host": 1.0, "total": 108.0}}
            for line in lines
        ],
    )
    assert {row.latency.median for row in setting_rows(Run.read(run))} == {108}
    text = write_report(run, tmp_path / "page.html").read_text()
    assert "none of this saves" not in text
    assert "after the encoder" not in text
    assert "Times: medians for each question, of everything with the encoder" in text


def test_what_a_run_says_cannot_run(run, tmp_path):
    evil = "<script>alert(1)</script>"

    def spoil(lines):
        return [{**line, "answer": evil, "question": evil, "category": evil} for line in lines]

    rewrite(run, spoil)
    text = write_report(run, tmp_path / "page.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text


def test_cards_show_the_worst_first_and_where_tokens_are(finished):
    run = Run.read(finished)
    cards = cards_of(run)
    full = {line["id"]: line for line in run.predictions if line["setting"] == "full"}
    for setting in ("lftr 1/4", "lftr 1/16", "random 1/4", "random 1/16"):
        own = [card for card in cards if card.setting == setting]
        lost = [card for card in own if not card.agrees]
        assert own == lost + [card for card in own if card.agrees]
        assert len(lost) <= DISAGREEMENTS
        assert 0 < len(own) - len(lost) <= AGREEMENTS
        for card in own:
            assert card.full == full[card.reduced["id"]]
            assert card.agrees == (card.full["answer"] == card.reduced["answer"])
            found = re.findall(r"M(\d+) (\d+)h1v1h-1z", card.cells)
            columns, _ = card.shape
            assert [int(y) * columns + int(x) for x, y in found] == card.reduced["index"]
    assert any(not card.agrees for card in cards)


def test_disagreements_that_cost_most_and_that_others_miss_least_come_first(run):
    """LFTR's answers all differ, each a little less wrong; the control's differ in two."""
    ids = sorted({line["id"] for line in Run.read(run).predictions})[:8]
    scores = {id: number // 2 / 8 for number, id in enumerate(ids)}  # pairs of equal cost
    missed = {ids[0], ids[3]}

    def answers(lines):
        for line in lines:
            line["answer"], line["score"] = "right", 1.0
            if line["setting"] == "lftr 1/16" and line["id"] in scores:
                line["answer"], line["score"] = "wrong", scores[line["id"]]
            if line["setting"] == "random 1/16" and line["id"] in missed:
                line["answer"] = "otherwise"
        return lines

    rewrite(run, answers)
    read = Run.read(run)
    for id in ids:
        read.image(id).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(read.image(id))
    shown = [card for card in cards_of(read) if card.setting == "lftr 1/16" and not card.agrees]
    wanted = [1, 0, 2, 3, 4, 5]
    assert [ids.index(card.full["id"]) for card in shown] == wanted


def test_a_run_that_is_not_finished_says_so(run, tmp_path):
    ids = {json.loads(line)["id"] for line in (run / "predictions.jsonl").read_text().splitlines()}
    gone = sorted(ids)[0]
    rewrite(run, lambda lines: [line for line in lines if line["id"] != gone])
    text = write_report(run, tmp_path / "page.html").read_text()
    assert "15 questions of 16 (this run is not finished)" in text


def test_answers_without_images_places_or_right_answers(run, tmp_path):
    for image in sorted((run / "images").iterdir())[1:]:
        image.unlink()
    rewrite(run, lambda lines: [{**line, "grid": None, "index": None} for line in lines])
    text = write_report(run, tmp_path / "page.html").read_text()
    assert "without one place in the image" in text
    assert 'class="edge"' not in text
    (cut,) = (run / "images").iterdir()
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(ArgumentError, match=cut.name):
        write_report(run, tmp_path / "page.html")
    cut.unlink()
    assert 'id="gallery"' not in write_report(run, tmp_path / "page.html").read_text()


def test_a_full_model_that_is_never_right(run, tmp_path):
    rewrite(run, lambda lines: [{**line, "score": 0.0} for line in lines])
    text = write_report(run, tmp_path / "page.html", tmp_path / "plots").read_text()
    assert 'id="latency"' in text
    assert 'id="tokens"' not in text  # there is nothing to be relative to


def test_the_full_model_alone(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["settings"] = config["settings"][:1]
    (run / "config.json").write_text(json.dumps(config))
    rewrite(run, lambda lines: [line for line in lines if line["setting"] == "full"])
    text = write_report(run, tmp_path / "page.html", tmp_path / "plots").read_text()
    assert 'id="latency"' in text
    assert 'id="categories"' not in text


def test_the_summary(finished):
    rows = setting_rows(Run.read(finished))
    full, fewest, best = tiles_of(rows, 576.0)
    assert full.figure == f"{rows[0].score:.1%}"
    enough = [row.tokens for row in rows[1:] if row.relative and row.relative.low >= 0.95]
    assert fewest.figure == (f"{min(enough):.0f}" if enough else "none")
    lftr, random = (row for row in rows if row.label in ("lftr 1/16", "random 1/16"))
    assert best.subject == "Best with 36 tokens"
    assert f"lftr 1/16, {interval(lftr.relative)}" in best.meaning
    assert f"best control: random 1/16, {interval(random.relative)}" in best.meaning


def test_plots_are_files_too(finished, tmp_path):
    before = dict(matplotlib.rcParams)
    write_report(finished, tmp_path / "page.html", tmp_path / "new" / "plots")
    assert dict(matplotlib.rcParams) == before
    for name in ("latency", "tokens", "categories"):
        picture = Image.open(tmp_path / "new" / "plots" / f"{name}.png").convert("RGB")
        assert picture.width == 1440
        assert len(picture.getcolors(picture.width * picture.height)) > 50
        drawing = ElementTree.parse(tmp_path / "new" / "plots" / f"{name}.svg").getroot()
        assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 20


def test_the_same_run_gives_the_same_page(finished, page, tmp_path):
    assert write_report(finished, tmp_path / "again.html").read_text() == page.read_text()


def test_what_cannot_be_reported(run, tmp_path):
    with pytest.raises(ArgumentError, match="run = "):
        write_report(tmp_path, tmp_path / "page.html")
    with pytest.raises(ArgumentError, match="out = "):
        write_report(run, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="plots = "):
        write_report(run, tmp_path / "page.html", tmp_path / "file")
    (run / "predictions.jsonl").write_text("")
    with pytest.raises(ArgumentError, match="under every setting"):
        write_report(run, tmp_path / "page.html")


def test_on_the_command_line(finished, tmp_path):
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    words = ["report", str(finished), "--out", str(page), "--plots", str(plots)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert str(page) in result.stdout
    assert page.stat().st_size > 50_000
    assert len(list(plots.iterdir())) == 6
    failed = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(page)])
    assert failed.exit_code == 1
    assert "error: run = " in failed.stderr
