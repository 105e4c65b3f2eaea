"""The docs site: what its pages say is there, and what they show runs."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lftr
from lftr.values import errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# their ```python blocks run, those marked ```py do not
RUNNABLE = ("index.md", "image.md", "inside.md", "own_method.md", "own_family.md")
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)


RUNNER = """
import json, sys
for page, code in json.load(sys.stdin).items():
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    print("ran", page)
"""


def code_of(page: str) -> str:
    """Return the blocks of a page that run, in order."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks, page
    return "\n".join(blocks)


def test_every_import_of_a_page_works():
    """Of all pages, whether or not their blocks run: what they import is there."""
    found = 0
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        for block in re.findall(r"^```py(?:thon)?\n(.*?)^```$", page.read_text(), re.M | re.S):
            lines = re.findall(r"^(?:from lftr\S* import [^(\n]+|import lftr\S*)$", block, re.M)
            for line in lines:
                exec(compile(line.partition("#")[0].strip(), page.name, "exec"), {})
                found += 1
    assert found > 20


@pytest.mark.slow
def test_the_code_of_the_pages_and_of_the_notebook_runs(tmp_path):
    """One fresh interpreter for all: it takes most of the time to start."""
    pytest.importorskip("sklearn", reason="the suite's digits need lftr[suites]")
    codes = {
        "start.ipynb": "\n".join(cells_of_code()),
        **{page: code_of(page) for page in RUNNABLE},
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=tmp_path,
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ran (.*)$", done.stdout, re.MULTILINE) == list(codes)


def test_the_notebook_holds_no_outputs():
    notebook = json.loads((DOCS / "start.ipynb").read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert all(ast.parse(code) for code in cells_of_code())


def cells_of_code() -> list[str]:
    notebook = json.loads((DOCS / "start.ipynb").read_text())
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def directives(*pages: str) -> list[str]:
    return [name for page in pages for name in DIRECTIVE.findall((DOCS / page).read_text())]


def test_the_reference_has_every_public_name_once():
    named = directives("api.md", "api_methods.md", "api_modules.md")
    top = sorted(n.removeprefix("lftr.") for n in named if n.count(".") == 1)
    assert top == sorted(lftr.__all__)


@pytest.mark.parametrize("name", [n for n in lftr.__all__ if inspect.ismodule(getattr(lftr, n))])
def test_the_reference_has_what_a_module_of_the_same_name_hides(name):
    """A function ``compare`` of a file ``compare.py`` is taken for the file, so it is named."""
    module = getattr(lftr, name)
    named = directives("api_modules.md")
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if inspect.isfunction(thing) and thing.__module__.endswith(f".{public}"):
            assert f"{thing.__module__}.{public}" in named


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_troubleshooting_names_every_kind_of_error():
    page = (DOCS / "troubleshooting.md").read_text()
    kinds = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.LftrError)
    ]
    assert len(kinds) > 5
    for name in kinds:
        assert f"| `{name}` |" in page, name


def test_troubleshooting_quotes_messages_that_lftr_has():
    page = (DOCS / "troubleshooting.md").read_text()
    page = page.partition("## Calling `lftr.reduce`")[2].partition("## Known problems")[0]
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 25
    said = list(texts())
    for message in quoted:
        for part in filter(None, (part.strip(" ;:=") for part in message.split("..."))):
            assert any(part in text for text in said), f"{message!r}: {part!r}"


def texts():
    """Yield every text of lftr's source, with a mark where a value is put in."""
    for path in (ROOT / "src" / "lftr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                yield "".join(map(str, parts))


@pytest.mark.parametrize("page", ["methods.md", "results.md"])
def test_both_pages_of_methods_have_every_method(page):
    text = (DOCS / page).read_text()
    for name in lftr.list_methods():
        assert f"| `{name}` |" in text, name


def test_choosing_brings_no_figure_of_its_own():
    page = (DOCS / "choosing.md").read_text()
    measured = (DOCS / "results.md").read_text() + (DOCS / "benchmarks.md").read_text()
    figures = re.findall(r"\b(\d+\.\d) %|\b(\d+\.\d) \(|\b(\d+\.\d\d)\b", page)
    assert len(figures) > 40
    options = {"0.25"}  # of a method
    for figure in {number for found in figures for number in found if number} - options:
        assert f"| {figure} (" in measured, figure
