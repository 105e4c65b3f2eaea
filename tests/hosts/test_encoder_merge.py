"""Tokens that merge inside the encoder: its layers, run by hand with the merges that were decided.

What the language model then makes of the merged tokens is compared with `oracle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo.llava import Llava
from zoo.parts import siglip

import lftr
from lftr.hosts.transformers.encoder.encode_cache import encode_once
from lftr.hosts.transformers.families import family_of
from lftr.methods import FastV
from lftr.methods.encoder.merges import EncoderMerge, MergingLayer
from lftr.values.budget import as_arguments

from .support import (
    FAMILIES,
    WIDE,
    Choice,
    Image,
    Prompt,
    Recording,
    ZooEntry,
    assert_close,
    conversation,
    distance,
    fresh,
    images_of,
)
from .test_identity import assert_same
from .test_lifetime import traces, warmed


class LlavaSiglip(Llava):
    """LLaVA on SigLIP: no class token, so that the model takes every token of a middle layer."""

    name = "llava_siglip"
    traits = replace(Llava.traits, has_cls=False)

    def config(self) -> Any:
        config = super().config()
        config.vision_config = siglip(24)
        config.vision_feature_select_strategy = "full"
        return config


class LlavaFull(Llava):
    """LLaVA whose language model is shown the class token too."""

    name = "llava_full"

    def config(self) -> Any:
        config = super().config()
        config.vision_feature_select_strategy = "full"
        return config

    def counts(self, model: Any, image: Image, alone: bool = True) -> int:
        return 37


MERGED = {name: FAMILIES[name] for name in ("llava", "vipllava", "paligemma")}
MERGED["llava_siglip"] = LlavaSiglip()
MERGES = {
    "tome": lftr.EncoderToMe(r=7),
    "proportional": lftr.EncoderToMe(r=7, proportional=True),
    "folder": lftr.EncoderFolder(keep=10),
    "flowcut": lftr.EncoderFlowCut(keep=10),
    "ficoco": lftr.EncoderFiCoCo(keep=10),
}
OTHERS = [name for name in FAMILIES if name not in MERGED]


@dataclass
class Written(EncoderMerge):
    """Hands every decision on to another merge and writes it down."""

    inner: EncoderMerge
    seen: list[MergingLayer] = field(default_factory=list)
    chosen: list[lftr.Selection] = field(default_factory=list)

    @property
    def weighs_attention(self) -> bool:
        return self.inner.weighs_attention

    @property
    def reads_attention(self) -> bool:
        return self.inner.reads_attention

    @property
    def reads_received(self) -> bool:
        return self.inner.reads_received

    @property
    def reads_values(self) -> bool:
        return self.inner.reads_values

    def places(self, layers: int) -> range:
        return self.inner.places(layers)

    def count(self, tokens: int, total: int) -> int:
        return self.inner.count(tokens, total)

    def observe(self, layer: MergingLayer) -> None:
        self.inner.observe(layer)

    def left(self, layer: MergingLayer) -> int:
        return self.inner.left(layer)

    def merge(self, layer: MergingLayer, remove: int) -> lftr.Selection:
        self.seen.append(layer)
        self.chosen.append(self.inner.merge(layer, remove))
        return self.chosen[-1]


@dataclass(frozen=True)
class Given(Choice):
    """A choice whose slots hold values that were worked out elsewhere."""

    values: Tensor

    def spread(self, x: Tensor) -> Tensor:
        return x.index_copy(0, self.selection.index, self.values)


@dataclass
class ByHand:
    """One image in the plain tower, its recorded merges carried out one token after the other."""

    entry: ZooEntry
    model: Any
    written: Written
    number: int

    def __post_init__(self) -> None:
        family = family_of(self.model)
        self.cls = family.cls_place(self.model) is not None
        self.tower = self.model.base_model.vision_tower
        layers = family.merging_layers(self.model)
        self.places = [layer.place for layer in self.written.seen]  # where tokens merged
        self.layers = list(layers)

    def entering(self, pixels: Tensor) -> Tensor:
        """What enters the first layer, `(N, D)`."""
        found: list[Tensor] = []
        handle = self.layers[0].register_forward_pre_hook(lambda _, args: found.append(args[0]))
        self.tower(pixels[None])
        handle.remove()
        return found[0][0]

    def run(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features `(K, C)` after the projector, their anchors, and for how many tokens each is."""
        x = self.entering(pixels)
        states, size = [x], torch.ones(len(x))
        members = [[i] for i in range(len(x))]
        for place, layer in enumerate(self.layers):
            x = x + self.attend(layer.self_attn, layer.layer_norm1(x), size)
            if place in self.places:
                number = self.places.index(place)
                self.check(number, x, layer)
                chosen = self.written.chosen[number].item(self.number)
                slots = chosen.assignment(len(x)).tolist()
                alike = isinstance(self.written.inner, lftr.EncoderFiCoCo)  # whatever their size
                weights = torch.ones_like(size) if alike else size
                size = torch.stack(
                    [size[[i for i, s in enumerate(slots) if s == k]].sum() for k in kept(slots)]
                )
                states = [merged(state, slots, weights) for state in states]
                x = merged(x, slots, weights)
                members = [members[i] for i in chosen.index.tolist()]
            x = x + layer.mlp(layer.layer_norm2(x))
            states.append(x)
        body = slice(1 if self.cls else 0, None)
        asked = getattr(self.model.config, self.entry.feature_layer, None)
        if isinstance(asked, list):
            depth = self.tower.config.num_hidden_layers + 1
            x = torch.cat([states[i % depth] for i in asked], dim=-1)
        elif asked is None:
            x = self.tower.post_layernorm(x)
        features = self.model.base_model.multi_modal_projector(x[body])
        return features, torch.tensor(members).flatten()[body] - int(self.cls), size[body]

    def attend(self, module: Any, x: Tensor, size: Tensor) -> Tensor:
        heads = [
            part(x).unflatten(-1, (module.num_heads, -1)).transpose(0, 1)
            for part in (module.q_proj, module.k_proj, module.v_proj)
        ]
        scores = heads[0] @ heads[1].mT * module.head_dim**-0.5
        if self.written.weighs_attention:
            scores = scores + size.log()
        out = scores.softmax(dim=-1) @ heads[2]
        return module.out_proj(out.transpose(0, 1).flatten(1))

    def check(self, number: int, x: Tensor, layer: Any) -> None:
        """The merge was shown this layer's states."""
        seen = self.written.seen[number].tokens.features[self.number]
        torch.testing.assert_close(seen, x, rtol=1e-4, atol=1e-4)


