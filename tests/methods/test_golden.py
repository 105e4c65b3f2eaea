"""The pruning methods against the outputs of the original programs, see ``tests/golden``."""

from __future__ import annotations

import pytest
import torch
from golden import cases, close, load

import lftr
from lftr.methods import Trim
from lftr.methods.operations.coverage import facility_location
from lftr.methods.operations.greedy import determinantal, farthest_point
from lftr.methods.operations.information_flow import information_flow
from lftr.methods.operations.scaling import min_max
from lftr.methods.operations.signals import text_relevance


def tokens_of(case, **extra):
    fields = {f: x for f, x in case.inputs.items() if f in lftr.VisualTokens.__dataclass_fields__}
    return lftr.VisualTokens(grid=case.grid, **(fields | extra))


@pytest.mark.parametrize("file", cases("fastervlm"))
def test_fastervlm(file):
    case = load(file)
    chosen = lftr.get_method("fastervlm").select(tokens_of(case), case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    assert chosen.notes == ()


@pytest.mark.parametrize("file", cases("flowcut"))
def test_flowcut(file):
    case = load(file)
    tokens = tokens_of(case)
    close(information_flow(tokens.as_batch())[0][0], case.expected["scores"])
    chosen = lftr.get_method("flowcut").select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    assert chosen.notes == ()


@pytest.mark.parametrize("file", cases("vispruner"))
def test_vispruner(file):
    case = load(file)
    method = lftr.get_method("vispruner", important_ratio=case.params["important_ratio"])
    tokens = tokens_of(case, encoder_features=case.inputs["features"])
    chosen = method.select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    if case.notes["official_status"] == "ok":
        assert chosen.index.equal(case.expected["index_official"])


@pytest.mark.parametrize("file", cases("divprune"))
def test_divprune(file):
    case = load(file)
    keep = case.params["K"]
    order = farthest_point(case.inputs["features"][None], keep)[0]
    assert order.equal(case.expected["order"])
    chosen = lftr.get_method("divprune").select(tokens_of(case), keep)
    assert chosen.index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("cdpruner"))
def test_cdpruner(file):
    case = load(file)
    tokens, keep = tokens_of(case), case.params["K"]
    quality = min_max(text_relevance(tokens.as_batch(), "published")[0], floor=1e-6)
    order = determinantal(tokens.features[None], quality, keep)[0]
    assert order.equal(case.expected["order"])
    chosen = lftr.get_method("cdpruner").select(tokens, keep)
    assert chosen.index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("scope"))
def test_scope(file):
    case = load(file)
    keep, alpha = case.params["K"], case.params["alpha"]
    attention = case.inputs.get("cls_attention")
    weight = None if attention is None else attention.sum(0, keepdim=True) ** alpha
    order = facility_location(case.inputs["features"][None], keep, weight=weight)[0]
    assert order.equal(case.expected["order"])
    method = lftr.get_method("scope", alpha=alpha, combined=case.params["combined"])
    chosen = method.select(tokens_of(case), keep)
    assert chosen.index.equal(case.expected["index"])
    assert any("without attention" in note for note in chosen.notes) == (attention is None)


@pytest.mark.parametrize("file", cases("hiprune"))
def test_hiprune(file):
    case = load(file)
    deep, shallow = (
        case.inputs[f"attention_{layer}"].mean((0, 1))[1:] for layer in ("deep", "shallow")
    )
    tokens = lftr.VisualTokens(
        torch.zeros(len(deep), 1),
        grid=case.grid,
        attention_received=deep,
        attention_received_shallow=shallow,
    )
    method = lftr.get_method("hiprune", alpha=case.params["alpha"])
    chosen = method.select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    assert set(case.expected["anchor_index"].tolist()) <= set(chosen.index.tolist())


