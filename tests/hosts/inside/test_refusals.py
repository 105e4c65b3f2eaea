"""What cannot be right is refused with a reason, and the model stays as it was."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lftr
from lftr.methods.inside.base import LayerView
from lftr.methods.inside.schedules import Average, Exit, Linear, Skip, Stages, Step

from ..support import FAMILIES, WIDE, Image, Prompt, ZooEntry
from .support import Own, Planned, Previous


def refused(model: Any, method: Any, **options: Any) -> str:
    """The message of a refusal that leaves nothing behind."""
    before = set(model.__dict__)
    with pytest.raises(lftr.LftrError) as caught:
        lftr.reduce(model, method, **options)
    assert set(model.__dict__) == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Previous(Step(40, 0.5)), "layer = 40; allowed: a decoder layer of this model, 1 to 2"),
        (Planned(Exit(9)), "layer = 9; allowed: a decoder layer of this model, 1 to 3"),
        (
            Previous(Average(Step(2, 0.5), 0.1)),
            "keep = 0.1; allowed: at least 0.667 of the tokens on average: 2 of 3 layers",
        ),
        (Previous(Stages((2, 0.1), (0.5, 0.25))), "rising layers; in this model they are [2, 1]"),
        (Planned(Linear(2, 1)), "stop = 1; allowed: a layer not before start, here 2"),
    ],
    ids=["step", "exit", "average", "stages", "linear"],
)
def test_a_schedule_that_does_not_fit(llava: ZooEntry, method: Any, words: str) -> None:
    assert words in refused(llava.model(), method)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step(0, 0.5),
        lambda: Step(2, 0.0),
        lambda: Step(True, 0.5),
        lambda: Step(2, lftr.Budget(total=5)),
        lambda: Stages((1, 2), (0.25, 0.5)),
        lambda: Stages((1, 2), (0.5,)),
        lambda: Stages((), ()),
        lambda: Linear(1, 2, 1.5),
        lambda: Exit(1.5),
        lambda: Skip("dropped", every=2),
        lambda: Skip("frozen"),
        lambda: Skip("frozen", every=2, layers=(1,)),
    ],
)
def test_a_schedule_that_makes_no_sense(make: Any) -> None:
    with pytest.raises(lftr.LftrError, match="allowed"):
        make()


@pytest.mark.parametrize(
    ("name", "words"),
    [(e.name, e.traits.sealed) for e in FAMILIES.values() if e.traits.sealed]
    + [("mllama", "cross-attention")],
)
def test_a_family_that_cannot_be_hosted(name: str, words: str) -> None:
    assert words in refused(FAMILIES[name].model(), "fastv")


def test_layers_that_deepstack_adds_to() -> None:
    entry = FAMILIES["qwen3_vl"]
    planes = entry.traits.deepstack
    assert planes > 1
    words = refused(entry.model(), Previous(Step(planes - 1, 0.5)))
    assert f"layers from {planes} on" in words
    lftr.reduce(entry.model(), Previous(Step(planes, 0.5))).remove()


def test_flex_attention(llava: ZooEntry) -> None:
    model = llava.build()
    model.config.get_text_config()._attn_implementation = "flex_attention"
    assert "flex_attention" in refused(model, "fastv")


def test_reading_where_tokens_rest(llava: ZooEntry) -> None:
    words = refused(llava.model(), [Previous(Step(2, 0.5)), Planned(Skip("bypassed", layers=(1,)))])
    assert "reads the attention of layer 1" in words


def test_reading_where_there_is_no_attention() -> None:
    model = FAMILIES["qwen3_5"].model()
    for method in (Own(Step(1, 0.5)), Previous(Step(2, 0.5))):
        assert "have attention over their tokens: [3]" in refused(model, method)
    lftr.reduce(model, Own(Step(3, 0.5))).remove()


def test_a_gate_cannot_exit_before_the_last_plane() -> None:
    """Where DeepStack still adds to the image, a count of none is not heard."""

    class Eager(lftr.LayerMethod):
        schedule = Exit(1.0)

        def watches(self, depth: int) -> frozenset[int]:
            return frozenset(range(depth))

        def count(self, view: LayerView, planned: int) -> int:
            return 0

    entry = FAMILIES["qwen3_vl"]
    prompt = Prompt(entry, [WIDE])
    with lftr.reduce(prompt.model, Eager()) as reduction:
        prompt.generate()
    planes = entry.traits.deepstack
    tokens = [layer.tokens for layer in reduction.report.layers]
    assert tokens == [tokens[0]] * planes + [0] * (len(tokens) - planes)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (["fastv", "lftr", "divprune"], {"keep": 0.5}, "one method before the language model"),
        (["fastv", "fastv"], {"keep": 0.5}, "keep = 0.5; allowed: None"),
        (["fastv", "lftr"], {}, "keep = None"),
        ("fastv", {"keep": lftr.Budget(total=9)}, "keep = Budget(total=9)"),
        ("fastv", {"keep": "auto"}, "keep = 'auto'"),
        ([], {"keep": 0.5}, "method = []"),
        (3, {"keep": 0.5}, "method = 3"),
        (lftr.methods.FastV(layer=3), {}, "layer = 3; allowed: a decoder layer"),
        ("fastw", {}, "did you mean 'fastv'"),
    ],
    ids=[
        "two before",
        "two inside",
        "no keep",
        "budget",
        "auto",
        "none",
        "a number",
        "a layer",
        "a name",
    ],
)
def test_arguments(llava: ZooEntry, method: Any, options: dict[str, Any], words: str) -> None:
    assert words in refused(llava.model(), method, **options)


def test_prefill_in_pieces(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with (
        lftr.reduce(prompt.model, "fastv"),
        pytest.raises(lftr.LftrError, match="prefill_chunk_size = 7"),
    ):
        prompt.generate(prefill_chunk_size=7)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda view, keep: None, "returned None"),
        (lambda view, keep: lftr.Selection.everything(keep + 1), "have to stay"),
        (lambda view, keep: lftr.Selection(torch.arange(keep) + len(view.visual)), "chose token"),
    ],
    ids=["nothing", "too many", "beyond"],
)
def test_a_method_that_returns_nonsense(llava: ZooEntry, said: Any, words: str) -> None:
    class Odd(lftr.LayerMethod):
        schedule = Step(1, 0.5)

        def select(self, view: LayerView, keep: int) -> lftr.Selection:
            return said(view, keep)

    prompt = Prompt(llava, [WIDE])
    plain = prompt.generate()
    with lftr.reduce(prompt.model, Odd()), pytest.raises(lftr.LftrError, match=re.escape(words)):
        prompt.generate()
    again = prompt.generate()
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, again.logits, strict=True))


def test_a_number_that_a_prompt_cannot_meet(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, "fastv", tokens=60) as reduction:
        prompt.generate()
        assert reduction.report.tokens * 2 / 3 < reduction.report.average <= 60
    with (
        lftr.reduce(prompt.model, "fastv", tokens=9),
        pytest.raises(lftr.LftrError, match="keep = 9; allowed: at least 48"),
    ):
        prompt.generate()


def test_a_cache_cut_into_what_was_dropped(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, "fastv"):
        cache = prompt.generate(new=1).past_key_values
        cache.crop(-8)
        with pytest.raises(lftr.LftrError, match="cropped by 8 columns"):
            prompt.model(input_ids=torch.tensor([[20]]), past_key_values=cache)


@pytest.mark.parametrize("method", [Planned(Exit(1)), Own(Step(1, 1))], ids=["exit", "own"])
def test_a_prompt_that_ends_in_its_image(llava: ZooEntry, method: Any) -> None:
    """The first answer would be predicted by a token that is gone."""
    prompt = Prompt(llava, [[3, Image("square", 2)]])
    with (
        lftr.reduce(prompt.model, method),
        pytest.raises(lftr.LftrError, match="ends in visual tokens"),
    ):
        prompt.generate()


def test_a_cache_of_layers_under_a_reduction_before(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, "fastv"):
        cache = prompt.generate(new=1).past_key_values
    with (
        lftr.reduce(prompt.model, "random", keep=0.5),
        pytest.raises(lftr.LftrError, match="its layers hold different tokens"),
    ):
        prompt.model.generate(**prompt.inputs(), past_key_values=cache, max_new_tokens=1)


@pytest.mark.parametrize(("method", "options"), [("fastv", {}), ("random", {"keep": 0.5})])
def test_a_cache_that_was_reset_is_a_new_one(llava: ZooEntry, method: str, options: Any) -> None:
    prompt = Prompt(llava, [WIDE])
    inputs = prompt.inputs()
    cache = StaticCache(prompt.model.config.get_text_config(), max_cache_len=200)
    with lftr.reduce(prompt.model, method, **options):
        first = prompt.model(**inputs, past_key_values=cache).logits
        cache.reset()
        again = prompt.model(**inputs, past_key_values=cache).logits
    assert torch.equal(first, again)


def test_an_interrupt_leaves_nothing_open(llava: ZooEntry) -> None:
    class Interrupted(lftr.LayerMethod):
        schedule = Step(2, 0.5)
        reads = "previous"

        def select(self, view: LayerView, keep: int) -> lftr.Selection:
            raise KeyboardInterrupt

    prompt = Prompt(llava, [WIDE])
    plain = prompt.generate()
    with pytest.raises(KeyboardInterrupt), lftr.reduce(prompt.model, Interrupted()):
        prompt.generate()
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)
    again = prompt.generate()
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, again.logits, strict=True))


def test_operations_of_frozen_tokens_are_not_made_up(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, "freeze") as reduction:
        prompt.forward()
    with pytest.raises(lftr.LftrError, match="frozen"):
        reduction.report.flops()
    assert reduction.report.to_dict()["flops"] == {}


def test_tokens_that_are_not_seen_count_as_gone(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, Planned(Skip("bypassed", layers=(1,)))) as reduction:
        prompt.forward()
    assert reduction.report.average == pytest.approx(reduction.report.tokens * 2 / 3)
