"""What a request and a server can ask for; without vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lftr
from lftr.hosts.vllm.architectures import ARCHITECTURES, architecture_of, provided
from lftr.hosts.vllm.request.request_setting import (
    UNWEIGHTED,
    RequestSetting,
    fitting,
    of_server,
    read,
    setting_of,
)
from lftr.hosts.vllm.start_options import StartOptions
from lftr.methods.compose.base import Wrapper
from lftr.methods.compose.mix import Mix
from lftr.methods.inside.base import LayerMethod
from lftr.options import plain as plain_values
from lftr.options.checks import fields_of, hints_of
from lftr.options.plain import Plain, classes_of
from lftr.presets import Preset
from lftr.values.budget import resolve

CLIP = frozenset(
    {
        "features",
        "encoder_features",
        "cls_attention",
        "attention_received",
        "attention_received_shallow",
        "keys",
        "values",
        "cls_value_similarity",
        "frame_features",
        "text_token_embeds",
    }
)
SIGLIP = CLIP - {"cls_attention", "cls_value_similarity", "frame_features"}
SERVER = of_server(None, CLIP)
WITH_LAYER = {"text_products"}  # of language models whose first layer has attention


class Config:
    """What is read of a model's configuration."""

    def __init__(self, architecture: str, tower: str = "clip_vision_model") -> None:
        self.architectures = [architecture]
        self.vision_config = type("Vision", (), {"model_type": tower})()
        self.text_config = type("Text", (), {"layer_types": ["full_attention"]})()

    def get_text_config(self) -> Any:
        return self.text_config


@pytest.mark.parametrize("name", lftr.list_methods("before"))
def test_methods_fit_by_what_they_need(name: str) -> None:
    """Those that fit everywhere, nowhere, and with a CLS token alone, from their evidence."""
    method = lftr.get_method(name)
    fields = {field for need in method.evidence for field in need}
    fits = name in fitting(CLIP)
    if ("text_products",) in method.evidence:
        assert not fits
    if not fields:
        assert fits == (name != "downsample")
    assert (name in fitting(SIGLIP)) <= fits
    if fits:
        served = lftr.get_method(name, **UNWEIGHTED.get(name, {}))
        assert read({"method": name}, SERVER, CLIP).method == served
    else:
        with pytest.raises(lftr.LftrError, match=r"those that can: .*divprune"):
            read({"method": name}, SERVER, CLIP)


@pytest.mark.parametrize("name", fitting(CLIP))
def test_a_setting_travels(name: str) -> None:
    setting = read({"method": name, "keep": "3/7"}, SERVER, CLIP)
    assert setting_of(setting.text) == setting
    assert len(setting.text) < 2000


def test_one_spelling() -> None:
    """What means the same is cached as the same."""
    asked = [
        {"keep": 0.25, "method": "lftr"},
        {"method": "lftr", "options": {"diversity": 1.0}, "keep": "1/4"},
        {"keep": "0.25"},
    ]
    assert len({read(one, SERVER, CLIP).text for one in asked}) == 1


def test_a_whole_number_in_json() -> None:
    """JavaScript writes 1.0 as 1, which keeps all; counts have a key of their own."""
    assert read({"keep": 1}, SERVER, CLIP) == RequestSetting(SERVER.method, 1.0)
    assert read({"tokens": 1}, SERVER, CLIP) == RequestSetting(SERVER.method, 1)
    assert json.loads(read({"tokens": 64}, SERVER, CLIP).text)["tokens"] == 64
    with pytest.warns(DeprecationWarning, match="write tokens=64"):
        assert read({"keep": 64}, SERVER, CLIP) == read({"tokens": 64}, SERVER, CLIP)
    server = RequestSetting(SERVER.method, 7)
    assert read({"keep": 0.5}, server, CLIP).keep == 0.5
    assert read({"method": "divprune"}, server, CLIP).keep == 7


