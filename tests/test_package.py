"""The package as others meet it: typed, quiet on import, documented, complete."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

import lftr
from lftr.methods.encoder.spelling import MERGES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "lftr").rglob("*.py"))
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"  # names what was, too
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {CHANGELOG})
PUBLIC_PACKAGES = {  # the public modules, and packages of methods
    *lftr._PACKAGES,
    *(f"methods.{one.name}" for one in pkgutil.iter_modules(lftr.methods.__path__) if one.ispkg),
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def python(*words: str, folder: Path | None = None, **environment: str) -> str:
    """Run a fresh interpreter, in a folder if one is given, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**QUIET, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_in_nothing_heavy_and_changes_nothing():
    told = python(
        "-c",
        "import json, sys, warnings, torch\n"
        "before = [torch.get_num_threads(), torch.get_default_dtype().itemsize,\n"
        "          torch.is_grad_enabled(), len(warnings.filters), torch.initial_seed()]\n"
        "import lftr\n"
        "after = [torch.get_num_threads(), torch.get_default_dtype().itemsize,\n"
        "         torch.is_grad_enabled(), len(warnings.filters), torch.initial_seed()]\n"
        "heavy = ('transformers', 'typer', 'rich', 'sklearn', 'matplotlib', 'accelerate')\n"
        "print(json.dumps([before == after, [name for name in heavy if name in sys.modules]]))",
    )
    assert json.loads(told) == [True, []]


@pytest.mark.parametrize("package", ["", *sorted(PUBLIC_PACKAGES)])
def test_a_star_import_rebinds_no_name_to_a_submodule(package):
    """Except of ``lftr`` itself, whose public modules are its names."""
    names = {}
    exec(f"import lftr\nfrom {'.'.join(filter(None, ['lftr', package]))} import *", names)
    assert names["lftr"] is lftr
    modules = {name for name, value in names.items() if inspect.ismodule(value)}
    assert modules == {"lftr", *(() if package else lftr._PACKAGES)}


@pytest.mark.parametrize("name", sorted(lftr._PACKAGES))
def test_modules_are_attributes_and_can_be_imported(name):
    module = importlib.import_module(f"lftr.{name}")
    assert getattr(lftr, name) is module
    assert name in lftr.__all__


def test_errors_that_users_catch_are_public_names():
    for name in ("ArgumentError", "MissingEvidenceError", "UnsupportedModelError"):
        assert issubclass(getattr(lftr, name), lftr.LftrError)


def test_typed_and_licensed():
    assert resources.files("lftr").joinpath("py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_versions_agree():
    assert f"## {lftr.__version__}" in CHANGELOG.read_text()
    assert f"\nversion: {lftr.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_badges_agree_with_the_requirements():
    badges = dict(re.findall(r"badge/(\w+)-([^)]+)-blue", (ROOT / "README.md").read_text()))
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]]
    spans = re.findall(r"(\w+)>=(\d+)\.(\d+),<(\d+)\.(\d+)", " ".join(requirements))
    spans = {n: f"{a}.{b}--{c}.{int(d) - 1}" for n, a, b, c, d in spans}
    assert badges == {
        "python": PROJECT["requires-python"].replace(">=", "%E2%89%A5"),
        "transformers": spans["transformers"],
        "vLLM": spans["vllm"],
        "license": PROJECT["license"].replace("-", "--"),
    }


@pytest.mark.parametrize("name", [n for n in lftr.__all__ if callable(getattr(lftr, n))])
def test_public_names_have_numpy_docstrings(name):
    thing = getattr(lftr, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].endswith(".")
    if issubclass(thing, Exception) if inspect.isclass(thing) else False:
        return
    needed = [
        p
        for p in inspect.signature(thing).parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if len(needed) > 1:
        assert re.search(r"^(Parameters|Attributes|Raises)\n-+$", text, re.MULTILINE), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_modules_say_what_they_are(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)) or not text.strip()


def test_a_class_name_has_one_meaning():
    """No two modules define a class or a type alias of one name, also with an underscore before it.

    Except the options of the command line, which are always written with their module, as in
    ``options.Model``.
    """
    modules = defaultdict(set)
    for path in set(SOURCES) - {ROOT / "src/lftr/cli/options.py"}:
        tree = ast.parse(path.read_text())
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names += [one.id for one in targets if isinstance(one, ast.Name)]
        for name in names:
            if re.fullmatch(r"_?[A-Z][A-Za-z\d]*[a-z][A-Za-z\d]*", name):
                modules[name.removeprefix("_")].add(str(path.relative_to(ROOT / "src")))
    assert not {name: sorted(paths) for name, paths in modules.items() if len(paths) > 1}


