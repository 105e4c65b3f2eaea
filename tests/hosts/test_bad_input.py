"""Every mistake is one clear error, and the model stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

import lftr
from lftr.values.errors import ArgumentError, MissingEvidenceError, UnsupportedModelError

from .support import (
    FAMILIES,
    HOSTED,
    SQUARE,
    VIDEOS,
    WIDE,
    Asking,
    Prompt,
    ZooEntry,
    fresh,
    reduced,
)
from .test_lifetime import traces, warmed


@pytest.fixture(autouse=True)
def untouched(llava: ZooEntry) -> Iterator[None]:
    """Whatever happens, nothing is left on the model."""
    prompt = warmed(llava)
    before = traces(prompt.model)
    yield
    assert traces(prompt.model) == before


@pytest.mark.parametrize(
    "keep", [0, -1, 0.0, -0.5, 1.5, float("nan"), float("inf"), "abc", "1/0", None, True, [1]]
)
def test_keep(llava: ZooEntry, keep: Any) -> None:
    with pytest.raises(ArgumentError, match=r"keep = .*allowed: a ratio in \(0, 1\]") as caught:
        lftr.reduce(llava.model(), "random", keep=keep)
    assert repr(keep) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_count_as_keep_is_deprecated(llava: ZooEntry) -> None:
    for keep in (4, "1"):
        with pytest.warns(DeprecationWarning, match=f"write tokens={keep} ") as caught:
            reduction = lftr.reduce(llava.model(), "random", keep=keep)  # type: ignore[arg-type]
        reduction.remove()
        assert caught[0].filename == __file__
        assert reduction.host.plan.keep == int(keep)


@pytest.mark.parametrize("tokens", [0, -1, 0.5, 4.0, "4", True, float("nan")])
def test_tokens(llava: ZooEntry, tokens: Any) -> None:
    with pytest.raises(ArgumentError, match=r"tokens = .*allowed: a whole number >= 1"):
        lftr.reduce(llava.model(), "random", tokens=tokens)
    with pytest.raises(ArgumentError, match=r"tokens = .* one of keep and tokens; keep = 0\.5"):
        lftr.reduce(llava.model(), "random", keep=0.5, tokens=tokens)


def test_keep_auto_needs_a_method_that_counts(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with (
        pytest.raises(lftr.LftrError, match="auto"),
        lftr.reduce(prompt.model, "random", keep="auto"),
    ):
        prompt.generate(1)


def test_a_budget_below_the_items(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    with (
        reduced(prompt.model, keep=lftr.Budget(total=1)),
        pytest.raises(ArgumentError, match=r"Budget.total = 1.*2 items"),
    ):
        prompt.generate(1)


@pytest.mark.parametrize(
    ("name", "near"), [("randon", "random"), ("divprun", "divprune"), ("VisionZip", "visionzip")]
)
def test_unknown_method(llava: ZooEntry, name: str, near: str) -> None:
    with pytest.raises(ArgumentError, match=f"unknown method '{name}'.*'{near}'"):
        lftr.reduce(llava.model(), name, keep=0.5)


def test_not_a_method(llava: ZooEntry) -> None:
    with pytest.raises(ArgumentError, match="method = 3; allowed: a name"):
        lftr.reduce(llava.model(), 3, keep=0.5)  # type: ignore[arg-type]


def test_unknown_option() -> None:
    with pytest.raises(
        ArgumentError, match=r"unknown option of method 'visionzip' 'contextal'.*'c"
    ):
        lftr.get_method("visionzip", contextal=0.1)


@pytest.mark.parametrize("positions", ["bogus", 1, ""])
def test_positions(llava: ZooEntry, positions: Any) -> None:
    with pytest.raises(ArgumentError, match=r"positions = .*'original' or 'compact'"):
        lftr.reduce(llava.model(), "random", keep=0.5, positions=positions)


def test_text(llava: ZooEntry) -> None:
    with pytest.raises(ArgumentError, match="text = "):
        lftr.reduce(llava.model(), "random", keep=0.5, text=[1, 2])  # type: ignore[list-item]


def test_text_only_model() -> None:
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )

    class LlavaLlamaForCausalLM(transformers.LlamaForCausalLM):
        """As LLaVA's own repository makes one: it has images that transformers does not know."""

    for cls in (transformers.LlamaForCausalLM, LlavaLlamaForCausalLM):
        with pytest.raises(UnsupportedModelError, match=r"names no images .*lftr\.reduce_module"):
            lftr.reduce(cls(config), "random", keep=0.5)


