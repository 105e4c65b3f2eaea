"""A runner, and images to run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from lftr.app import app

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def one_thread():
    """Workers share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lftr() -> Run:
    """Run the command line with some words."""

    def run(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words], prog_name="lftr")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def fails(lftr: Run) -> Callable[..., str]:
    """Run something that must end in exit code 1 with one line on stderr; returns the line."""

    def run(*words: object) -> str:
        result = lftr(*words)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in result.stderr
        return lines[0]

    return run


@pytest.fixture
def reads(lftr: Run) -> Callable[..., Any]:
    """Run something that must succeed and print JSON, and nothing else, to stdout."""

    def run(*words: object) -> Any:
        result = lftr(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide image with a red square on grey, left of the middle."""
    path = tmp_path_factory.mktemp("images") / "square.png"
    image = Image.new("RGB", (288, 192), (120, 120, 120))
    image.paste((220, 30, 30), (100, 80, 140, 120))
    image.save(path)
    return path
