"""The plugin compares what it relies on with the vLLM that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lftr
from lftr.hosts.vllm import api

APPLY = "vllm.multimodal.processing:BaseMultiModalProcessor.apply"


@pytest.fixture(autouse=True)
def _checked_anew() -> None:
    api.check.cache_clear()


def test_this_release_has_what_the_plugin_relies_on() -> None:
    api.check()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (APPLY, ("self", "prompt"), r"apply takes \(self, inputs, timing_ctx\), not \(self, pr"),
        (APPLY, ("self",), "apply takes"),
        (f"{APPLY}_all", ("self",), "BaseMultiModalProcessor.apply_all is missing"),
        ("vllm.nowhere:apply", (), "vllm.nowhere.apply is missing"),
        ("vllm.nowhere.at_all:apply", (), "vllm.nowhere.at_all.apply is missing"),
        ("vllm.config.multimodal:MultiModalConfig.__doc__", (), "__doc__ is a str, not a function"),
        (
            "vllm.multimodal.hasher:MultiModalHasher.hash_kwargs",
            ("algorithm", "kwargs"),
            r"takes \(algorithm, \*\*kwargs\), not \(algorithm, kwargs\)",
        ),
    ],
)
def test_differences_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, parameters: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(api, "PARAMETERS", {**api.PARAMETERS, name: parameters})
    with pytest.raises(lftr.LftrError, match=message):
        api.check()


def test_a_property_is_no_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.multimodal.processing import BaseMultiModalProcessor

    monkeypatch.setattr(BaseMultiModalProcessor, "apply", property(lambda self: None))
    with pytest.raises(lftr.LftrError, match=r"apply is a property, not a function"):
        api.check()


def test_a_library_that_a_module_of_vllm_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lacks_a_library.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(api, "PARAMETERS", {"lacks_a_library:apply": ()})
    message = r"lacks_a_library cannot be imported \(No module named 'no_such_library'\)"
    with pytest.raises(lftr.LftrError, match=message):
        api.check()


class Stock(nn.Module):
    """A model of vLLM that returns what it is run with."""

    def forward(self, ids: Tensor, positions: Tensor, *_: object) -> Tensor:
        return positions


def reduced(rewrites_positions: bool) -> nn.Module:
    """A reduced model without its parts, after a step with an image."""
    from lftr.hosts.vllm.model.gaps import Gapped
    from lftr.hosts.vllm.model.slot_weights import StepWeights

    class Reduced(Gapped, Stock):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.rewrites_positions = rewrites_positions
            self.slot_weights = StepWeights(4)
            self.slot_weights.logs.fill_(1)

    return Reduced()


def test_positions_that_vllm_counted_are_refused() -> None:
    rows = torch.arange(3).repeat(3, 1)
    assert torch.equal(reduced(True)(torch.arange(3), rows), rows[0])
    assert torch.equal(reduced(False)(torch.arange(3), rows[0]), rows[0])
    with pytest.raises(lftr.LftrError, match=r"positions of shape \(3,\) to Reduced"):
        reduced(True)(torch.arange(3), rows[0])
    with pytest.raises(lftr.LftrError, match=r"positions of shape \(3, 3\) to Reduced"):
        reduced(False)(torch.arange(3), rows)


def test_a_step_of_ids_has_no_weights_of_the_step_before() -> None:
    model = reduced(False)
    model(torch.arange(3), torch.arange(3), None, torch.ones(3, 2))
    assert model.slot_weights.logs.all()
    model(torch.arange(3), torch.arange(3))
    assert not model.slot_weights.logs.any()