def test_the_text_that_guides() -> None:
    """What is not guided is spelled as ever; whether it is depends on what is provided."""
    tower = CLIP | {"text_embeds", "visual_projected"}
    for name, options, fields, guided in (
        ("lftr", {}, CLIP, False),
        ("lftr", {"relevance": "text"}, CLIP, True),
        ("trim", {}, CLIP, True),
        ("dart", {}, CLIP, True),
        ("dart", {"text_pivots": 0}, CLIP, False),
        ("coverage", {}, CLIP, False),  # without a tower coverage has the whole budget
        ("coverage", {}, tower, True),
        ("coverage", {"asked": 0.0}, tower, False),
        ("divprune", {}, tower, False),
    ):
        values = {"method": name, "options": options, "keep": 0.5}
        setting = read(values, SERVER, fields)
        assert setting.guided(fields) == guided
        assert not read({**values, "keep": 1.0}, SERVER, fields).guided(fields)
        assert "guide" not in setting.to_plain()
        first = read({**values, "guide": "first"}, SERVER, fields)
        assert setting_of(first.text) == first != setting
        assert read(values, first, fields) == first  # the server's
        assert read({**values, "guide": "last"}, first, fields) == setting
    for value in ("all", None, True, ["first"], {"first": 1}):
        with pytest.raises(lftr.LftrError, match=r"guide = .*; allowed: 'last' or 'first'"):
            read({"guide": value}, SERVER, CLIP)


def test_an_option_without_its_evidence_is_refused() -> None:
    """vLLM's answers have no room for the note that transformers' report has."""
    tower = CLIP | {"text_embeds", "visual_projected"}
    asked = {"method": "coverage", "options": {"asked": 0.3}}
    inside = {"method": "Merge", "options": {"inner": asked}}
    for values in (asked, inside, {"method": "Merge(coverage(asked=0.3))"}):
        assert read(values, SERVER, tower).guided(tower)
        message = r"asked = 0\.3; allowed: 0 here, or a server with --text-tower"
        with pytest.raises(lftr.ArgumentError, match=message):
            read(values, SERVER, CLIP)
    assert not read({"method": "coverage", "options": {"asked": 0}}, SERVER, CLIP).guided(CLIP)


def test_fitted_parts_are_refused(tmp_path: Path) -> None:
    """Alone, inside other methods and in a preset."""
    path = str(tmp_path / "part.safetensors")
    scorer = lftr.methods.Scorer
    tokens = lftr.VisualTokens(
        torch.rand(1, 6, 8),
        cls_attention=torch.rand(1, 2, 6),
        keys=torch.rand(1, 6, 8),
        encoder_features=torch.rand(1, 6, 8),
        attention_received=torch.rand(1, 6),
    )
    scorer.fits.fresh(tokens, width=8).save(path)
    fitted = {"method": "scorer", "options": {"fitted": path}}
    message = "corer.* cannot serve here: it has a fitted part, which .*; those that can: .*scorer"
    assert of_server({"method": "scorer"}, CLIP).method == scorer()
    nested = {"method": "PerFrame", "options": {"inner": fitted}}
    mixed = {"method": "Mix", "options": {"a": nested, "b": {"method": "uniform"}}}
    for values in (fitted, nested, mixed):
        with pytest.raises(lftr.LftrError, match=message):
            of_server(values, CLIP)
    Preset(scorer(fitted=path), 0.25).save(tmp_path / "preset.json")
    with pytest.raises(lftr.LftrError, match=message):
        of_server({"preset": str(tmp_path / "preset.json")}, CLIP)


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10**5))
def test_ratios_count_as_ever(ratio: float, size: int) -> None:
    setting = setting_of(read({"keep": ratio}, SERVER, CLIP).text)
    assert setting.count(size) == resolve(ratio, size)


plain = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8)
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
keys = st.sampled_from(["keep", "tokens", "method", "options", "guide", "preset"])
keys |= st.text(max_size=6)
names = st.sampled_from(["lftr", "visionzip", "divprune", "Then", "Step", "method"])


@given(st.dictionaries(keys, anything | names, max_size=4) | anything)
def test_anything_is_read_or_refused(values: object) -> None:
    """Nothing but the error that a server answers with 400, and what is read can travel."""
    try:
        setting = read(values, SERVER, CLIP)
    except lftr.values.errors.ArgumentError as error:
        told = str(error)
    else:
        told = setting.text
        assert 1 <= setting.count(576) <= 576
        json.loads(told)
    assert len(told) < 2000


def nested(depth: int) -> object:
    return {"method": nested(depth - 1)} if depth else "lftr"


@pytest.mark.parametrize(
    "values",
    [
        {"keep": "9" * 100_000},
        {"keep": "1e999999999"},
        {"keep": "1/" + "0" * 9},
        {"keep": 10**4000},
        {"keep": 1e-320, "method": "x" * 100_000},
        {"tokens": 10**4000},
        {"tokens": 0},
        {"tokens": True},
        {"tokens": 64.0},
        {"tokens": None},
        {"keep": None},
        {"keep": 0.5, "tokens": 4},
        {"method": "lftr", "options": {str(n): n for n in range(100)}},
        {"method": "lftr", "options": nested(900)},
        {"method": ["lftr"] * 10_000},
        {"method": {}},
        {"options": {"diversity": 0.5}},
        {1: 2},
    ],
    ids=range(18),
)
def test_hostile_settings_are_refused_at_once(values: dict[str, object]) -> None:
    with pytest.raises(lftr.LftrError):
        read(values, SERVER, CLIP)