@pytest.mark.parametrize("file", cases("dart"))
def test_dart(file):
    case = load(file)
    params = case.params
    image = slice(params["visual_start"], params["visual_start"] + params["n_visual"])
    text = slice(image.stop, None)
    states = case.inputs["hidden_states"]
    keys = case.inputs["keys"].transpose(0, 1).flatten(1)
    # the text's pivots are found by the norm of its rows: give them the norm of their keys
    said = states[text] / states[text].abs().sum(1, True) * keys[text].abs().sum(1, True)
    tokens = lftr.VisualTokens(
        states[image], grid=case.grid, keys=keys[image], text_token_embeds=said
    )
    method = lftr.methods.Dart(params["pivot_image"], params["pivot_text"], norm="keys")
    chosen = method.select(tokens, case.notes["K_out"])
    assert chosen.index.equal(case.expected["index"])
    assert method.select(tokens, params["K_target"]).count == params["K_target"]


@pytest.mark.parametrize("file", cases("trim"))
def test_trim(file):
    case = load(file)
    tokens = tokens_of(case)
    close(Trim().relevance(tokens.as_batch())[0][0], case.expected["scores"])
    keep = "auto" if case.params["ratio"] == -1 else case.notes["K_out"]
    chosen = lftr.get_method("trim").select(tokens, keep)
    assert chosen.count == case.notes["K_out"]
    dropped = sorted(set(range(tokens.count)) - set(case.expected["index"].tolist()))
    mean = chosen.index.tolist().index(dropped[-1])  # where the mean token stands
    kept = torch.arange(chosen.count) != mean
    assert chosen.index[kept].equal(case.expected["index"])
    merged = chosen.apply(tokens.features)
    close(torch.cat([merged[kept], merged[[mean]]]), case.expected["tokens"])
    slots = chosen.assignment(tokens.count)
    assert (slots[dropped] == mean).all()


@pytest.mark.parametrize("file", cases("holov"))
def test_holov(file):
    case = load(file)
    chosen = lftr.methods.HoloV(runs=case.params["runs"]).select(tokens_of(case), case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(case.inputs["features"]), case.expected["tokens"])


@pytest.mark.parametrize("file", cases("vscan"))
def test_vscan(file):
    case = load(file)
    method = lftr.methods.VScan(window=case.params["window"])
    chosen = method.select(tokens_of(case), case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(case.inputs["features"]), case.expected["tokens"])


@pytest.mark.parametrize("file", cases("apet"))
def test_apet(file):
    """The same tokens, merged the same way but for what the program loses or counts twice."""
    case = load(file)
    x, wanted = case.inputs["encoder_features"], case.expected
    tokens = tokens_of(case, features=x)
    chosen = lftr.methods.ApET(case.params["basis"]).select(tokens, case.params["K"])
    assert chosen.index.equal(wanted["index"])
    members = chosen.index[chosen.assignment(len(x))]
    unit = x / x.norm(dim=1, keepdim=True)
    twice = wanted["worst"][(unit[wanted["basis"]] @ unit[wanted["worst"]].T).argmax(dim=1)]
    for token, official in zip(wanted["worst"], wanted["merged_official"], strict=True):
        group = (members == token).nonzero()[:, 0]
        group = group[~torch.isin(group, wanted["replaced"])]
        close(torch.cat([x[group], x[wanted["basis"]][twice == token]]).mean(dim=0), official)


@pytest.mark.parametrize("file", cases("prunesid"))
def test_prunesid(file):
    case = load(file)
    chosen = lftr.methods.PruneSID().select(
        tokens_of(case, features=case.inputs["encoder_features"]), case.params["K"]
    )
    assert chosen.index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("globalcom2"))
def test_globalcom2(file):
    case = load(file)
    tiles = tuple(tuple(grid) for grid in case.params["tiles"])
    tokens = lftr.VisualTokens(tiles=tiles, **case.inputs)
    chosen = lftr.methods.GlobalCom2(case.params["temperature"]).select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("hawk"))
def test_hawk(file):
    case = load(file)
    queries, keys, weights = (case.inputs[name] for name in ("queries", "keys", "weights"))
    products = (queries @ keys.mT).mean(dim=1) * queries.shape[-1] ** -0.5
    tokens = lftr.VisualTokens(torch.zeros(keys.shape[1], 1), case.grid, text_products=products)
    options = {} if case.params["uniform"] else {"weights": tuple(weights.tolist())}
    chosen = lftr.get_method("hawk", **options).select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
