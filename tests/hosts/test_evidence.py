"""What a host says that it can tell a method, it tells, in the right shape; else it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES

import lftr
from lftr.evidence.attention import attention_modules
from lftr.evidence.text import TextTower
from lftr.hosts.transformers.encoder.encode import choose_evidence
from lftr.hosts.transformers.families import family_of
from lftr.values.errors import ArgumentError, MissingEvidenceError

from .support import HOSTED, TAPPED, VIDEOS, Asking, Prompt, ZooEntry, distance, reduced, seen

FIELDS = (
    "encoder_features",
    "keys",
    "values",
    "cls_attention",
    "cls_value_similarity",
    "attention_received",
    "frame_features",
    "text_token_embeds",
    "visual_projected",
    "text_embeds",
    "text_products",
    "attention",
)


ENTRIES = [*HOSTED, *(VIDEOS[n] for n in ("llava_next_video", "video_llava") if n in VIDEOS)]
WITH_CLS = [entry for entry in ENTRIES if entry.traits.has_cls]


@pytest.fixture(params=ENTRIES, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family of the zoo; clips of those that have class tokens too."""
    value: ZooEntry = request.param
    return value


def can(entry: ZooEntry, name: str) -> bool:
    model = entry.model()
    try:
        return bool(choose_evidence(family_of(model), model, ((name,),), has_tower=False))
    except MissingEvidenceError:
        return False


@pytest.mark.parametrize("name", FIELDS)
def test_shape_or_error(entry: ZooEntry, name: str) -> None:
    if not can(entry, name):
        with pytest.raises(MissingEvidenceError, match=name):
            seen(Prompt(entry), name)
        return
    items = seen(Prompt(entry), name)
    for tokens in items:
        value: Tensor = getattr(tokens, name)
        assert torch.isfinite(value).all()
        if name in ("cls_attention", "text_products"):
            assert value.shape[1] == tokens.count
        elif name == "frame_features":
            assert value.ndim == 2
        elif name == "text_token_embeds":
            assert value.shape[1] == tokens.features.shape[1]
        else:
            assert value.shape[0] == tokens.count
    assert all(getattr(tokens, other) is None for other in FIELDS if other != name)


def test_what_every_family_can(entry: ZooEntry) -> None:
    able = {name for name in FIELDS if can(entry, name)}
    patches, attention = {"encoder_features"}, {"keys", "values", "attention_received"}
    told = {"attention": patches | attention, "patches": patches, "features": set()}
    assert able & (patches | attention) == told[entry.traits.reads]
    assert "text_token_embeds" in able
    videos = family_of(entry.model()).video is not None and entry.traits.reads != "features"
    assert ("cls_attention" in able) == entry.traits.has_cls
    assert ("cls_value_similarity" in able) == entry.traits.has_cls
    assert ("frame_features" in able) == (entry.traits.has_cls or videos)
    assert not {"visual_projected", "text_embeds", "attention"} & able