class Touched:
    """Records the files that are opened while it is watched; Python keeps audit hooks for good."""

    paths: ClassVar[list[str]] = []
    watched: ClassVar[bool] = False

    @classmethod
    def note(cls, event: str, args: tuple[object, ...]) -> None:
        if cls.watched and event == "open":
            cls.paths.append(str(args[0]))


sys.addaudithook(Touched.note)


@contextlib.contextmanager
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[type]]:
    """Record every method, schedule and merge that is made."""
    classes: list[type] = []
    check = plain_values._check_options

    def recording(value: Plain) -> None:
        classes.append(type(value))
        check(value)

    with monkeypatch.context() as patch:
        patch.setattr(plain_values, "_check_options", recording)
        yield classes


def options_of(kind: str) -> list[tuple[str, str]]:
    lftr.list_methods()
    return [
        (name, field.name) for name, cls in classes_of(kind).items() for field in fields_of(cls)
    ]


EVERY_OPTION = options_of("method")
NESTED = [
    {kind: name, "options": {option: place}}
    for kind in Plain.kinds
    for name, option in options_of(kind)
    for place in ("PLACE", ["PLACE"])
]
hostile = (
    st.sampled_from(["PLACE", ["PLACE"], *NESTED, {"path": "PLACE"}])
    | st.sampled_from(["false", "true", 1, 0, "x", None, [], {}, [1.5], "mean", "lftr", "dyvte"])
    | anything
)


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_options_of_clients_open_and_build_nothing(
    name: str,
    option: str,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No file is opened, no other method built, and a path that exists is answered as any other."""
    drawn = json.dumps({"method": name, "options": {option: data.draw(hostile)}})
    folder = tmp_path_factory.getbasetemp()
    (folder / "there").touch()
    answers = []
    for place in ("there", "gone."):
        values = json.loads(drawn.replace("PLACE", str(folder / place)))
        fitting(CLIP)  # what is opened once, such as modules
        with built(monkeypatch) as classes:
            Touched.watched = True
            try:
                answers.append(str(read(values, SERVER, CLIP)))
            except lftr.values.errors.ArgumentError as error:
                answers.append(str(error))
            finally:
                Touched.watched = False
        assert not any(str(folder) in path for path in Touched.paths)
        assert all(issubclass(cls, lftr.Method) for cls in classes)
        assert not any(issubclass(cls, LayerMethod) for cls in classes)
        if option not in getattr(classes_of("method")[name], "inside", ()):
            assert not any(issubclass(cls, Wrapper) for cls in classes)
    assert answers[0].replace("there", "gone.") == answers[1]


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """Reading a named pipe that nobody writes to would never end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    inside = {"method": "dyvte", "options": {"gates": str(pipe)}}
    for values in (inside, {"method": "lftr", "options": {"diversity": inside}}):
        with pytest.raises(lftr.LftrError, match=r"inside the language model|diversity = "):
            read(values, SERVER, CLIP)


@pytest.mark.parametrize("value", ["false", "true", 0, 1, None, "x", [False]])
def test_truth_is_true_or_false(value: object) -> None:
    for name, option in EVERY_OPTION:
        cls = classes_of("method")[name]
        if hints_of(cls).get(option) is bool and name in fitting(CLIP):
            with pytest.raises(lftr.LftrError, match=rf"{option} = .*; allowed: true or false"):
                read({"method": name, "options": {option: value}}, SERVER, CLIP)
            assert read({"method": name, "options": {option: True}}, SERVER, CLIP)


def test_options_that_are_several() -> None:
    setting = read({"method": "aim", "options": {"folds": [2, 3]}}, SERVER, CLIP)
    assert setting.method == lftr.get_method("aim", folds=(2, 3))
    infinite = read({"method": "lftr", "options": {"candidates": "inf"}}, SERVER, CLIP)
    assert infinite.method.candidates == float("inf")


def test_operators_may_compose() -> None:
    """A preset of a method that is made of others is written into the model's configuration."""
    setting = RequestSetting(Mix("divprune", "lftr", share=0.25), 0.5)
    assert of_server(json.loads(setting.text), CLIP) == setting
    assert of_server({"method": "Mix(divprune, lftr, share=0.25)", "keep": 0.5}, CLIP) == setting
    for reads in (of_server, lambda values, fields: read(values, SERVER, fields)):
        spelled = reads({"method": "lftr(rounds=2)"}, CLIP).method
        assert spelled == lftr.get_method("lftr", rounds=2, **UNWEIGHTED["lftr"])
        assert reads({"method": "Merge(lftr)"}, CLIP).method == lftr.methods.Merge("lftr")


def test_requests_may_compose() -> None:
    """By a text or nested objects, of methods that may be asked for alone."""
    mix = Mix("divprune", "lftr", share=0.25)
    for method, options in (
        ("Mix(divprune, lftr, share=0.25)", {}),
        ("Mix(divprune, b=lftr)", {"share": 0.25}),
        ("Mix", {"a": "divprune", "b": {"method": "lftr"}, "share": 0.25}),
        (str(mix), {}),
    ):
        setting = read({"method": method, "options": options, "keep": 0.5}, SERVER, CLIP)
        assert setting.method == mix
        assert setting.name == "Mix"
        assert setting_of(setting.text) == setting
    deep = "Then(Merge(PerFrame(divprune)), lftr(space='encoder'), first=3/4)"
    assert str(read({"method": deep}, SERVER, CLIP).method) == deep.replace("3/4", "0.75")


FOUR = "Mix(Mix(lftr, lftr), Mix(pool, pool))"
EIGHT = f"Mix({FOUR}, {FOUR})"


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("Merge", {}, "inner = None; allowed: a method"),
        ("Merge(fastv)", {}, "inside the language model"),
        ("MergeInside(fastv)", {}, "unknown method 'MergeInside'"),
        ("Merge(downsample)", {}, "encodes the image a second time"),
        ("Merge(visual-grouping(fitted='/etc/passwd'))", {}, "fitted = .*set in Python"),
        ("Merge", {"inner": {"method": "lftr", "path": "x"}}, "inner = .*a method, with"),
        ("Merge", {"inner": 3}, "unknown method '3'"),
        ("Merge(divprune)", {"inner": "lftr"}, "inner = 'lftr'; allowed: once"),
        ("Merge(divprune, own=Step(2))", {}, "own = "),
        ("Merge(" * 10 + "lftr" + ")" * 10, {}, "more than 8 inside each other"),
        ("Mix(lftr, lftr)".replace("lftr", EIGHT), {}, "holds more"),
        ("Mix", {"a": EIGHT, "b": EIGHT}, "holds more"),
        ("Merge", {"inner": "lftr(candidates=1e300)"}, "numbers from -"),
        ("Merge", {"inner": {"method": "Merge('lftr(candidates=1e300)')"}}, "numbers from -"),
        ("Merge", {"inner": {"method": "divprune", "options": None}}, "options = None"),
        ("Merge", {"inner": {"method": "divprune", "options": [1]}}, "options = "),
        ("Merge(divprune)", 5, "options = 5"),
        ("lftr(" + "(" * 900, {}, "more than 8 inside each other"),
        ("lftr(space=" + "[" * 900, {}, "more than 8 inside each other"),
        ("Merge(lftr) or 1", {}, "nothing was expected after it"),
        ("Merge(lftr.__class__)", {}, "not understood"),
    ],
)
def test_compositions_that_no_request_may_ask_for(method: str, options: object, words: str) -> None:
    with pytest.raises(lftr.LftrError, match=words):
        read({"method": method, "options": options}, SERVER, CLIP)