def test_unsupported_family() -> None:
    class Other:
        """A model of a family nobody has heard of."""

        config = type("Config", (), {"model_type": "other_vl"})()
        input_modalities = ("image", "text")

    with pytest.raises(UnsupportedModelError, match=r"'other_vl'. is not hosted") as caught:
        lftr.reduce(Other(), "random", keep=0.5)
    for name in ("llava", "qwen2_5_vl", "reduce_module"):
        assert name in str(caught.value)


@pytest.mark.parametrize("model", [None, "llava", torch.nn.Linear(1, 1)], ids=str)
def test_not_a_model(model: Any) -> None:
    with pytest.raises(UnsupportedModelError):
        lftr.reduce(model, "random", keep=0.5)


def test_list_families_is_the_zoo() -> None:
    types = {entry.model().config.model_type for entry in HOSTED}
    assert types <= set(lftr.list_families())


def test_videos(entry: ZooEntry) -> None:
    """Of a family whose videos are not hosted: an error that says whose are."""
    if entry.name in {video.name for video in VIDEOS.values()}:
        pytest.skip("its videos are")
    prompt = Prompt(entry)
    video = prompt.inputs() | {"pixel_values_videos": torch.zeros(1, 2, 3, 24, 24)}
    with lftr.reduce(prompt.model, "random", keep=0.5):
        for call in (prompt.model.generate, prompt.model):
            with pytest.raises(UnsupportedModelError, match=r"qwen2_vl.*frames=lftr\.Frames\(\)"):
                call(**video)


def test_embeddings_instead_of_ids(entry: ZooEntry) -> None:
    prompt = Prompt(entry, [SQUARE])
    inputs = prompt.inputs()
    ids = inputs.pop("input_ids")
    inputs["inputs_embeds"] = torch.zeros(*ids.shape, 48)
    with lftr.reduce(prompt.model, "random", keep=0.5):
        for call in (prompt.model.generate, prompt.model):
            with pytest.raises(ArgumentError, match="inputs_embeds cannot be reduced"):
                call(**inputs)


@pytest.mark.parametrize("more", [-1, 1])
def test_placeholders_do_not_match(entry: ZooEntry, more: int) -> None:
    prompt = Prompt(entry, [SQUARE])
    inputs = prompt.inputs()
    visual = prompt.visual(inputs["input_ids"])[0].nonzero().squeeze(1)
    if more < 0:
        inputs["input_ids"][0, visual[-1]] = 20
    else:
        inputs["input_ids"][0, -1] = inputs["input_ids"][0, visual[-1]]
    with (
        lftr.reduce(prompt.model, "random", keep=0.5),
        pytest.raises(
            ArgumentError,
            match=f"{len(visual) + more} (image|video) placeholders.*: {len(visual)}, one for each",
        ),
    ):
        prompt.model.generate(**inputs)