def kept(slots: list[int]) -> list[int]:
    """The slots that are there; dropped tokens have none, -1."""
    return sorted(set(slots) - {-1})


def merged(x: Tensor, slots: list[int], size: Tensor) -> Tensor:
    """The mean of each slot's tokens, weighted by size."""
    rows = []
    for slot in kept(slots):
        members = [i for i, s in enumerate(slots) if s == slot]
        weight = size[members]
        rows.append((x[members] * weight[:, None]).sum(dim=0) / weight.sum())
    return torch.stack(rows)


@pytest.fixture(params=MERGED)
def prompt(request: pytest.FixtureRequest) -> Prompt:
    return Prompt(MERGED[request.param])


@pytest.fixture(params=MERGES)
def written(request: pytest.FixtureRequest) -> Written:
    return Written(MERGES[request.param])


def true_choices(prompt: Prompt, written: Written, method: Recording) -> list[list[Choice]]:
    """For each row, what the encoder by hand and then the method made of its images."""
    number, found = 0, []
    for row, content in enumerate(prompt.rows):
        choices: list[Choice] = []
        pixels = prompt.alone(row).inputs().get("pixel_values", ())
        for one in pixels:
            by_hand = ByHand(prompt.entry, prompt.model, written, number)
            features, anchors, size = by_hand.run(one)
            chosen = lftr.Selection.everything(len(features))
            if method.selections:
                chosen = method.selections[number]
            weight = chosen.inherited(size)
            selection = lftr.Selection(anchors[chosen.index], slot_weight=weight)
            choices.append(Given(36, selection, chosen.apply(features)))
            number += 1
        assert len(choices) == len(images_of(content))
        found.append(choices)
    return found