# words that do not say what a variable or a function holds
UNCLEAR = {"asked", "found", "given", "likest", "nothing", "own", "said", "shown", "thing", "told"}
PUBLIC_UNCLEAR = {  # names that users write
    "asked": ("lab/asking", "lab/evaluation", "lab/profiling", "methods/before", "prompting.py"),
    "found": ("presets.py",),
    "own": ("methods/compose", "methods/video"),
    "shown": ("lab/suites/tracks.py", "values/report.py"),
    "told": ("verifying/__init__.py",),
}


def _defined_names(tree):
    """Yield the names that a module gives to classes, functions, arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_names_say_what_they_hold(path):
    """No name has one of the `UNCLEAR` words as a part, but for the `PUBLIC_UNCLEAR` ones."""
    place = str(path.relative_to(ROOT / "src" / "lftr"))
    for name in set(_defined_names(ast.parse(path.read_text()))):
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
        unclear = UNCLEAR & {word.lower() for word in words}
        assert not unclear or place.startswith(PUBLIC_UNCLEAR.get(name, ("?",))), name


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [
        ("lftr.suites", "Clip", "ClipExample"),
        ("lftr.hosts.transformers.families", "Clips", "VideoNames"),
    ],
)
def test_former_names_of_classes_warn(module, former, present):
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=present):
        assert getattr(home, former) is getattr(home, present)
    assert former not in home.__all__
    with pytest.raises(AttributeError, match="Unknown"):
        home.Unknown  # noqa: B018


def test_nothing_private_is_said():
    """No file names a place of the machine it was written on."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.])/" + r"(work|root|home|opt)/")
    kinds = {".py", ".md", ".toml", ".json", ".yml", ".cff", ".sh", ".txt", ""}
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix in kinds and path.stat().st_size < 1_000_000:
            found = place.search(path.read_text(errors="ignore"))
            assert found is None, f"{name}: {found and found.group()}"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(path):
    assert python(str(path)).strip()


