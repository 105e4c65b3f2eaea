"""`lftr verify`: the table, JSON, exit codes."""

from __future__ import annotations

import json

import pytest
from verify.support import Processor, entry_of

from lftr.cli.loading import Loaded
from lftr.hosts.transformers.kinds import prefill


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in the place of the bundled one."""
    entry = entry_of("llava")
    loaded = Loaded("tiny", entry.model(), Processor(entry, entry.model()), None)
    monkeypatch.setattr("lftr.cli.loading.load_model", lambda *given: loaded)


@pytest.fixture
def faulty(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that reduces nothing."""
    monkeypatch.setattr(prefill.PrefillHost, "concerns", lambda self, call: False)


@pytest.mark.usefixtures("tiny")
def test_prints_a_table_and_the_conclusion(lftr):
    result = lftr("verify")
    assert result.exit_code == 0
    assert "LlavaForConditionalGeneration (llava), float32 on cpu, sdpa" in result.stdout
    assert result.stdout.splitlines()[-1] == "PASSED: 9 checks, 1 skipped."
    assert "checking" in result.stderr


@pytest.mark.usefixtures("tiny")
def test_prints_json_and_nothing_else(reads):
    told = reads("verify", "--method", "random", "--keep", "1/6", "--option", "seed=7")
    assert told["ok"] is True
    assert told["name"] == "tiny"
    assert (told["method"], told["keep"]) == ("random(seed=7)", "1/6")
    assert {check["verdict"] for check in told["checks"]} == {"passed", "skipped"}


@pytest.mark.usefixtures("tiny")
def test_several_methods(reads):
    """The first of each kind goes through all, and every further one is proved or fails."""
    methods = ("random", "divprune", "uniform", "fastv", "pyramiddrop")
    words = [word for name in methods for word in ("--method", name)]
    told = reads("verify", *words, "--option", "random.seed=7", "--option", "fastv.layer=1")
    assert told["ok"] is True
    assert told["method"].split(" + ")[:3] == ["random(seed=7)", "divprune", "uniform"]
    passed = {check["name"] for check in told["checks"] if check["verdict"] == "passed"}
    more = ["method divprune", "method uniform", "inside pyramiddrop"]
    assert passed.issuperset(["reduced", "inside", *more])
    assert told["essential"] == ["everything kept", "reduced", "inside", *more]


@pytest.mark.usefixtures("tiny")
def test_one_of_several_methods_that_is_wrong_fails(lftr, monkeypatch):
    from lftr.verifying import checks

    named = checks.named_checks

    def wrong(before, inside):
        found = named(before, inside)
        return {name: lambda subject: 1 / 0 for name in found}

    monkeypatch.setattr("lftr.verifying.named_checks", wrong)
    result = lftr("verify", "--method", "random", "--method", "uniform")
    assert result.exit_code == 1
    assert "FAILED: method uniform" in result.stdout.splitlines()[-1]


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_a_failure_is_said_and_exits_with_1(lftr, words):
    result = lftr("verify", *words)
    assert result.exit_code == 1
    if words:
        told = json.loads(result.stdout)
        assert told["ok"] is False
        assert told["conclusion"].startswith("FAILED: reduced")
    else:
        assert "FAILED: reduced" in result.stdout.splitlines()[-1]


@pytest.mark.usefixtures("tiny")
def test_what_proves_nothing_exits_with_1(lftr):
    result = lftr("verify", "--tokens", "5000")
    assert result.exit_code == 1
    assert "NOT PROVED" in result.stdout.splitlines()[-1]


def test_wrong_words(fails, picture, tmp_path):
    assert "did you mean 'divprune'" in fails("verify", "--method", "divprun")
    assert "a file that exists" in fails("verify", tmp_path / "absent.png")
    assert "allowed: original or compact" in fails("verify", "--positions", "middle")


@pytest.mark.slow
def test_the_bundled_model(reads, picture):
    told = reads("verify", picture, "--keep", "1/16")
    assert told["ok"] is True
    assert told["name"] == "bundled"
    found = {check["name"]: check["verdict"] for check in told["checks"]}
    assert [name for name, verdict in found.items() if verdict != "passed"] == ["video"]