@pytest.mark.parametrize(
    ("name", "keep"), [("uniform", 1.0), ("lftr", 0.2), ("folder", 5)], ids=["all", "lftr", "merge"]
)
def test_truth(prompt: Prompt, written: Written, name: str, keep: float) -> None:
    method = Recording(name)
    with lftr.reduce(prompt.model, method, **as_arguments(keep), encoder=written) as reduction:
        output = prompt.generate()
    length = prompt.inputs()["input_ids"].shape[1]
    choices = true_choices(prompt, written, method)
    for row in range(len(prompt.rows)):
        new = output.sequences[row, length:].tolist()
        found = torch.stack([step[row] for step in output.logits])
        expected = prompt.truth(row, choices[row], new[:-1])
        assert_close(prompt.entry, found, expected)
    items = {(item.row, item.number): item for item in reduction.report.items}
    for (row, number), item in items.items():
        assert list(item.positions) == choices[row][number].selection.index.tolist()
    everything = [lftr.Selection.everything(36)] * 3
    plain = [Choice(36, one) for one in everything[: len(choices[0])]]
    assert distance(prompt.truth(0, plain), prompt.truth(0, choices[0])) > 1e-2


def test_a_batch_is_its_rows(prompt: Prompt, written: Written) -> None:
    def run(one: Prompt) -> tuple[Any, list[Any]]:
        with lftr.reduce(one.model, "lftr", keep=0.2, encoder=written.inner) as reduction:
            logits = one.generate(1).logits[0]
        return logits, [(item.positions, item.encoded) for item in reduction.report.items]

    logits, items = run(prompt)
    alone = [run(prompt.alone(row)) for row in (0, 2)]
    assert items == [item for _, found in alone for item in found]
    for row, (found, _) in zip((0, 2), alone, strict=True):
        assert_close(prompt.entry, logits[row : row + 1], found)


def pairs(keys: Tensor, remove: int, cls: bool) -> dict[int, int]:
    """ToMe's decision: the `remove` even tokens nearest to an odd one, and which one."""
    unit = (keys / keys.norm(dim=-1, keepdim=True)).double()
    best = []
    for source in range(2 if cls else 0, len(keys), 2):
        cosines = unit[1::2] @ unit[source]
        best.append((float(cosines.max()), source, 2 * int(cosines.argmax()) + 1))
    return {source: to for _, source, to in sorted(best, reverse=True)[:remove]}


def test_tome_pairs_by_the_keys_of_each_layer(prompt: Prompt) -> None:
    written = Written(lftr.EncoderToMe(r=7))
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written):
        prompt.forward()
    cls = prompt.entry.traits.has_cls
    for layer, chosen in zip(written.seen, written.chosen, strict=True):
        assert layer.class_token == cls
        for image, keys in enumerate(layer.tokens.keys):
            one = chosen.item(image)
            gone = set(range(len(keys))) - set(one.index.tolist())
            slots = one.assignment(len(keys)).tolist()
            found = {i: int(one.index[slots[i]]) for i in gone}
            assert found == pairs(keys, 7, cls)
    sizes = written.seen[1].size
    assert sizes.sum(dim=1).tolist() == [36.0 + cls] * 3
    assert sizes.max() > 1


def test_folder_protects_what_the_class_token_attends_to(llava: Any) -> None:
    prompt = Prompt(llava, [WIDE])
    layers = []
    for alpha in (0.0, 50.0):
        written = Written(lftr.EncoderFolder(keep=20, alpha=alpha))
        with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written):
            prompt.forward()
        layers.append(written)
    free, bound = layers
    assert free.seen[0].tokens.cls_attention is None
    attention = bound.seen[0].tokens.cls_attention[0].mean(dim=0)
    kept = bound.chosen[0].index[0]
    gone = sorted(set(range(2, 37, 2)) - set(kept.tolist()))
    stays = sorted(set(range(2, 37, 2)) & set(kept.tolist()))
    # far above every similarity, attention alone ranks the sources
    assert attention[gone].max() <= attention[stays].min() + 2e-3
    assert not torch.equal(kept, free.chosen[0].index[0])


