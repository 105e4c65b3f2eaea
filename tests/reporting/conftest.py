"""A small run of the bundled model, its page, and a browser to open it in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lftr import bundled
from lftr.lab.evaluation import Run, Subject, configuration, evaluate, load_data, settings_grid
from lftr.lab.evaluation.gallery import write_thumbnails
from lftr.lab.reporting import write_report
from lftr.methods import get_method

from .browser import Browser


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what opens a page in a browser to `.ci/run`."""
    for item in items:
        opens = {"browser", "server"} & set(getattr(item, "fixturenames", ()))
        if opens and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def one_thread():
    """Workers share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen questions, under the full model, and LFTR and a control at two budgets."""
    model, processor = bundled.load()
    subject = Subject("bundled", model, processor)
    data = load_data("scenes", n=16)
    settings = settings_grid([get_method("lftr")], [1 / 4, 1 / 16], ["random"])
    config = configuration(subject, [data], settings, metric="exact")
    with Run.open(tmp_path_factory.mktemp("runs") / "finished", config) as run:
        evaluate(run, subject, data.items, settings, metric="exact")
        run.write_metrics()
        write_thumbnails(run, data.items, processor)
    return run.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="session")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's page."""
    return write_report(finished, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    missing = Browser.missing()
    if missing:
        pytest.skip(missing)
    with Browser() as started:
        yield started
