"""`lftr web`: the page in headless Chromium, and what stands behind it."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import lftr
from lftr import bundled, suites
from lftr.app import app
from lftr.lab.web.comparison import compare_answers
from lftr.methods import list_methods
from lftr.prompting import inputs_of
from lftr.values.budget import as_arguments
from lftr.values.errors import ArgumentError

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)
MEDIA = Path(__file__).parents[1] / "media/data"
# Writes down every address that the server turns to; Python runs it before anything else.
WATCH = """
import os, socket
connect = socket.socket.connect
def watched(self, address):
    with open(os.environ["CONNECTIONS"], "a") as file:
        print(address[0], file=file)
    return connect(self, address)
socket.socket.connect = watched
"""


@pytest.fixture(scope="module")
def ask():
    """Compare answers of the bundled model."""
    model, processor = bundled.load()
    tower = bundled.load_text_tower(model)

    def run(image, question, method="lftr", keep="1/16"):
        return compare_answers(model, processor, tower, image, question, method, keep)

    run.model, run.processor = model, processor
    return run


def test_both_answers_are_those_of_plain_calls(ask):
    scene = suites.load(n=2)[1]
    found = ask(scene.image, f" {scene.question} ", "random", "64")
    inputs = inputs_of(ask.processor, [scene.image], scene.question)
    for answer, keep, kept in ((found.full, 1.0, 576), (found.reduced, 64, 64)):
        with torch.inference_mode(), lftr.reduce(ask.model, "random", **as_arguments(keep)):
            ids = ask.model.generate(**inputs, do_sample=False, max_new_tokens=32)
        new = ids[:, inputs["input_ids"].shape[1] :]
        assert answer.text == ask.processor.batch_decode(new, skip_special_tokens=True)[0].strip()
        assert answer.kept == kept
    assert ("same" in found.verdict) == (found.full.text == found.reduced.text)


def test_the_table_holds_tokens_and_times(ask):
    scene = suites.load(n=1)[0]
    found = ask(scene.image, scene.question)
    heads, rule, *lines = found.table.splitlines()
    assert heads == "|  | all | some |"
    assert rule.count("---") == 3
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["visual tokens", "576", "36"]
    for column, answer in ((1, found.full), (2, found.reduced)):
        *parts, total = (float(row[column]) for row in rows[1:])
        assert sum(parts) == pytest.approx(total, abs=0.2)
        assert total == pytest.approx(answer.ms.total, abs=0.1)


def test_pictures_are_of_one_size_and_show_what_the_model_sees(ask):
    wide = Image.new("RGB", (400, 200), (200, 0, 0))
    found = ask(wide, "What?", "uniform")
    assert found.image.size == found.kept.size
    assert found.image.getpixel((9, 9)) == (200, 0, 0)
    colours = {colour for _, colour in found.kept.getcolors()}
    assert (200, 0, 0) in colours
    assert (56, 0, 0) in colours  # what was dropped is dim


@pytest.mark.slow
@pytest.mark.parametrize("method", list_methods("before"))
def test_every_method_of_the_menu_answers(ask, method):
    scene = suites.load(n=1)[0]
    assert ask(scene.image, scene.question, method, "1/8").reduced.kept == 72


def test_what_cannot_be_asked(ask):
    image = suites.load(n=1)[0].image
    for words, said in (
        ((None, "What?"), "image"),
        ((image, "  "), "question"),
        ((image, "What?", "lfrt"), "did you mean 'lftr'"),
        ((image, "What?", "lftr", "0"), "keep"),
    ):
        with pytest.raises(ArgumentError, match=said):
            ask(*words)


def test_the_page_prints_no_table():
    for option in ("--json", "--markdown"):
        result = CliRunner().invoke(app, ["web", option])
        assert result.exit_code == 2
        assert option in result.stderr


@pytest.mark.slow
def test_the_old_spelling_warns():
    result = CliRunner().invoke(app, ["demo", "--web", "--method", "fastv"])
    assert result.exit_code == 1
    assert "use `lftr web`" in result.stderr
    assert "--method = 'fastv'" in result.stderr


@needs_gradio
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ((MEDIA / "bomb20000.png").read_bytes(), "no more pixels than twice"),
        ((MEDIA / "exif6.jpg").read_bytes()[:600], "an image that is whole"),
        (b"no picture", "an image that is whole"),
        (b"", "an image that is whole"),
    ],
    ids=["a bomb", "cut off", "a text", "empty"],
)
def test_an_upload_that_cannot_be_read_is_one_sentence(ask, tmp_path, capfd, content, said):
    import gradio

    from lftr.lab.web.page import build

    path = tmp_path / "upload.png"
    path.write_bytes(content)
    page = build(ask, suites.load(n=1))
    (answer,) = [one for one in page.fns.values() if len(one.inputs) == 4]
    upload = {"path": str(path), "orig_name": "upload.png", "meta": {"_type": "gradio.FileData"}}
    given = page.preprocess_data(answer, [upload, "What?", "lftr", "1/16"], None, True)
    with pytest.raises(gradio.Error) as raised:
        answer.fn(*asyncio.run(given))
    assert said in raised.value.message
    assert "upload.png" in raised.value.message
    assert "\n" not in raised.value.message
    assert not raised.value.print_exception
    assert "Traceback" not in capfd.readouterr().err


@needs_gradio
@pytest.mark.parametrize("method", ["lftr(diversity=0.2)", "Merge(divprune)"])
def test_the_page_starts_with_the_method_and_its_options(monkeypatch, method):
    from lftr.lab.web import comparison, server

    asked, pages = [], []
    monkeypatch.setattr(comparison, "compare_answers", lambda *words: asked.append(words[-2]))
    monkeypatch.setattr(server, "serve", lambda page, *_: pages.append(page))
    result = CliRunner().invoke(app, ["web", "--method", method])
    assert result.exit_code == 0, result.output
    assert asked == [method]
    (answer,) = [one for one in pages[0].fns.values() if len(one.inputs) == 4]
    menu = answer.inputs[2]
    assert menu.value == method
    assert [value for _, value in menu.choices] == [*list_methods("before"), method]


@needs_gradio
def test_methods_that_decide_inside_are_refused():
    result = CliRunner().invoke(app, ["web", "--method", "MergeInside(fastv)"])
    assert result.exit_code == 1
    assert "--method = 'MergeInside(fastv)'" in result.stderr


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("lftr.lab.web", "gradio"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["web"])
    assert result.exit_code == 1
    assert "error: gradio is not installed" in result.stderr
    assert "'demo'" in result.stderr


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's address and what it turned to, its process interrupted at the end."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "sitecustomize.py").write_text(WATCH)
    connections = folder / "connections"
    connections.touch()
    port = free_port()
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    given = {"PYTHONPATH": path, "CONNECTIONS": str(connections), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lftr", "web", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | given,
        # what is started in a shell's background is told to ignore interrupts
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    guard = threading.Timer(180, process.kill)
    guard.start()
    try:
        told = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in told
        yield f"http://127.0.0.1:{port}/", connections
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def wait_for(browser, script):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = browser.run(script)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{script} stayed empty")


def click(browser, selector):
    wait_for(browser, f'return document.querySelector("{selector}") !== null')
    browser.driver.find_element("css selector", selector).click()


def value(name):
    return f"return document.querySelector('#{name} :is(textarea, input)')?.value"


def ask_for(browser, question):
    box = browser.driver.find_element("css selector", "#question :is(textarea, input)")
    box.send_keys("\ue009a")  # Control and a: all of it
    box.send_keys(question)
    wait_for(browser, f"{value('question')} === {question!r}")


SEEN = (
    "return ['shown', 'kept'].map(name => document.querySelector(`#${name} img`))"
    ".every(image => image?.complete && image.naturalWidth >= 480)"
)


@needs_gradio
def test_a_picked_scene_is_answered_twice_on_a_click(browser, server, ask):
    address, connections = server
    browser.show(address)
    scene = suites.load("scenes", split="test", n=5, seed=0)[4]
    click(browser, "#scenes [aria-label='Thumbnail 5 of 12']")
    wait_for(browser, f"{value('question')} === {scene.question!r}")
    click(browser, "#ask")
    found = ask(scene.image, scene.question)
    assert wait_for(browser, value("full")) == found.full.text
    assert wait_for(browser, value("reduced")) == found.reduced.text
    assert wait_for(browser, SEEN)
    table = browser.run("return document.querySelector('#table').innerText")
    assert "576\t36" in table
    assert found.verdict in browser.run("return document.querySelector('#verdict').innerText")
    assert browser.errors() == []
    assert browser.hosts() == {"127.0.0.1"}
    assert set(connections.read_text().split()) <= {"127.0.0.1"}


@needs_gradio
def test_an_uploaded_image_is_answered_on_a_phone(browser, server, ask, tmp_path):
    browser.show(server[0], 390, dark=True)
    scene = suites.load("scenes", split="validation", n=1)[0]
    scene.image.save(tmp_path / "mine.png")
    click(browser, "#image [aria-label='Remove Image']")
    wait_for(browser, "return document.querySelector('#image input[type=file]') !== null")
    browser.driver.find_element("css selector", "#image input[type=file]").send_keys(
        str(tmp_path / "mine.png")
    )
    wait_for(browser, "return document.querySelector('#image img')?.naturalWidth === 192")
    ask_for(browser, scene.question)
    click(browser, "#ask")
    assert wait_for(browser, value("full")) == ask(scene.image, scene.question).full.text
    assert wait_for(browser, SEEN)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    assert browser.errors() == []


@needs_gradio
def test_what_is_wrong_is_said_on_the_page(browser, server):
    browser.show(server[0])
    wait_for(browser, value("question"))
    ask_for(browser, " ")
    click(browser, "#ask")
    said = "return document.querySelector('[data-testid=toast-body]')?.innerText"
    assert "question = ' '; allowed: a text" in wait_for(browser, said)


@needs_gradio
def test_a_port_that_is_taken(server):
    port = server[0].rstrip("/").rpartition(":")[2]
    result = CliRunner().invoke(app, ["web", "--port", port])
    assert result.exit_code == 1
    assert "error: port = " in result.stderr
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ
