"""`scripts/install-browser`, with stand-ins for everything that it would change."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-browser"
ASKED = ["update -qq", "install -qq --no-install-recommends chromium chromium-driver"]


@pytest.fixture
def install(tmp_path):
    """Run the script where only some programs exist; returns it and what apt-get was asked."""
    programs, log = tmp_path / "programs", tmp_path / "log"
    programs.mkdir()
    for name in ("bash", "mktemp", "rm", "tail", "timeout"):
        (programs / name).symlink_to(shutil.which(name))

    def run(**bodies):
        for name, body in ({"id": "echo 0"} | bodies).items():
            path = programs / name.replace("_", "-")
            path.write_text(f'#!{shutil.which("bash")}\necho "$*" >> {log}-{name}\n{body}\n')
            path.chmod(0o755)
        done = subprocess.run(
            [programs / "bash", SCRIPT], env={"PATH": str(programs)}, capture_output=True, text=True
        )
        asked = Path(f"{log}-apt_get")
        return done, asked.read_text().splitlines() if asked.exists() else []

    return run


def test_installs_quietly(install):
    done, asked = install(apt_get="echo chatter")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert asked == ASKED


def test_does_nothing_where_a_browser_is(install):
    done, asked = install(apt_get="exit 1", chromium="", chromedriver="")
    assert done.returncode == 0
    assert asked == []


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, "no Chromium installed: that takes apt-get and root"),
        ({"apt_get": "", "id": "echo 1000"}, "no Chromium installed: that takes apt-get and root"),
        ({"apt_get": "echo 'E: no network' >&2; exit 100"}, "no Chromium installed: E: no network"),
    ],
    ids=["no-apt", "no-root", "no-network"],
)
def test_says_in_one_line_why_it_could_not(install, programs, said):
    done, _ = install(**programs)
    assert done.returncode == 1
    assert done.stderr.strip() == said