def test_links_in_the_docs_lead_somewhere():
    for page in [*PAGES, CHANGELOG]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_real_things():
    """What stands in backticks as lftr.something exists."""
    for page in PAGES:
        for name in re.findall(
            r"(?<![/\w-])lftr\.([A-Za-z_]+)(?:\.([A-Za-z_]+))?", page.read_text()
        ):
            thing = lftr
            for part in filter(None, name):
                if not hasattr(thing, part):
                    __import__(f"{thing.__name__}.{part}")
                thing = getattr(thing, part)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it would be uploaded."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-q"]
    python(*command, "-w", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_a_wheel_holds_everything(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    source = ROOT / "src"
    every = (source / "lftr").rglob("*")  # weights and the report's template too
    wanted = [path for path in every if path.is_file() and "__pycache__" not in path.parts]
    missing = {str(path.relative_to(source)) for path in wanted} - inside
    assert not missing
    assert "lftr/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)


@pytest.mark.slow
def test_an_installed_wheel_runs(wheel, tmp_path):
    """From another folder, beside the packages of this environment and before its own lftr."""
    pytest.importorskip("typer", reason="the command line needs lftr[cli]")
    pytest.importorskip("sklearn", reason="the suite's digits need lftr[suites]")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    python("-m", "pip", "install", str(wheel), "--no-deps", "-q", "--target", str(site))

    def installed(*words):
        return python(*words, folder=elsewhere, PYTHONPATH=str(site))

    assert Path(installed("-c", "import lftr; print(lftr.__file__)")).is_relative_to(site)
    assert installed("-m", "lftr", "--version") == f"lftr {lftr.__version__}\n"
    version = f"from importlib import metadata; print(metadata.version({PROJECT['name']!r}))"
    assert installed("-c", version) == f"{lftr.__version__}\n"
    listed = json.loads(installed(str(site / "bin" / "lftr"), "methods", "--json"))
    assert [method["name"] for method in listed] == lftr.list_methods()
    assert json.loads(installed("-m", "lftr", "demo", "--questions", "1", "--json"))


def test_the_picture_of_the_readme_is_small():
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert [path.name for path in pictures] == ["lftr-demo.png"]
    assert pictures[0].stat().st_size < 300_000


def test_the_docs_name_tests_and_scripts_that_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"\b(test_\w+)\b(?!\.py)", text):
            assert f"def {name}(" in code, f"{page.name}: {name}"
        for name in re.findall(r"\b(test_\w+\.py)\b", text):
            assert name in files, f"{page.name}: {name}"
        for name in re.findall(
            r"`(?:python )?((?:benchmarks|scripts|training|examples)/[\w./-]+)", text
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_readme_holds_its_table():
    page = README.read_text()
    table = page.partition("<!-- demo: begin -->")[2].partition("<!-- demo: end -->")[0]
    assert "| 16x | lftr | 36 |" in table


@pytest.mark.slow
def test_the_first_lines_of_the_readme_run(tmp_path):
    """In another folder, and they print what the README says; times differ."""
    pytest.importorskip("sklearn", reason="the suite's digits need lftr[suites]")
    lines, said = re.findall(r"```(?:python|text)\n(.*?)```", README.read_text(), re.DOTALL)[:2]
    told = python("-c", lines, folder=tmp_path)
    times = re.compile(r"[\d.]+ ms")
    assert times.sub("", told) == times.sub("", said)


def test_the_readme_links_the_paper_of_every_method():
    page = README.read_text()
    classes = {name: type(lftr.get_method(name)) for name in lftr.list_methods()}
    classes |= {f"lftr.{c.__name__}": c for c in (*MERGES.values(), lftr.ONLY)}
    linked = dict(re.findall(r"\[`([\w.-]+)`\]\(https://arxiv\.org/abs/([\w.]+)\)", page))
    assert len(linked) == page.count("arxiv.org/")
    for name, method in classes.items():
        assert f"`{name}`" in page
        assert name == "prumerge-plus" or linked.pop(name, "") == method.source.arxiv, name
    assert not linked


def test_the_readme_counts_model_types_as_the_page_does():
    page = (ROOT / "docs" / "compatibility.md").read_text()
    (counted,) = re.findall(r"^Of the \d+ model types .*$", page, re.MULTILINE)
    assert counted in README.read_text()


def test_the_docs_name_every_extra():
    extras = PROJECT["optional-dependencies"]
    page = (ROOT / "docs" / "commands.md").read_text()
    table = page.partition("| extra |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(extras)
    itself = re.compile(r"([\w-]+)\[([\w,]+)\]$")  # an extra that takes others in
    for needed in (one for several in extras.values() for one in several):
        if found := itself.match(needed):
            assert found[1] == PROJECT["name"]
            assert set(found[2].split(",")) <= set(extras)


def test_packages_that_few_need_come_when_they_are_asked_for():
    code = (
        "import sys, lftr; assert 'lftr.lab.suites' not in sys.modules; "
        "print(lftr.suites.load('clips', n=1)[0].category, lftr.media.load_clip.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["motion", "load_clip"], done.stderr


def test_nothing_heavy_is_imported_before_a_name_is_asked_for():
    """What needs no model (``lftr --help``, reading pictures) does not wait for torch."""
    told = python(
        "-c",
        "import sys, lftr\n"
        "heavy = ('torch', 'numpy', 'PIL', 'transformers', 'rich', 'typer')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import lftr.evaluation, lftr.media\n"
        "assert callable(lftr.reduce) and set(lftr.__all__) <= set(dir(lftr))\n"
        "try: lftr.reduced\n"
        "except AttributeError as error: print(error)",
    )
    assert told.splitlines() == ["[]", "module 'lftr' has no attribute 'reduced'"]


@pytest.mark.parametrize("verb", ["", "run", "eval", "tune", "serve", "demo"])
def test_help_imports_nothing_heavy(verb):
    pytest.importorskip("typer")
    told = python(
        "-c",
        "import sys\n"
        "from lftr.__main__ import main\n"
        f"sys.argv = ['lftr', *{[verb] if verb else []}, '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'numpy', 'PIL', 'transformers', 'av', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])",
    )
    assert "Usage: lftr" in told
    assert told.splitlines()[-1] == "[]"