def test_received_attention_stands_in() -> None:
    prompt = Prompt(FAMILIES["paligemma"])
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=lftr.EncoderFolder()) as reduction:
        prompt.forward()
    assert any("prefers attention of the encoder's CLS" in note for note in reduction.report.notes)


@pytest.mark.parametrize(
    "merge",
    [
        lftr.EncoderToMe(r=0),
        lftr.EncoderFolder(keep=1.0),
        lftr.EncoderFolder(keep=36),
        lftr.EncoderFlowCut(keep=1.0),
        lftr.EncoderFlowCut(keep=36),
    ],
    ids=str,
)
def test_nothing_to_merge_changes_no_bit(prompt: Prompt, merge: EncoderMerge) -> None:
    plain = prompt.generate(output_hidden_states=True)
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=merge) as reduction:
        assert_same(prompt.generate(output_hidden_states=True), plain)
    assert {item.encoded for item in reduction.report.items} == {None}
    with lftr.reduce(prompt.model, "lftr", keep=0.2):
        reduced = prompt.generate()
    with lftr.reduce(prompt.model, "lftr", keep=0.2, encoder=merge):
        assert_same(prompt.generate(), reduced)


class Boom(lftr.EncoderToMe):
    """A merge that fails in its second layer."""

    def merge(self, layer: MergingLayer, remove: int) -> lftr.Selection:
        if layer.size.max() > 1:
            raise RuntimeError("boom")
        return super().merge(layer, remove)


def test_nothing_is_left_behind(prompt: Prompt, written: Written) -> None:
    prompt = warmed(prompt.entry)
    plain = prompt.generate()
    before = traces(prompt.model)
    with lftr.reduce(prompt.model, "lftr", keep=0.2, encoder=written):
        expected = prompt.generate().logits
    assert traces(prompt.model) == before
    with (
        lftr.reduce(prompt.model, "lftr", keep=0.2, encoder=Boom(r=7)),
        pytest.raises(RuntimeError, match="boom"),
    ):
        prompt.generate()
    assert traces(prompt.model) == before
    assert_same(prompt.generate(), plain)
    with lftr.reduce(prompt.model, "lftr", keep=0.2, encoder=written):
        assert_same(prompt.generate().logits, expected)


@pytest.mark.parametrize(
    ("keep", "kept"), [(1.0, 22), (0.75, 22), (0.25, 9), (30, 22), (lftr.Budget(20), 20)], ids=str
)
def test_keep_is_of_the_images_own_tokens(llava: Any, keep: Any, kept: int) -> None:
    prompt = Prompt(llava, [[2, Image("square", 2), 3]])
    merge = lftr.EncoderToMe(r=7)
    with lftr.reduce(prompt.model, "divprune", **as_arguments(keep), encoder=merge) as reduction:
        prompt.generate(1)
    (item,) = reduction.report.items
    assert (item.tokens, item.encoded, item.kept) == (36, 22, kept)
    full = prompt.inputs()["input_ids"].shape[1]
    assert reduction.report.received == full - 36 + kept
    assert f"36 (1x6x6) -> 22 after the encoder -> {kept}" in str(reduction.report)
    assert reduction.report.to_dict()["items"][0]["encoded"] == 22
    assert "EncoderToMe(r=7" in reduction.report.method
    sources = item.selection.assignment(36)
    assert (sources >= 0).all() == (kept == 22)


def test_a_class_token_that_goes_on() -> None:
    prompt = Prompt(LlavaFull())
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=MERGES["tome"]) as reduction:
        prompt.generate(1)
    for item in reduction.report.items:
        assert (item.tokens, item.encoded) == (37, 23)
        assert item.positions[0] == 0
        assert item.selection.assignment(37).tolist().count(0) == 1