def test_a_server_of_nothing_is_lftr_at_a_sixteenth() -> None:
    assert of_server(None, CLIP) == SERVER


def test_presets(tmp_path) -> None:
    path = tmp_path / "preset.json"
    Preset(lftr.get_method("divprune"), 1 / 9, "original", "some/model").save(path)
    assert of_server({"preset": str(path)}, CLIP) == RequestSetting(
        lftr.get_method("divprune"), 1 / 9
    )
    Preset(lftr.get_method("fastv"), None).save(path)
    with pytest.raises(lftr.LftrError, match="inside the language model"):
        of_server({"preset": str(path)}, CLIP)
    Preset(lftr.get_method("hawk"), 0.5).save(path)
    with pytest.raises(lftr.LftrError, match="needs text_products"):
        of_server({"preset": str(path)}, CLIP)
    Preset(lftr.get_method("trim"), "auto").save(path)
    with pytest.raises(lftr.LftrError, match="keep = 'auto'"):
        of_server({"preset": str(path)}, CLIP)
    Preset(lftr.get_method("trim"), 0.5).save(path)
    setting = RequestSetting(lftr.get_method("trim"), 0.5, "first")
    assert of_server({"preset": str(path), "guide": "first"}, CLIP) == setting
    Preset(lftr.get_method("lftr"), lftr.Budget(100)).save(path)
    with pytest.raises(lftr.LftrError, match="an item at a time"):
        of_server({"preset": str(path)}, CLIP)
    Preset(lftr.get_method("divprune"), 1 / 9, encoder=lftr.EncoderToMe(r=40)).save(path)
    with pytest.raises(lftr.LftrError, match=r"encoder = 'tome:r=40'; allowed: None"):
        of_server({"preset": str(path)}, CLIP)
    with pytest.raises(lftr.LftrError, match="a preset, or"):
        of_server({"preset": str(path), "keep": 1}, CLIP)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_start_options(name: str, tmp_path) -> None:
    """Positions are the server's, beside the setting of requests, or a preset's."""
    config = Config(name)
    assert StartOptions.of(config) == StartOptions("original")
    config.lftr = {"keep": 0.5, "positions": "compact"}
    assert of_server(config.lftr, CLIP).keep == 0.5
    path = tmp_path / "preset.json"
    Preset(lftr.get_method("divprune"), 1 / 9, "compact").save(path)
    if not ARCHITECTURES[name].counted_positions:
        with pytest.raises(lftr.LftrError, match="positions = 'compact'; allowed: 'original'"):
            StartOptions.of(config)
        config.lftr = {"preset": str(path)}
        assert StartOptions.of(config) == StartOptions("original")
        return
    assert StartOptions.of(config) == StartOptions("compact")
    config.lftr = {"preset": str(path)}
    assert StartOptions.of(config) == StartOptions("compact")
    config.lftr = {"preset": str(path), "positions": "original"}
    assert StartOptions.of(config) == StartOptions("original")
    assert of_server(config.lftr, CLIP).keep == 1 / 9
    config.lftr = {"positions": "none"}
    with pytest.raises(lftr.LftrError, match="positions = 'none'"):
        StartOptions.of(config)
    with pytest.raises(lftr.LftrError, match="unknown key of 'lftr' 'positions'"):
        read({"positions": "compact"}, SERVER, CLIP)  # not a request's


