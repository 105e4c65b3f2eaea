"""Models of several families are proved right, and what they cannot do is skipped with a reason."""

from __future__ import annotations

import copy

import pytest
import torch
from zoo import Image

import lftr
from lftr.methods.inside.schedules import Skip
from lftr.verifying.hidden import LayerChoices, hidden_logits
from lftr.verifying.judge import distance
from lftr.verifying.reference import Reference, visual_columns

from .support import entry_of, fresh, verdicts, verified

# what is skipped beside the video of families that the test's processor makes none for
SKIPPED: dict[str, dict[str, str]] = {
    "llava": {},
    "llava_next": {},
    "qwen2_5_vl": {},
    "qwen3_vl": {},
    "llava_onevision": {},
    "idefics3": {},
    "gemma3": {},
    "gemma4_shared": {"inside": "share the keys"},
    "paligemma": {},
    "granite4_vision": {},
    "hunyuan_vl": {},
    "hyperclovax_vision_v2": {},
    "lfm2_vl": {"inside": "layers of conv"},
    "nemotron_h_omni": {"inside": "layers that have attention"},
    "qwen3_5": {"inside": "layers that have attention"},
    "mllama": {"inside": "cross-attention"},
    "blip_2": dict.fromkeys(("second turn, all ids", "second turn, new ids"), "pixel_values"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIPPED)
def test_is_proved(name: str) -> None:
    entry = entry_of(name)
    result = verified(entry)
    assert result.ok, result
    expected = dict(SKIPPED[name])
    if not hasattr(entry, "family"):
        expected["video"] = "no video processor"
    found = {check.name: check.reason for check in result.checks if check.verdict == "skipped"}
    assert found.keys() == expected.keys()
    assert all(expected[one] in reason for one, reason in found.items())
    for check in result.checks:
        if check.verdict == "passed" and check.wrong is not None:
            assert check.deviation <= check.allowed < check.wrong / 20


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_all_of_it(name: str) -> None:
    result = verified(entry_of(name), full=True)
    assert result.ok, result
    # transformers 5.18 gives beams of several images the wrong ones by itself
    upstream = {check.name for check in result.checks if (check.plain or 0) > 1e-2}
    assert upstream <= {"beams"}
    found = {name: verdict for name, verdict in verdicts(result).items() if name not in upstream}
    for one in {"beams", "sampling with a seed", "static cache", "prompt lookup"} - upstream:
        assert found[one] == "passed"
    assert [name for name, verdict in found.items() if verdict != "passed"] in ([], ["video"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """By the plain model's own deviation, which is a thousand times that of float32."""
    entry = entry_of("llava")
    result = verified(entry, fresh(entry).to(dtype))
    assert result.ok, result
    assert result.dtype == str(dtype).removeprefix("torch.")
    reduced = next(check for check in result.checks if check.name == "reduced")
    assert reduced.allowed > 1e-3
    assert reduced.wrong > 2 * reduced.allowed


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_positions(positions: str) -> None:
    result = verified(entry_of("qwen2_5_vl"), positions=positions)
    assert result.ok, result


def test_eager_attention() -> None:
    entry = entry_of("llava")
    result = verified(entry, entry.model("eager"))
    assert result.ok, result
    assert result.attention == "eager"


@pytest.mark.parametrize(
    "method",
    [
        lftr.methods.FastV(layer=1, keep=0.3),
        lftr.methods.Bypass(schedule=Skip("bypassed", layers=(1,))),
        lftr.methods.Freeze(schedule=Skip("frozen", layers=(1,))),
    ],
    ids=str,
)
def test_a_method_inside(method: lftr.LayerMethod) -> None:
    result = verified(entry_of("llava"), method=method)
    inside = next(check for check in result.checks if check.name == "inside")
    assert inside.verdict == "passed"
    assert inside.reason == str(method)
    assert result.method == f"lftr + {method}"


def test_a_method_inside_that_cannot_be_checked_is_not_proved() -> None:
    """Whoever names one wants to know about it; without one, the check is for those who wonder."""
    entry, method = entry_of("gemma4_shared"), lftr.methods.FastV(layer=1, keep=0.3)
    assert verified(entry).ok
    result = verified(entry, method=method)
    assert verdicts(result)["inside"] == "skipped"
    assert not result.failed
    assert not result.ok
    assert result.conclusion.startswith("NOT PROVED")
    assert "inside" in result.conclusion
    assert result.to_dict()["essential"] == ("everything kept", "reduced", "inside")


def test_keep_is_of_the_method_given() -> None:
    entry = entry_of("llava")
    result = verified(entry, method=["divprune", lftr.methods.FastV(layer=1)], tokens=5)
    assert (result.ok, result.keep, result.method.split()[0]) == (True, "5", "divprune")
    result = verified(entry, method=lftr.methods.FastV(layer=1, keep=0.3), keep=0.5)
    assert result.keep == "1/4"
    assert "Average" in result.method


def test_everything_stays() -> None:
    """Then there is nothing to prove, and that is said."""
    result = verified(entry_of("llava"), tokens=1000)
    assert verdicts(result)["reduced"] == "skipped"
    assert not result.ok
    assert not result.failed
    assert "NOT PROVED" in result.conclusion
    assert "choose a smaller number" in str(result)


def test_a_model_that_does_not_look_at_its_image() -> None:
    """What is wrong cannot be told from what is right, so nothing passes."""
    entry = entry_of("llava")
    model = fresh(entry)
    model.model.multi_modal_projector.linear_2.weight.zero_()
    model.model.multi_modal_projector.linear_2.bias.zero_()
    for layer in model.model.language_model.layers:
        layer.self_attn.o_proj.weight.zero_()
    result = verified(entry, model)
    assert verdicts(result)["reduced"] == "skipped"
    assert "inconclusive" in str(result)
    assert not result.ok


@pytest.mark.parametrize("mixes", [False, True])
@torch.no_grad()
def test_noise_where_tokens_are_hidden(mixes: bool) -> None:
    """It changes nothing, but for layers that read tokens in other ways than by attention."""
    entry = entry_of("llava")
    model = fresh(entry)
    if mixes:
        mlp = model.model.language_model.layers[2].mlp
        original = mlp.forward
        mlp.forward = lambda states: original(states) + states.mean(dim=1, keepdim=True)
    inputs = entry.inputs(model, [[2, Image("square"), 3]])
    columns = visual_columns(model, inputs["input_ids"][0]).nonzero()[:, 0]
    said = [(1, len(columns), lftr.Selection(torch.arange(5)))]
    reference = Reference(model, inputs, [20, 21])
    quiet, noisy = (
        hidden_logits(reference, LayerChoices(columns, said, (), noise)) for noise in (False, True)
    )
    assert (distance(quiet, noisy) > 1e-2) is mixes
    assert distance(quiet, reference.logits()) > 1e-2


def test_the_model_is_as_it_was() -> None:
    entry = entry_of("qwen2_5_vl")
    model = fresh(entry)
    weights = copy.deepcopy(model.state_dict())
    verified(entry, model)
    hooks = [m for m in model.modules() if any(map(_is_ours, m._forward_pre_hooks.values()))]
    assert not hooks
    assert "generate" not in vars(model)
    assert all(torch.equal(weights[name], x) for name, x in model.state_dict().items())


def _is_ours(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("lftr")
