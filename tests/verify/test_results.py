"""Verdicts from figures, what a verification says, and what is refused before anything runs."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from zoo import FAMILIES

import lftr
from lftr.values.errors import ArgumentError, UnsupportedModelError
from lftr.verifying import checked_model
from lftr.verifying.checked_model import pictures
from lftr.verifying.judge import Figures, distance, judge
from lftr.verifying.result import Check

from .support import Processor, entry_of, fresh, verified

F32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("deviation", "plain", "wrong", "dtype", "verdict"),
    [
        (1e-5, 1e-6, 1.0, F32, "passed"),  # within the sums of float32: 64 * 1.2e-7 * 10
        (1e-3, 1e-6, 1.0, F32, "failed"),
        (1e-3, 3e-4, 1.0, F32, "passed"),  # within four times the plain model's
        (1e-2, 1e-6, 1.0, BF16, "passed"),  # within the steps of the dtype: 4 * 7.8e-3 * 10
        (0.5, 0.01, 1.0, BF16, "failed"),
        (0.5, 0.2, 2.0, BF16, "passed"),
        (0.5, 0.2, 1.0, BF16, "skipped"),  # 0.8 is allowed, and a wrong one is 1.0 away
        (1.5, 0.2, 1.0, BF16, "failed"),  # it could tell nothing, and is wrong all the same
        (0.0, 0.0, 0.0, F32, "skipped"),
        (float("inf"), 1e-6, 1.0, F32, "failed"),
        (float("nan"), 1e-6, 1.0, F32, "failed"),
        (1e-5, float("nan"), 1.0, F32, "skipped"),
    ],
)
def test_the_rule(
    deviation: float, plain: float, wrong: float, dtype: torch.dtype, verdict: str
) -> None:
    check = judge("one", Figures(deviation, plain, wrong, size=10.0), dtype)
    assert check.verdict == verdict
    assert bool(check.reason) == (verdict != "passed")


def test_what_must_be_the_same_bit_by_bit() -> None:
    assert judge("one", Figures(0.0, 0.0), F32).verdict == "passed"
    assert judge("one", Figures(1e-9, 0.0), F32).verdict == "failed"
    # unless the plain model does not repeat itself
    assert judge("one", Figures(1e-9, 1e-9), F32).verdict == "passed"


def test_distance() -> None:
    inf, nan = float("inf"), float("nan")
    left = torch.tensor([1.0, -inf, nan, 2.0])
    assert distance(left, torch.tensor([1.0, -inf, nan, 2.5])) == 0.5
    assert distance(left, torch.tensor([1.0, 0.0, nan, 2.0])) == inf
    assert not distance(left, torch.tensor([1.0, -inf, 3.0, 2.0])) <= 1e9
    assert distance(left, left[:3]) == inf
    assert distance(left[:0], left[:0]) == 0.0


def result_of(*checks: Check) -> lftr.Verification:
    return lftr.Verification(
        checks, "Model", "kind", "lftr", "0.25", "float32", "cpu", "sdpa", {"lftr": "1"}
    )


ESSENTIAL = (Check("everything kept", "passed", 0.0, 0.0, 0.0), Check("reduced", "passed"))


def test_what_a_verification_says() -> None:
    good = result_of(*ESSENTIAL, Check("video", "skipped", reason="no clips"))
    assert good.ok
    assert good.conclusion == "PASSED: 2 checks, 1 skipped."
    assert "    no clips" in str(good).splitlines()
    bad = result_of(*ESSENTIAL, Check("two images", "failed", float("inf"), 1e-6, 1e-5, 1.0, "far"))
    assert not bad.ok
    assert bad.conclusion.startswith("FAILED: two images.")
    assert json.loads(json.dumps(bad.to_dict(), allow_nan=False))["checks"][2] == {
        "name": "two images",
        "verdict": "failed",
        "deviation": None,
        "plain": 1e-6,
        "allowed": 1e-5,
        "wrong": 1.0,
        "reason": "far",
    }
    little = result_of(ESSENTIAL[0], Check("reduced", "skipped", reason="blind"))
    assert not little.ok
    assert little.conclusion == "NOT PROVED: these necessary checks were skipped: reduced."


def test_given_pictures_are_shown_as_viewers_show_them() -> None:
    """A phone's picture upright, and what is transparent on white."""
    sideways, clear = Image.new("RGB", (30, 20)), Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    sideways.getexif()[0x0112] = 6
    first, second, *drawn = pictures([sideways, clear], seed=0)
    assert first.size == (20, 30)
    assert second.getpixel((0, 0)) == (255, 255, 255)
    assert len(drawn) == 2