@pytest.mark.parametrize("entry", WITH_CLS, ids=str)
def test_attention_is_shared_out(entry: ZooEntry) -> None:
    """CLS attention of a token is the mean of its patches'; separators get none."""
    model = entry.model()
    family = family_of(model)
    items = seen(Prompt(entry), "cls_attention")
    side = model.config.vision_config.image_size
    side = side if isinstance(side, int) else side[0]
    patches = (side // 4) ** 2
    for tokens in items:
        assert (tokens.cls_attention >= 0).all()
        for head in tokens.without_separators().cls_attention:
            tiles = [t * h * w for t, h, w in tokens.blocks]
            first = head.split(tiles)[0].mean() * patches
            assert 0.3 < float(first) < 1.0  # what is left of one goes to the class token
        if tokens.separator is not None:
            assert (tokens.cls_attention[:, tokens.separator] == 0).all()
    assert family.cls_place(model) is not None


@pytest.mark.parametrize("entry", WITH_CLS, ids=str)
def test_frame_features_are_the_items_own(entry: ZooEntry) -> None:
    """One descriptor a view: the class tokens of an item's own tiles, not of its neighbour's."""
    prompt = Prompt(entry)
    items = seen(prompt, "frame_features")
    alone = [tokens for row in (0, 2) for tokens in seen(prompt.alone(row), "frame_features")]
    for left, right in zip(items, alone, strict=True):
        assert distance(left.frame_features, right.frame_features) < 1e-5
    assert not torch.equal(items[0].frame_features[0], items[-1].frame_features[0])


def test_encoder_features_are_before_the_projector(llava: ZooEntry) -> None:
    items = seen(Prompt(llava), "encoder_features")
    project = llava.model().model.multi_modal_projector
    for tokens in items:
        assert distance(project(tokens.encoder_features), tokens.features) < 1e-5


def test_text_is_the_rows_own(entry: ZooEntry) -> None:
    """Neither visual tokens nor what stands among them, nor padding and marks; each row its own."""
    prompt = Prompt(entry)
    items = seen(prompt, "text_token_embeds")
    embed = prompt.model.get_input_embeddings()
    inputs = prompt.inputs()
    config = prompt.model.config
    names = [
        f"{what}_{end}_token_id"
        for what in ("vision", "image", "video")
        for end in ("start", "end")
    ]
    marks = [getattr(config, name) for name in names if getattr(config, name, None) is not None]
    special = torch.tensor([0, 1, 2, *marks])
    last = len(seen(prompt.alone(2), "text_token_embeds"))
    rows = [0] * (len(items) - last) + [2] * last
    for tokens, row in zip(items, rows, strict=True):
        ids = inputs["input_ids"][row]
        asks = ~torch.isin(ids, special)
        places = prompt.visual(ids).nonzero().squeeze(1).tolist()
        for item in (one for one, of in zip(items, rows, strict=True) if of == row):
            own, places = places[: item.count], places[item.count :]
            asks[own[0] : own[-1] + 1] = False
        ids = ids[asks]
        assert torch.equal(tokens.text_token_embeds, embed(ids))


@pytest.mark.parametrize("entry", TAPPED, ids=str)
def test_attention_is_of_a_layer_that_is_there(entry: ZooEntry) -> None:
    model = entry.model()
    family = family_of(model)
    layers = attention_modules(family.module(model, family.tower))
    assert 0 <= family.attention_layer(model, len(layers)) < len(layers)


# ---- a CLIP text tower -----------------------------------------------------------------------


class Words:
    """A tokenizer of words: an id for each, cut into stretches of eight as CLIP's is at 77."""

    model_max_length = 8

    def __call__(self, text: str, **options: Any) -> dict[str, Tensor]:
        limit = options["max_length"]
        ids = [4 + sum(map(ord, word)) % 90 for word in text.split()]
        parts = [ids[i : i + limit - 2] for i in range(0, len(ids), limit - 2)] or [[]]
        rows = [[1, *part, 2] for part in parts]
        width = max(map(len, rows))
        padded = torch.tensor([row + [2] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": padded, "attention_mask": mask}


@pytest.fixture(scope="module")
def clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    shape = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = shape | {"hidden_size": 32, "image_size": 24, "patch_size": 4}
    text = shape | {"hidden_size": 24, "vocab_size": 100, "max_position_embeddings": 8}
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).eval()


def test_text_tower_is_clip(clip: Any) -> None:
    tower = TextTower.from_clip(clip, Words())
    text = "what colour is the left circle"
    inputs = Words()(text, max_length=8)
    expected = clip.get_text_features(**inputs)
    expected = getattr(expected, "pooler_output", expected)
    assert distance(tower.embed(text), expected) < 1e-6
    long = tower.embed(" ".join(["word"] * 15))
    assert long.shape == (3, 16)


def test_projection_is_clips(clip: Any) -> None:
    tower = TextTower.from_clip(clip, Words())
    features = torch.randn(5, 32)
    expected = clip.visual_projection(clip.vision_model.post_layernorm(features))
    assert distance(tower.project(features), expected) < 1e-6
    with pytest.raises(lftr.LftrError, match="text_tower"):
        tower.project(torch.randn(5, 31))


def test_text_tower_guides(llava: ZooEntry, clip: Any) -> None:
    """Each row is compared with its own question; TRIM follows CLIP's products."""
    tower = TextTower.from_clip(clip, Words())
    prompt = Prompt(llava)
    questions = ["where is the dog", "nothing", "how many red squares are there in this image"]
    names = ("encoder_features", "visual_projected", "text_embeds")
    items = seen(prompt, *names, guidance=lftr.Guidance(questions, text_tower=tower))
    for tokens, row in zip(items, (0, 0, 2), strict=True):
        assert distance(tokens.text_embeds, tower.embed(questions[row])) < 1e-6
        assert distance(tokens.visual_projected, tower.project(tokens.encoder_features)) < 1e-6
    with reduced(prompt.model, "trim", 5, guidance=questions[0], text_tower=tower) as run:
        prompt.generate(1)
        tokens, chosen = run.method.tokens[0], run.method.selections[0]
    products = tokens.visual_projected @ tokens.text_embeds.mean(dim=0)
    assert set(products.argsort()[:4].tolist()) <= set(chosen.index.tolist())


def test_text_tower_without_text(llava: ZooEntry, clip: Any) -> None:
    tower = TextTower.from_clip(clip, Words())
    prompt = Prompt(llava)
    for text in (None, ["only one question"]):
        with (
            lftr.reduce(prompt.model, "trim", tokens=5, guidance=lftr.Guidance(text, None, tower)),
            pytest.raises(lftr.LftrError, match=r"text = .*question"),
        ):
            prompt.generate(1)


class Letters:
    """A tokenizer of the language model: an id for each letter."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [10 + ord(c) % 50 for c in text]}


def test_text_guides_by_the_models_own_embeddings(llava: ZooEntry) -> None:
    """Without a text tower `text` is embedded by the model, a row each; never ignored."""
    prompt = Prompt(llava)
    texts, embed = ["a dog", "none", "how many cats"], prompt.model.get_input_embeddings()
    spellings: list[dict[str, Any]] = [
        {"guidance": lftr.Guidance(texts, Letters())},
        {"guidance": texts, "processor": Letters()},
        {"text": texts, "processor": Letters()},
    ]
    for options in spellings:
        items = seen(prompt, "text_token_embeds", **options)
        for tokens, row in zip(items, (0, 0, 2), strict=True):
            ids = torch.tensor(Letters()(texts[row], add_special_tokens=False)["input_ids"])
            assert torch.equal(tokens.text_token_embeds, embed(ids))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "a dog"}, r"text = 'a dog'.*text_tower.*processor.*guidance="),
        ({"text": ["a", "b"], "processor": Letters()}, r"text = \['a', 'b'\].*3, one for each row"),
        ({"text": "", "processor": Letters()}, "text = 'a row without text'"),
    ],
)
def test_text_that_cannot_guide(llava: ZooEntry, options: dict[str, Any], said: str) -> None:
    prompt = Prompt(llava)
    with (
        lftr.reduce(prompt.model, Asking("text_token_embeds"), tokens=5, **options),
        pytest.raises(ArgumentError, match=said),
    ):
        prompt.generate(1)


def test_processor_tells_the_text(llava: ZooEntry, clip: Any) -> None:
    """Without `text`, the processor decodes the prompt's own words."""

    class Decoder:
        def decode(self, ids: Tensor, **options: Any) -> str:
            return " ".join(f"w{i}" for i in ids.tolist())

    tower = TextTower.from_clip(clip, Words())
    prompt = Prompt(llava, [[3, *Prompt(llava).rows[2][1:]]])
    options = {"guidance": lftr.Guidance(None, Decoder(), tower)}
    names = ("encoder_features", "visual_projected", "text_embeds")
    items = seen(prompt, *names, **options)
    ids = prompt.inputs()["input_ids"][0]
    expected = tower.embed(Decoder().decode(ids[~prompt.visual(ids)]))
    assert distance(items[0].text_embeds, expected) < 1e-6


# ---- the first layer of the language model -----------------------------------------------------


def plain_products(model: Any, text: Tensor, tokens: Tensor) -> Tensor:
    """Products of the first layer's queries and keys by its own projections, head by head."""
    layer = family_of(model).decoder(model).layers[0]
    attention = layer.self_attn

    def heads(states: Tensor, projection: Any) -> Tensor:
        projected = projection(layer.input_layernorm(states))
        return projected.unflatten(1, (-1, attention.head_dim)).transpose(0, 1)

    queries, keys = heads(text, attention.q_proj), heads(tokens, attention.k_proj)
    rows = []
    for head, query in enumerate(queries):
        key = keys[head * len(keys) // len(queries)]
        rows.append((query @ key.T).mean(dim=0) * attention.head_dim**-0.5)
    return torch.stack(rows)


PLAIN_HEADS = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "idefics3")


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_products_are_of_the_first_layer_without_positions(name: str) -> None:
    prompt = Prompt(FAMILIES[name])
    for tokens in seen(prompt, "text_products", "text_token_embeds"):
        wanted = plain_products(prompt.model, tokens.text_token_embeds, tokens.features)
        assert distance(tokens.text_products, wanted) < 1e-5


def test_products_follow_the_text(llava: ZooEntry) -> None:
    prompt, texts = Prompt(llava), ["a dog", "none", "how many cats"]
    embed = prompt.model.get_input_embeddings()
    items = seen(prompt, "text_products", guidance=lftr.Guidance(texts, Letters()))
    for tokens, row in zip(items, (0, 0, 2), strict=True):
        ids = torch.tensor(Letters()(texts[row], add_special_tokens=False)["input_ids"])
        wanted = plain_products(prompt.model, embed(ids), tokens.features)
        assert distance(tokens.text_products, wanted) < 1e-5


def test_products_with_a_method_inside(llava: ZooEntry) -> None:
    """The forward of one layer passes by the hooks of methods inside the language model."""
    prompt = Prompt(llava)
    with reduced(prompt.model, "hawk", 0.5) as run:
        prompt.forward()
        wanted = [tokens.text_products for tokens in run.method.tokens]
        kept = run.report.kept
    with lftr.reduce(prompt.model, ["hawk", lftr.methods.FastV(layer=1)], keep=0.5) as reduction:
        prompt.forward()
        assert reduction.report.kept == kept
    assert all(one.isfinite().all() for one in wanted)


class Turned(nn.Module):
    """A rotary embedding that counts positions from 1 upwards, whatever it is told."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor, position_ids: Tensor) -> Any:
        return self.inner(states, torch.arange(1, 1 + position_ids.shape[-1])[None])


def test_products_that_depend_on_the_place_are_refused(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    decoder: Any = family_of(prompt.model).decoder(prompt.model)
    rotary = decoder.rotary_emb
    decoder.rotary_emb = Turned(rotary)
    try:
        with (
            lftr.reduce(prompt.model, "hawk", keep=0.5),
            pytest.raises(lftr.UnsupportedModelError, match="depend on where a token stands"),
        ):
            prompt.forward()
    finally:
        decoder.rotary_emb = rotary