def test_weights_at_the_start() -> None:
    config = Config("LlavaForConditionalGeneration")
    for weights, exponent in (("size", 1.0), ("none", 0.0), (0.5, 0.5), ("0.5", 0.5), (None, 1.0)):
        config.lftr = {"weights": weights}
        assert StartOptions.of(config).weights == exponent
    for weights in ("big", -1, True, float("nan"), {}):
        config.lftr = {"weights": weights}
        with pytest.raises(lftr.LftrError, match="weights = "):
            StartOptions.of(config)


def test_defaults_depend_on_weights() -> None:
    plain, weighted = lftr.get_method("lftr"), of_server(None, CLIP, weighted=True)
    assert weighted.method == plain
    assert read({"method": "lftr"}, SERVER, CLIP, weighted=True).method == plain
    assert read({"method": "lftr"}, weighted, CLIP).method == SERVER.method != plain


def test_architectures() -> None:
    stock = Config("LlavaForConditionalGeneration")
    assert architecture_of(stock) == architecture_of(Config("LftrLlavaForConditionalGeneration"))
    assert provided(stock) == CLIP | WITH_LAYER
    siglip = Config(stock.architectures[0], "siglip_vision_model")
    assert provided(siglip) == SIGLIP | WITH_LAYER
    seen = provided(Config("Qwen3VLForConditionalGeneration", "qwen3_vl"))
    assert seen == SIGLIP | WITH_LAYER | {"frame_features"}
    shared = {"features", "text_token_embeds"}
    assert provided(stock, sharded_by_image=True) == shared | WITH_LAYER
    tower = {"text_embeds", "visual_projected"}
    assert provided(stock, text_tower="some/clip") == CLIP | WITH_LAYER | tower
    stock.text_config.layer_types = ["linear_attention", "full_attention"]
    assert provided(stock) == CLIP
    for config, sharded in (
        (stock, True),
        (Config(stock.architectures[0], "siglip_vision_model"), False),
        (Config("Qwen3VLForConditionalGeneration", "qwen3_vl"), False),
    ):
        with pytest.raises(lftr.LftrError, match="text_tower = 'some/clip'; allowed: none with"):
            provided(config, sharded, "some/clip")
    with pytest.raises(lftr.LftrError, match="pixtral"):
        provided(Config(stock.architectures[0], "pixtral"))
    with pytest.raises(lftr.LftrError, match="those that lftr serves"):
        architecture_of(Config("LlamaForCausalLM"))