def test_the_versions_are_told() -> None:
    told = verified(entry_of("llava"), steps=2).to_dict()
    assert told["versions"].keys() == {"lftr", "torch", "transformers"}
    assert told["versions"]["lftr"] == lftr.__version__
    assert (told["model_type"], told["dtype"], told["device"]) == ("llava", "float32", "cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "downsample"}, "encodes the image again"),
        ({"method": ["lftr", "downsample"]}, "encodes the image again"),
        ({"method": "fastv", "keep": 1 / 100}, "keep = 0.01; allowed: at least"),
        ({"method": []}, "method = []; allowed: at least one method"),
        ({"method": "divprun"}, "did you mean 'divprune'"),
        ({"method": 3}, "method = 3"),
        ({"steps": 1}, "steps = 1; allowed: a whole number, at least 2"),
        ({"keep": 0}, "keep = 0"),
        ({"positions": "middle"}, "positions = 'middle'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        verified(entry_of("llava"), **options)
    assert words in str(caught.value)


def test_a_processor_is_asked_for() -> None:
    with pytest.raises(ArgumentError, match=r"processor = None; allowed: .*AutoProcessor"):
        lftr.verify(FAMILIES["llava"].model())


def test_a_processor_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match="a processor or tokenizer of transformers"):
        lftr.verify(FAMILIES["llava"].model(), object())


def test_models_whose_answers_are_not_settled() -> None:
    entry = entry_of("llava")
    model = fresh(entry).train()
    with pytest.raises(ArgumentError, match="training mode"):
        verified(entry, model)
    with (
        lftr.reduce(model.eval(), "random", keep=0.5),
        pytest.raises(ArgumentError, match="a model without a reduction"),
    ):
        verified(entry, model)


def test_a_model_without_images() -> None:
    entry = entry_of("llava")
    model = entry.model().model.language_model
    with pytest.raises(UnsupportedModelError, match="names no images or videos"):
        lftr.verify(model, Processor(entry, model))


def test_what_is_checked_is_told_before_it_is() -> None:
    seen: list[tuple[str, int, int]] = []
    result = verified(entry_of("llava"), steps=2, told=lambda *one: seen.append(one))
    names = [check.name for check in result.checks]
    assert seen == [(name, number, len(names)) for number, name in enumerate(names)]


def test_random_states_are_as_before_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Devices:
        """Two devices, as torch.cuda is seen by fork_rng."""

        states: ClassVar = {0: "of the user, 0", 1: "of the user, 1"}

        def is_initialized(self) -> bool:
            return True

        def get_rng_state(self, device: torch.device) -> str:
            return self.states[device.index]

        def set_rng_state(self, state: str, device: torch.device) -> None:
            self.states[device.index] = state

    def seed(number: int) -> None:
        devices.states.update(dict.fromkeys(devices.states, f"of the seed {number}"))

    devices, before = Devices(), dict(Devices.states)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda *_: devices)
    monkeypatch.setattr(torch, "manual_seed", seed)
    with checked_model._seeded():
        assert set(devices.states.values()) == {"of the seed 0"}
    assert devices.states == before


def test_a_seed_is_not_remembered_for_devices_that_start_later() -> None:
    torch.manual_seed(7)
    state, calls = torch.get_rng_state(), torch.cuda._lazy_seed_tracker.get_calls()
    with checked_model._seeded():
        drawn = torch.rand(2)
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.cuda._lazy_seed_tracker.get_calls() == calls