def test_mask_of_another_size(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    inputs = prompt.inputs()
    inputs["attention_mask"] = inputs["attention_mask"][:, :-1]
    with (
        lftr.reduce(prompt.model, "random", keep=0.5),
        pytest.raises(ArgumentError, match="attention_mask"),
    ):
        prompt.model.generate(**inputs)


class Wrong(lftr.Method):
    """Returns one token too many, or too few."""

    def __init__(self, more: int) -> None:
        self.more = more

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        return lftr.Selection(torch.arange(keep + self.more).expand(len(tokens.features), -1))


@pytest.mark.parametrize("more", [-1, 1])
def test_a_method_that_counts_wrong(llava: ZooEntry, more: int) -> None:
    prompt = Prompt(llava)
    with (
        lftr.reduce(prompt.model, Wrong(more), tokens=5),
        pytest.raises(lftr.LftrError, match=r"Wrong.choose returned slots"),
    ):
        prompt.generate(1)


class Bare(lftr.Method):
    """Returns an index instead of a selection, from either function."""

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> Any:
        return torch.arange(keep).expand(len(tokens.features), -1)


class BareSelect(lftr.Method):
    def select(self, tokens: lftr.VisualTokens, keep: Any) -> Any:
        return torch.arange(keep)


@pytest.mark.parametrize(
    ("method", "said"), [(Bare(), "Bare.choose"), (BareSelect(), "BareSelect.select")]
)
def test_a_method_that_returns_no_selection(
    llava: ZooEntry, method: lftr.Method, said: str
) -> None:
    prompt = Prompt(llava)
    with (
        lftr.reduce(prompt.model, method, tokens=5),
        pytest.raises(lftr.LftrError, match=rf"{said} returned Tensor where a lftr\.Selection"),
    ):
        prompt.generate(1)


class Loose(lftr.Method):
    """Takes over `select`, and returns one slot too many, or a token that is not there."""

    def __init__(self, shift: int, more: int) -> None:
        self.shift, self.more = shift, more

    def select(self, tokens: lftr.VisualTokens, keep: object) -> lftr.Selection:
        assert isinstance(keep, int)
        return lftr.Selection(torch.arange(keep + self.more) + self.shift)


@pytest.mark.parametrize(("shift", "more"), [(0, 1), (0, -1), (34, 0)])
def test_a_select_that_is_wrong(llava: ZooEntry, shift: int, more: int) -> None:
    prompt = Prompt(llava)
    with (
        lftr.reduce(prompt.model, Loose(shift, more), tokens=5),
        pytest.raises(lftr.LftrError, match=r"Loose.select returned slots"),
    ):
        prompt.generate(1)


def test_missing_evidence_is_told_at_once() -> None:
    """At `reduce`, not at the first call, naming the field and who can provide it."""
    with pytest.raises(MissingEvidenceError, match=r"needs cls_attention.*CLS token") as caught:
        lftr.reduce(FAMILIES["gemma3"].model(), Asking("cls_attention"), keep=0.5)
    assert "Gemma3" in str(caught.value)


def test_text_guided_without_text(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [SQUARE])
    inputs = prompt.inputs()
    visual = prompt.visual(inputs["input_ids"])
    inputs = {k: v[visual][None] if v.ndim == 2 else v for k, v in inputs.items()}
    with (
        lftr.reduce(prompt.model, "cdpruner", keep=0.5),
        pytest.raises(ArgumentError, match="text"),
    ):
        prompt.model.generate(**inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["divprune", "lftr", "vispruner", "trim", "scope", "tome"])
def test_broken_pixels(entry: ZooEntry, method: str, value: float) -> None:
    """A broken image: exactly K tokens all the same, a warning, and the other rows unharmed."""
    prompt = Prompt(entry, [WIDE, SQUARE])
    inputs = prompt.inputs()
    pixels = inputs[entry.pixels]
    last = -1 if len(pixels) == 1 else 0  # all images may be packed, one after the other
    pixels[-1].view(-1)[last] = value
    try:
        with reduced(prompt.model, method) as run:
            prompt.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except MissingEvidenceError as missing:
        pytest.skip(str(missing))
    for item in run.report.items:
        assert len(set(item.positions)) == item.kept
    broken = [not torch.isfinite(tokens.features).all() for tokens in run.method.tokens]
    assert any(broken) != entry.traits.codes  # a code is finite, whatever the pixels were
    # images share one masked attention in Pixtral's tower
    assert not broken[0] or entry.name in ("mistral3", "mistral_large4", "lighton_ocr")
    assert any("non-finite" in note for note in run.report.notes) == any(broken)


def test_too_old_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import lftr.hosts.transformers as host
    from lftr.hosts.transformers import api

    monkeypatch.setattr(api, "RELEASE", (5, 17))
    with pytest.raises(lftr.LftrError, match=r"is too old.*5\.18"):
        importlib.reload(host)
    monkeypatch.setattr(api, "RELEASE", (5, 18))
    importlib.reload(host)


def test_a_copy_of_a_reduced_model(llava: ZooEntry) -> None:
    """A copy made while a reduction is on is of the plain model, or is refused; never half."""
    prompt = Prompt(llava, model=fresh(llava))
    plain = prompt.generate(1).logits[0]
    with lftr.reduce(prompt.model, "random", keep=0.4) as reduction:
        try:
            copied = Prompt(llava, model=copy.deepcopy(prompt.model))
        except lftr.LftrError:
            copied = None
        else:
            assert torch.equal(copied.generate(1).logits[0], plain)
            assert reduction.report.received == 0
        assert not torch.equal(prompt.generate(1).logits[0], plain)
        assert reduction.report.received > 0
    assert torch.equal(prompt.generate(1).logits[0], plain)
    assert copied is None or torch.equal(copied.generate(1).logits[0], plain)
