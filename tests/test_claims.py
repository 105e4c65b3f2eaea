"""The benchmark of LFTR's claims: its rule, and that every figure of its report is measured."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lftr import get_method
from lftr.cli.loading import load_model
from lftr.lab.evaluation import Bootstrap, Outcome, Setting, compare
from lftr.lab.suites import load
from lftr.values.errors import LftrError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Any:
    return of("_verdicts", monkeypatch)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("rich", reason="benchmarks need lftr[cli]")
    pytest.importorskip("sklearn", reason="the suite's digits need lftr[suites]")
    return of("claims", monkeypatch)


@pytest.fixture(scope="module")
def bundled() -> Any:
    torch.set_num_threads(1)
    return load_model(device="cpu")


KEPT, LOST = (0.99, 0.975, 1.0), (0.99, 0.96, 1.0)


@pytest.mark.parametrize(
    ("relative", "verdict"),
    [
        ({2: KEPT, 16: KEPT}, "holds"),
        ({2: LOST, 16: KEPT}, "holds"),
        ({2: KEPT, 16: LOST}, "holds partly"),
        ({2: LOST, 16: LOST}, "does not hold"),
        ({16: (1.0, 0.97, 1.0)}, "holds"),
    ],
    ids=["all", "largest", "smaller", "none", "edge"],
)
def test_few_tokens(verdicts: Any, relative: Any, verdict: str) -> None:
    assert verdicts.of_ratios(relative) == verdict


FASTER, SLOWER = (0.5, 0.4, 0.6), (0.99, 0.9, 1.01)


@pytest.mark.parametrize(
    ("surplus", "times", "verdict"),
    [
        ((0.0, -0.02, 0.02), [FASTER, FASTER], "holds"),
        ((0.0, -0.02, 0.02), [FASTER, SLOWER], "holds partly"),
        ((0.01, -0.04, 0.06), [FASTER, FASTER], "holds partly"),
        ((-0.1, -0.15, -0.05), [SLOWER, FASTER], "does not hold"),
    ],
    ids=["both", "accuracy", "time", "neither"],
)
def test_two_together(verdicts: Any, surplus: Any, times: Any, verdict: str) -> None:
    assert verdicts.of_pair(surplus, times) == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "does not hold"], "holds partly"),
        (["holds partly", "holds partly"], "holds partly"),
        (["does not hold", "does not hold"], "does not hold"),
    ],
    ids=["all", "one", "parts", "none"],
)
def test_several_pairs(verdicts: Any, parts: list[str], verdict: str) -> None:
    assert verdicts.of_all(parts) == verdict


def test_few_questions_judge_nothing(verdicts: Any) -> None:
    """A hundred right answers and no wrong one are what it takes to show 97 %."""
    assert verdicts.enough(100, 10)
    assert not verdicts.enough(99, 10)
    assert not verdicts.enough(1000, 9)
    assert f"{verdicts.QUESTIONS} questions" in verdicts.RULE


def test_the_product_of_losses() -> None:
    """Together half as often right where each alone is: nothing lost beyond the product."""
    full, one, other = [1.0] * 40, [1.0, 0.0] * 20, [1.0, 1.0, 0.0, 0.0] * 10
    both = [a * b for a, b in zip(one, other, strict=True)]
    bootstrap = Bootstrap(["suite"] * 40)

    def surplus(*values: list[float]) -> Any:
        return bootstrap.statistic(lambda b, x, y, f: b / f - x / f * (y / f), *values)

    value, low, high = surplus(both, one, other, full)
    assert value == pytest.approx(0.0)
    assert low < 0 < high
    assert surplus([0.0] * 40, one, other, full)[2] < 0
    assert bootstrap.statistic(lambda x, f: x / f, one, full) == bootstrap.ratio(one, full)


def rows_of(figures: Any) -> dict[str, Any]:
    return {row["label"]: row for row in figures["rows"]}


@pytest.mark.slow
def test_what_is_measured(claims: Any, bundled: Any) -> None:
    figures = claims.measure(bundled, n=2, rounds=1, claims=["tokens", "encoder"], batch=2)
    figures = json.loads(json.dumps(figures))
    rows = rows_of(figures)
    assert rows["full"]["tokens"] == 576
    assert [rows[f"lftr {r}x"]["tokens"] for r in (2, 4, 8, 16)] == [288, 144, 72, 36]
    assert rows["ToMe r=58"]["tokens"] == 576 - 5 * 58
    assert rows["FOLDER 1/3"]["tokens"] == 192
    assert rows["FOLDER 1/3 + lftr 16x"]["tokens"] == rows["ToMe r=58 + lftr 16x"]["tokens"] == 36
    assert rows["full"]["relative"][0] == rows["full"]["agreement"][0] == 1.0
    assert rows["full"]["time"] == [1.0, 1.0, 1.0]
    for row in figures["rows"]:
        assert 0 < row["encoder_ms"]["median"] < row["total_ms"]["median"]
        assert row["weights_mib"] == rows["full"]["weights_mib"]
    assert [claim["claim"] for claim in figures["claims"]] == ["tokens", "encoder"]
    assert {claim["verdict"] for claim in figures["claims"]} == {"too few questions"}
    told = claims.report(figures)
    assert all(f"| {label} |" in told for label in rows)
    assert all(claims.CLAIMS[name] in told for name in ("tokens", "encoder"))


@pytest.mark.slow
def test_the_full_model_is_itself_for_certain(monkeypatch: pytest.MonkeyPatch, claims: Any) -> None:
    full = Outcome(Setting("full", get_method("uniform"), 1.0), ["a", "b"], [True, True], [4, 4])
    own = Outcome(Setting("own", get_method("uniform"), 0.5), ["a", "b"], [True, True], [2, 2])
    told = of("_accuracy", monkeypatch).summary([full, own], ["c", "c"])
    for name, value in (("relative", (1, 1, 1)), ("agreement", (1, 1, 1)), ("behind", (0, 0, 0))):
        assert tuple(told[0][name]) == value
    assert told[1]["relative"][1] < 0.5  # two questions show next to nothing of another


def test_an_encoder_that_cannot_merge(
    claims: Any, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise LftrError("tiles")

    monkeypatch.setattr(claims, "encoder_merges", refuse)
    figures = claims.measure(bundled, n=1, rounds=1, claims=["encoder"])
    assert figures["claims"] == []
    assert list(rows_of(figures)) == ["full", "lftr 16x"]
    assert f"| {claims.CLAIMS['encoder']} | tiles | not measured |" in claims.report(figures)


def test_without_torchao(monkeypatch: pytest.MonkeyPatch, bundled: Any) -> None:
    quantized = of("_quantized", monkeypatch).quantized
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(LftrError, match=r"^torchao is not installed: .*'quant'\)$"):
        quantized(bundled.model, "int8 weights")


@pytest.mark.parametrize("kind", ["int8 weights", "int8 dynamic"])
def test_quantized_models_are_reduced(
    kind: str, monkeypatch: pytest.MonkeyPatch, bundled: Any
) -> None:
    pytest.importorskip("torchao", reason="needs lftr[quant]")
    pytest.importorskip("sklearn", reason="the suite's digits need lftr[suites]")
    module = of("_quantized", monkeypatch)
    before = module.weights_mib(bundled.model)
    changed = module.quantized(bundled.model, kind)
    # float32 became int8 but for embeddings and norms
    assert before / 4 < module.weights_mib(changed) < before / 3
    assert module.weights_mib(bundled.model) == before
    example, setting = load("scenes", n=1)[0], Setting("lftr", get_method("lftr"), 1 / 16)
    outcomes = [
        outcome
        for model in (bundled.model, changed)
        for outcome in compare(model, bundled.processor, [example], [setting])
    ]
    assert [outcome.kept for outcome in outcomes] == [[36], [36]]
    assert outcomes[0].answers == outcomes[1].answers


def test_weights_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_mib = of("_quantized", monkeypatch).weights_mib
    layer = torch.nn.Linear(512, 512, bias=False)
    assert weights_mib(torch.nn.ModuleList([layer, layer])) == 1.0


@pytest.mark.slow
def test_a_model_that_sees_nothing_has_no_accuracy_to_maintain(
    claims: Any, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model, of random weights: all runs, and nothing is claimed of it."""
    torch.manual_seed(0)
    model = type(bundled.model)(bundled.model.config).eval()
    blind = replace(bundled, name="/somewhere/tiny", model=model)
    monkeypatch.setattr(claims, "enough", lambda questions, rounds: True)
    figures = claims.measure(blind, n=3, rounds=1, claims=["tokens"], batch=3)
    figures = json.loads(json.dumps(figures, allow_nan=False))
    assert figures["rows"][0]["accuracy"][1] <= figures["guess"]
    assert {claim["verdict"] for claim in figures["claims"]} == {claims.BLIND}
    assert "by guessing" in claims.report(figures)


def test_another_model_is_told_how_to_answer(claims: Any) -> None:
    (own,), (other,) = (claims._examples("test", 1, name) for name in ("bundled", "org/model"))
    assert other.question == f"{own.question}\n{claims.SHORT}"
    assert other.answer == own.answer


def test_what_guessing_reaches(claims: Any) -> None:
    class Asked:
        def __init__(self, category: str, answer: str) -> None:
            self.category, self.answer = category, answer

    asked = [Asked("a", "x"), Asked("a", "x"), Asked("a", "y"), Asked("b", "x")]
    assert claims.guess(asked) == 3 / 4


def test_without_torchao_the_other_claims_are_measured(
    claims: Any, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    figures = claims.measure(bundled, n=1, rounds=1, claims=["quantization"])
    assert figures["claims"] == []
    assert "torchao" in figures["left_out"]["quantization"]