class Looking(Recording):
    """Asks for all that is known about the tokens."""

    @property
    def evidence(self) -> Any:
        names = ("encoder_features", "cls_attention", "attention_received", "keys", "values")
        more = ("attention_received_shallow", "cls_value_similarity", "frame_features")
        return tuple((name,) for name in (*names, *more))


def test_evidence_is_of_the_merged_tokens(llava: Any) -> None:
    prompt, model = Prompt(llava), llava.model()
    plain = Looking("uniform")
    with lftr.reduce(model, plain, tokens=30):
        prompt.forward()
    # all merges stand in the one layer that evidence is read at, so it is that of the plain model
    written, method = Written(lftr.EncoderFolder(keep=20)), Looking("uniform")
    with lftr.reduce(model, method, tokens=5, encoder=written):
        prompt.forward()
    chosen = written.chosen[0]
    for image, (found, whole) in enumerate(zip(method.tokens, plain.tokens, strict=True)):
        one = chosen.item(image)
        anchors = one.index[1:] - 1
        assert found.count == 20
        assert found.tiles is None
        for name in ("attention_received", "attention_received_shallow", "cls_value_similarity"):
            torch.testing.assert_close(getattr(found, name), getattr(whole, name)[anchors])
        torch.testing.assert_close(found.cls_attention, whole.cls_attention[:, anchors])
        slots = one.assignment(37).tolist()
        for name in ("keys", "values"):
            rows = getattr(whole, name)
            rows = torch.cat([torch.zeros(1, rows.shape[1]), rows])
            want = merged(rows, slots, torch.ones(37))[1:]
            torch.testing.assert_close(getattr(found, name), want)
        projected = model.base_model.multi_modal_projector(found.encoder_features)
        torch.testing.assert_close(projected, found.features)
        assert found.frame_features.shape == whole.frame_features.shape


def test_images_that_are_encoded_once(llava: Any) -> None:
    prompt = Prompt(llava)

    def logits(**options: Any) -> Tensor:
        with lftr.reduce(prompt.model, "uniform", tokens=5, **options):
            return prompt.model(**inputs).logits

    inputs = prompt.inputs()
    merges = [{}, {"encoder": MERGES["tome"]}, {"encoder": MERGES["folder"]}]
    expected = [logits(**options) for options in merges]
    with encode_once(prompt.model):
        for options, wanted in [*zip(merges, expected, strict=True)] * 2:
            torch.testing.assert_close(logits(**options), wanted, rtol=0, atol=0)
    assert distance(expected[0], expected[1]) > 1e-2


def test_second_turn(llava: Any) -> None:
    model = llava.model()
    old, new = Image("small", 1), Image("tall", 2)
    first = llava.row_ids(model, [3, old, 2])
    second = [*first, *llava.row_ids(model, [4, new, 2])]
    inputs = conversation(llava, model, second, [old, new])
    options = {"do_sample": False, "max_new_tokens": 3}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with lftr.reduce(model, "uniform", keep=0.2, encoder=MERGES["tome"]) as reduction:
        whole = model.generate(**inputs, **options)
        cache = model(**conversation(llava, model, first, [old]), use_cache=True).past_key_values
        follows = model.generate(**inputs, **options, past_key_values=cache)
        assert [item.kept for item in reduction.report.items] == [8]
    assert torch.equal(follows.sequences, whole.sequences)
    assert_close(llava, torch.cat(follows.logits), torch.cat(whole.logits))


def test_with_methods_inside(llava: Any) -> None:
    prompt = Prompt(llava)
    methods = ["lftr", FastV()]
    with lftr.reduce(prompt.model, methods, keep=0.25, encoder=MERGES["tome"]) as reduction:
        prompt.generate()
    report = reduction.report
    assert [item.encoded for item in report.items] == [22] * 3
    assert report.layers[0].tokens == 27
    assert report.layers[-1].tokens < 27


