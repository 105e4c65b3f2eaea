"""Methods by name and by class: this package's, and those of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lftr
from lftr.methods.lookup import GROUP, KINDS

MINE = """
import lftr

class Last(lftr.Method, name="last"):
    def choose(self, tokens, keep):
        raise NotImplementedError
"""


def test_every_method_is_written_in_the_package() -> None:
    """So that type checkers know each class; a new file needs its line in ``methods/__init__``."""
    classes = [cls for kind in KINDS.values() for cls in kind.registry.values()]
    own = {cls for cls in classes if cls.__module__.startswith("lftr.")}
    assert {cls.__name__ for cls in own} <= set(lftr.methods.__all__)
    assert all(vars(lftr.methods)[cls.__name__] is cls for cls in own)


def other_package(folder: Path, module: str, text: str) -> None:
    """Write an installed package whose entry point names a module."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmine = {module}\n")


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )


@pytest.mark.slow
def test_methods_of_another_package(tmp_path: Path) -> None:
    other_package(tmp_path, "mine", MINE)
    told = run(tmp_path, "import lftr; print(lftr.methods.Last, lftr.get_method('last'))").stdout
    assert told.split() == ["<class", "'mine.Last'>", "last"]


@pytest.mark.slow
def test_another_package_that_cannot_be_loaded(tmp_path: Path) -> None:
    other_package(tmp_path, "mine", f"{MINE}\n1 / 0")
    done = run(tmp_path, "import lftr; print(lftr.get_method('uniform'), lftr.list_methods())")
    assert done.stdout.startswith("uniform [")
    assert "'last'" not in done.stdout
    assert "'mine' (mine) are left out: ZeroDivisionError" in done.stderr


@pytest.mark.slow
def test_a_preset_of_another_packages_method(tmp_path: Path) -> None:
    other_package(tmp_path, "mine", MINE)
    preset = tmp_path / "preset.json"
    preset.write_text('{"format": 1, "method": "last", "options": {}, "keep": "1/4"}')
    code = f"import lftr; print(lftr.Preset.load({str(preset)!r}).method)"
    assert run(tmp_path, code).stdout.strip() == "last"


def test_what_is_no_option_is_named() -> None:
    with pytest.raises(lftr.LftrError, match="option of method 'fastervlm'"):
        lftr.get_method("fastervlm", sees_features=True)
