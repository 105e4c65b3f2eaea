"""The merging methods against the outputs of the original programs, see ``tests/golden``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import lftr

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(method):
    files = sorted((GOLDEN / method).glob("*.safetensors"))
    assert files, f"no golden cases of {method}"
    return [pytest.param(file, id=f"{method}-{file.stem}") for file in files]


def load(file):
    with safe_open(file, "pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        header = f.metadata()
    inputs = {name: x for name, x in tensors.items() if not name.startswith("expected_")}
    wanted = {name[9:]: x for name, x in tensors.items() if name.startswith("expected_")}
    return json.loads(header["params"]), tuple(json.loads(header["grid_thw"])), inputs, wanted


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("file", cases("folder"))
def test_folder(file, scaling):
    params, grid, x, wanted = load(file)
    tokens = lftr.VisualTokens(x["features"], grid=grid)
    method = lftr.methods.Folder(class_token=params["class_token"], scaling=scaling)
    chosen = method.select(tokens, tokens.count - params["r"])
    assert chosen.index.equal(wanted["index"])
    assert chosen.assignment(tokens.count).equal(wanted["assignment"])
    close(chosen.apply(x["features"]), wanted["tokens_official" if scaling else "tokens"])
    assert torch.bincount(chosen.flow.slot).float().equal(wanted["size"])


@pytest.mark.parametrize("file", cases("tome"))
def test_tome(file):
    params, _, x, wanted = load(file)
    tokens = lftr.VisualTokens(x["features"], keys=x.get("keys"))
    method = lftr.methods.ToMe(class_token=params["class_token"])
    chosen = method.select(tokens, tokens.count - params["r"])
    assert chosen.index.equal(wanted["index"])
    assert chosen.assignment(tokens.count).equal(wanted["assignment"])
    close(chosen.apply(x["features"]), wanted["tokens"])
    assert torch.bincount(chosen.flow.slot).float().equal(wanted["size"])
    order = wanted["index_official"].argsort()  # the same, in the program's order
    close(chosen.apply(x["features"]), wanted["tokens_official"][order])


@pytest.mark.parametrize("scrambled", [False, True])
@pytest.mark.parametrize("file", cases("aim_merge"))
def test_aim(file, scrambled):
    params, grid, x, wanted = load(file)
    tokens = lftr.VisualTokens(x["features"], grid=grid, keys=x.get("keys"))
    metric = "keys" if "keys" in x else "features"
    method = lftr.methods.AIM(metric=metric, folds=params["r_list"], scrambled=scrambled)
    chosen = method.select(tokens, tokens.count - sum(params["r_list"]))
    variant = "_sorted" if scrambled else ""
    assert chosen.index.equal(wanted["index" + variant])
    assert chosen.assignment(tokens.count).equal(wanted["assignment" + variant])
    close(chosen.apply(x["features"]), wanted["tokens" + variant])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("file", cases("visionzip"))
def test_visionzip(file, official):
    params, grid, x, wanted = load(file)
    tokens = lftr.VisualTokens(
        x["features"], grid=grid, cls_attention=x["cls_attention"], keys=x["keys"]
    )
    keep = params["dominant"] + params["contextual"]
    method = lftr.methods.VisionZip(params["contextual"] / keep, official_sum=official)
    chosen = method.select(tokens, keep)
    anchors = torch.cat([wanted["index"], wanted["target_index"]])
    assert chosen.index.equal(anchors.sort().values)
    slots = wanted["assignment"].clone()  # contextual slots, in the targets' order
    contextual = slots >= 0
    assigned = chosen.index[chosen.assignment(tokens.count)]
    assert assigned[contextual].equal(wanted["target_index"][slots[contextual]])
    expected = wanted["tokens" if official else "tokens_mean"][1:]  # without the CLS token
    close(chosen.apply(x["features"]), expected[anchors.argsort()])


@pytest.mark.parametrize("file", cases("prumerge") + cases("prumerge_plus"))
def test_prumerge(file):
    params, grid, x, wanted = load(file)
    # the original's own attention: one head as wide as the model, CLS first
    logits = x["queries"][0] @ x["keys"].T / x["keys"].shape[1] ** 0.5
    attention = logits.softmax(dim=0)[1:]
    close(attention, wanted["cls_attention"])
    tokens = lftr.VisualTokens(
        x["features"], grid=grid, cls_attention=attention[None], keys=x["keys"][1:]
    )
    keep = "auto" if params["adaptive"] else int(tokens.count * params["ratio"]) + 1
    chosen = lftr.get_method(file.parent.name.replace("_", "-")).select(tokens, keep)
    dropped = set(range(tokens.count)) - set(wanted["index"].tolist())
    anchors = torch.cat([wanted["index"], torch.tensor([max(dropped)])])
    assert chosen.index.equal(anchors.sort().values)
    close(chosen.apply(x["features"]), wanted["tokens"][anchors.argsort()])