def test_gradients_reach_the_encoder(llava: Any) -> None:
    prompt = Prompt(llava, [WIDE], fresh(llava))
    prompt.model.requires_grad_(True)
    inputs = prompt.inputs()
    with torch.enable_grad(), lftr.reduce(prompt.model, "lftr", keep=0.2, encoder=MERGES["tome"]):
        prompt.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    tower = prompt.model.base_model.vision_tower
    first, _ = family_of(prompt.model).merging_layers(prompt.model)
    assert tower.get_input_embeddings().weight.grad.abs().max() > 0
    assert first.mlp.fc1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", OTHERS)
def test_families_whose_shape_is_needed_are_refused(name: str) -> None:
    prompt = Prompt(FAMILIES[name])
    before = traces(prompt.model)
    with pytest.raises(lftr.LftrError, match=r"encoder= is for llava, paligemma, vipllava"):
        lftr.reduce(prompt.model, "uniform", keep=0.5, encoder=MERGES["tome"])
    assert traces(prompt.model) == before


@pytest.mark.parametrize(
    ("method", "merge", "message"),
    [
        ("uniform", "tome", "encoder = 'tome'; allowed: a lftr.EncoderMerge"),
        ("downsample", lftr.EncoderToMe(), "method = .*one that reduces tokens"),
    ],
    ids=["a name", "a smaller image"],
)
def test_what_is_no_merge(llava: Any, method: str, merge: Any, message: str) -> None:
    with pytest.raises(lftr.LftrError, match=message):
        lftr.reduce(llava.model(), method, keep=0.5, encoder=merge)
    assert llava.model().__dict__.keys() == fresh(llava).__dict__.keys()


class Odd(lftr.EncoderToMe):
    """A merge of somebody's own."""

    given: Any = None

    def merge(self, layer: MergingLayer, remove: int) -> Any:
        batch, total, _ = layer.tokens.features.shape
        return self.given(batch, total - remove)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda b, k: "all", r"Odd.merge returned str where .* of shape \(3, 30\) has"),
        (lambda b, k: lftr.Selection.everything(k + 1, b), r"returned \(3, 31\) where"),
        (lambda b, k: lftr.Selection(torch.arange(1, k + 1).expand(b, k)), "the class token"),
    ],
    ids=["a word", "too many", "no class token"],
)
def test_what_a_merge_must_not_return(
    llava: Any, given: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Odd, "given", staticmethod(given))
    prompt = warmed(llava)
    before = traces(prompt.model)
    with (
        lftr.reduce(prompt.model, "uniform", keep=0.2, encoder=Odd(r=7)),
        pytest.raises(lftr.LftrError, match=message),
    ):
        prompt.generate()
    assert traces(prompt.model) == before


def test_a_merge_may_drop(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a flow the kept tokens stay what they are."""

    def first(batch: int, count: int) -> lftr.Selection:
        return lftr.Selection(torch.arange(count).expand(batch, count))

    monkeypatch.setattr(Odd, "given", staticmethod(first))
    prompt = Prompt(llava)
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=Odd(r=7)) as reduction:
        prompt.generate(1)
    for item in reduction.report.items:
        assert item.positions == tuple(range(22))
        assert item.selection.assignment(36).tolist() == [*range(22), *[-1] * 14]


def test_a_count_from_sizes_copies_no_tokens(llava: Any) -> None:
    written, prompt = Written(MERGES["tome"]), Prompt(llava)
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written):
        prompt.forward()
    assert written.seen
    assert not [layer for layer in written.seen if "patches" in vars(layer)]


def test_flowcut_computes_its_numbers_once(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    def numbers(merge: lftr.EncoderFlowCut, layer: MergingLayer) -> Tensor:
        places.append(layer.place)
        return compute(merge, layer)

    compute = lftr.EncoderFlowCut._numbers
    monkeypatch.setattr(lftr.EncoderFlowCut, "_numbers", numbers)
    written, prompt = Written(MERGES["flowcut"]), Prompt(llava)
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written):
        prompt.forward()
    assert written.seen
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", ["proportional", "flowcut"])
def test_a_bias_under_flash_attention(llava: Any, name: str) -> None:
    model = fresh(llava)
    model.base_model.vision_tower.config._attn_implementation = "flash_attention_2"
    advice = r"takes no bias, .*: load the vision tower with attn_implementation='sdpa'$"
    with pytest.raises(lftr.LftrError, match=advice):
        lftr.reduce(model, "uniform", keep=0.5, encoder=MERGES[name])


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lftr.EncoderToMe, {"r": -1}),
        (lftr.EncoderToMe, {"r": 1.5}),
        (lftr.EncoderFolder, {"keep": 0}),
        (lftr.EncoderFolder, {"keep": "1/3"}),
        (lftr.EncoderFolder, {"keep": lftr.Budget(5)}),
        (lftr.EncoderFlowCut, {"keep": 1.5}),
        (lftr.EncoderFolder, {"alpha": -1}),
        (lftr.EncoderFolder, {"alpha": float("nan")}),
    ],
    ids=str,
)
def test_bad_options(make: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(lftr.LftrError, match=f"^{name} = .*; allowed: "):
        make(**options)


def ficoco_by_hand(layer: MergingLayer, places: list[int], image: int, left: int) -> set[int]:
    """FiCoCo's filter in plain arithmetic: which of the tokens at ``places`` are dropped."""
    first = int(layer.class_token)
    received = layer.tokens.attention_received[image, first:].double()
    value = -(received / received.norm())
    if layer.class_token:
        seen = layer.tokens.cls_attention[image, :, first:].double().mean(0)
        value = 0.35 * seen / seen.norm() + 0.65 * value
    values = value.tolist()
    window = [place // 6 // 2 * 3 + place % 6 // 2 for place in places]
    for one in set(window):
        least = min(v for v, w in zip(values, window, strict=True) if w == one)
        i = values.index(least)
        values[i] = least / 2 if least > 0 else least * 2
    order = sorted(range(len(values)), key=values.__getitem__)
    return {places[i] for i in order[: len(values) - left]}


def test_ficoco_drops_what_is_redundant_in_each_layer(prompt: Prompt) -> None:
    written = Written(lftr.EncoderFiCoCo(keep=10))
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written):
        prompt.forward()
    numbers = [layer.place for layer in written.seen]
    depth = written.seen[0].layers
    assert numbers == list(range(depth // 2, depth))
    for image in range(3):
        places = list(range(36))
        for step, (layer, chosen) in enumerate(zip(written.seen, written.chosen, strict=True)):
            left = 36 - 26 * (step + 1) // len(numbers)
            first = int(layer.class_token)
            kept = [places[i - first] for i in chosen.index[image, first:].tolist()]
            assert set(places) - set(kept) == ficoco_by_hand(layer, places, image, left)
            places = kept
        assert len(places) == 10


def test_ficoco_divides_a_token_among_the_most_similar(llava: Any) -> None:
    prompt = Prompt(llava, [WIDE])
    written = Written(lftr.EncoderFiCoCo(keep=20, quantile=0.8))
    with lftr.reduce(prompt.model, "uniform", keep=1.0, encoder=written) as reduction:
        prompt.forward()
    layer, chosen = written.seen[-1], written.chosen[-1].item(0)
    keys = layer.tokens.keys[0].double()
    keys = keys / keys.norm(dim=1, keepdim=True)
    kept = chosen.index.tolist()[1:]
    load = dict.fromkeys(kept, 1.0)
    given: dict[tuple[int, int], float] = {}
    for token in set(range(1, len(keys))) - set(kept):
        cosine = keys[kept] @ keys[token]
        best = cosine.topk(len(kept) - 1 - int(0.8 * (len(kept) - 1)))
        for at, share in zip(best.indices.tolist(), best.values.softmax(0).tolist(), strict=True):
            given[token, kept[at]] = share
            load[kept[at]] += share
    x = torch.eye(len(keys), dtype=torch.float64)
    made = chosen.apply(x)[1:]
    for row, slot in zip(made, kept, strict=True):
        for token in range(1, len(keys)):
            wanted = (1.0 if token == slot else given.get((token, slot), 0.0)) / load[slot]
            assert float(row[token]) == pytest.approx(wanted, abs=1e-5)
    for item in reduction.report.items:
        assert float(item.selection.weight.sum()) == pytest.approx(36, abs=1e-3)
