"""The layer methods against the outputs of the original programs, see ``tests/golden``."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from golden import cases, close, load

import lftr
from lftr.methods.inside.aim import importance
from lftr.methods.inside.base import Heads, LayerView, Passage
from lftr.methods.inside.coordinate_tokens import coordinate_tokens
from lftr.methods.inside.ivc_prune import similarity
from lftr.methods.inside.schedules import Stages
from lftr.methods.inside.sparsevlm_plus import rotary_weights
from lftr.methods.inside.text_raters import raters
from lftr.methods.inside.transprune import transition
from lftr.values.places import Places, grid_coordinates

from .views import attending, heads_of


def view_of(states, case, heads, layer=2, **known):
    """Return the view of a prompt: text, the case's visual tokens, text."""
    start, count = case.params["visual_start"], case.params["n_visual"]
    visual = torch.arange(start, start + count)
    text = torch.arange(start + count, len(states))
    return LayerView(layer, 32, states, visual, text, count, heads, **known)


@pytest.mark.parametrize("file", cases("fastv_rank"))
def test_fastv(file):
    case = load(file)
    row = case.inputs["attention_last_row"]
    logits = torch.zeros(len(row), row.shape[1], row.shape[1])
    logits[:, -1] = row.log()
    view = view_of(case.inputs["hidden_states"], case, heads_of(logits))
    chosen = lftr.get_method("fastv").select(view, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(view.states[view.visual]), kept_states(case))


@pytest.mark.parametrize("file", cases("priortr"))
def test_priortr(file):
    case = load(file)
    rows = case.inputs["attention_logits_text"]
    logits = torch.zeros(len(rows), rows.shape[2], rows.shape[2])
    logits[:, -rows.shape[1] :] = rows
    view = view_of(logits[0], case, heads_of(logits))
    method = lftr.get_method("priortr", question=case.params["question"])
    assert method.select(view, case.params["K"]).index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("pdrop_rank"))
def test_pyramiddrop(file):
    case = load(file)
    last = case.params["query_row"]  # the prompt ends here; what follows is an answer, or padding
    keys = case.inputs["keys"][:, : last + 1]
    queries = torch.zeros_like(keys)
    queries[:, last] = case.inputs["query"]
    view = view_of(
        case.inputs["hidden_states"][: last + 1],
        case,
        Heads(queries, keys, scale=keys.shape[2] ** -0.5),
    )
    chosen = lftr.get_method("pyramiddrop").select(view, case.notes["K_out"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(view.states[view.visual]), kept_states(case))


def kept_states(case):
    """Return the rows of the expected states that are visual tokens."""
    kept = case.expected["keep_index"] - case.params["visual_start"]
    return case.expected["hidden_states"][(kept >= 0) & (kept < case.params["n_visual"])]


@pytest.mark.parametrize("file", cases("aim_pagerank"))
def test_aim(file):
    case = load(file)
    start, stop, _ = case.params["boundaries"]
    heads = heads_of(case.inputs["attention_logits"])
    close(importance(heads, case.params["tau"], case.params["iters"]), case.expected["importance"])
    left = torch.ones(len(case.expected["importance"]), dtype=torch.bool)
    left[case.inputs.get("already_pruned_index", [])] = False
    visual = torch.arange(start, stop)[left[start:stop]]
    states = torch.zeros(len(left), 1)
    view = LayerView(2, 32, states, visual, torch.arange(stop, len(left)), stop - start, heads)
    method = lftr.get_method("aim-inside", temperature=case.params["tau"])
    chosen = method.select(view, case.notes["K_out"])
    assert visual[chosen.index].sub(start).equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("dart"))
def test_dart(file):
    case = load(file)
    params, keys = case.params, case.inputs["keys"]
    view = view_of(case.inputs["hidden_states"] * 3, case, Heads(keys, keys, 1.0))
    view = dataclasses.replace(view, norm=lambda states: states / 3)
    method = lftr.get_method(
        "dart-inside", pivots=params["pivot_image"], text_pivots=params["pivot_text"]
    )
    chosen = method.select(view, case.notes["K_out"])
    assert chosen.index.equal(case.expected["index"])
    assert method.select(view, params["K_target"]).count == params["K_target"]


def rated(case, states, rotary=None):
    """Return the views of a prompt at the embeddings and, with the same memory, at layer 2."""
    start, count = case.params["visual_start"], case.params["n_visual"]
    said = case.inputs["text_token_embeds"]
    before = torch.zeros(start, said.shape[1])
    first = view_of(torch.cat([before, case.inputs["features"], said]), case, None, layer=0)
    length = start + count + len(said)
    attention = case.inputs["attention_text_to_visual"]
    heads = attending(attention, length, first.text, first.visual)
    whole = torch.zeros(length, states.shape[1])
    whole[first.visual] = states
    return first, view_of(whole, case, heads, rotary=rotary, memory=first.memory)


@pytest.mark.parametrize("file", cases("sparsevlm"))
def test_sparsevlm(file):
    case = load(file)
    states = case.inputs["hidden_states"]
    first, second = rated(case, states)
    method = lftr.get_method("sparsevlm")
    method.observe(first)
    assert method.count(first, case.params["n_visual"]) == case.params["n_visual"]
    assert raters(second).sub(first.text[0]).equal(case.expected["text_rater_index"])
    close(second.received(raters(second)), case.expected["scores"])
    kept, merged = case.expected["index"], case.notes["n_clusters"]
    chosen = method.select(second, len(kept) + merged)
    slots = chosen.assignment(case.params["n_visual"])
    clusters = torch.tensor([i for i, at in enumerate(chosen.index) if at not in kept])
    single = torch.tensor([i for i, at in enumerate(chosen.index) if at in kept])
    assert chosen.index[single].equal(kept)
    recycled = (slots >= 0).nonzero().squeeze(1)
    recycled = recycled[~torch.isin(recycled, kept)]
    assert recycled.equal(case.expected["recycled_index"].sort().values)
    got = chosen.apply(states)
    close(got[single], case.expected["tokens"][: len(kept)])
    close(ordered(got[clusters]), ordered(case.expected["tokens"][len(kept) :]))
    for i in clusters:  # a cluster stands where one of its own stood
        members = (slots == i).nonzero().squeeze(1)
        assert chosen.index[i] in members
        close(got[i], states[members].mean(0))


def ordered(rows):
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("file", cases("sparsevlm_plus"))
def test_sparsevlm_plus(file):
    case = load(file)
    params, size = case.params, case.params["head_dim"]
    length = params["visual_start"] + params["n_visual"] + len(case.inputs["text_token_embeds"])
    angles = torch.arange(length)[:, None] / params["rope_theta"] ** (
        torch.arange(0, size, 2) / size
    )
    angles = torch.cat([angles, angles], dim=1)
    first, second = rated(case, case.inputs["features"], (angles.cos(), angles.sin()))
    assert raters(first).sub(first.text[0]).equal(case.expected["text_rater_index"])
    close(rotary_weights(second, first.text), case.expected["rope_weights"])
    chosen = lftr.get_method("sparsevlm-plus", heads=14).select(second, params["K"])
    assert chosen.index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("v2drop"))
def test_v2drop(file):
    case = load(file)
    layer, schedule = case.params["layer"], Stages((3, 17, 22), (0.5, 0.25, 1))
    before = view_of(case.inputs["states_before"], case, None, layer=layer - 1)
    after = view_of(case.inputs["states_after"], case, None, layer=layer, memory=before.memory)
    method = lftr.get_method("v2drop", schedule=schedule)
    method.observe(before)
    assert method.select(after, case.params["K"]).index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("feather"))
def test_feather(file):
    """Stage by stage: the original's own count, with the same choice."""
    case = load(file)
    _, rows, columns = case.grid
    start, total = case.params["visual_start"], case.params["n_visual"]
    places = Places(((rows, columns),), grid_coordinates(((1, rows, columns),)))
    method = lftr.get_method("feather", stride=case.params["stride"])
    left = torch.arange(total)
    for stage, layer in enumerate((8, 16)):
        queries, keys = (case.inputs[f"{name}_{stage}"] for name in ("queries", "keys"))
        length, size = keys.shape[1:]
        heads = Heads(queries[:, -1:], keys, size**-0.5, first=length - 1)
        visual = torch.arange(start, start + len(left))
        text = torch.arange(start + len(left), length)
        located = places.at(left)
        view = LayerView(layer, 32, torch.zeros(length, 1), visual, text, total, heads)
        view = dataclasses.replace(view, locate=lambda here=located: here)
        wanted = case.expected[f"index_{stage}"]
        assert method.select(view, len(wanted)).index.equal(wanted)
        left = left[wanted]
        assert left.equal(case.expected[f"left_{stage}"])


@pytest.mark.parametrize("file", cases("transprune"))
def test_transprune(file):
    case = load(file)
    start, total = case.params["visual_start"], case.params["n_visual"]
    method = lftr.get_method("transprune", schedule=Stages((7, 9, 12), (0.875, 0.625, 0.125)))
    memory, left = {}, torch.arange(total)
    for layer in sorted(method.watches(32)):
        parts = case.inputs[f"parts_{layer}"]
        passages = Passage(*parts[:2]), Passage(*parts[2:])
        close(sum(map(transition, passages)), case.expected[f"transition_{layer}"])
        after = torch.arange(start + total, start + total + case.params["text"])
        columns = torch.cat([torch.arange(start), start + left, after])
        heads = None
        if layer in (7, 9, 12):
            queries, keys = (case.inputs[f"{name}_{layer}"] for name in ("queries", "keys"))
            heads = Heads(queries, keys, queries.shape[2] ** -0.5)
        view = LayerView(
            layer,
            32,
            parts[0],
            torch.arange(start, start + len(left)),
            torch.arange(start + len(left), len(columns)),
            total,
            heads,
            memory=memory,
            columns=columns,
            passages=passages,
        )
        method.observe(view)
        if heads is not None:
            wanted = case.expected[f"index_{layer}"]
            assert method.select(view, len(wanted)).index.equal(wanted)
            left = left[wanted]


@pytest.mark.parametrize("file", cases("ivc_prune"))
def test_ivc_prune(file):
    case = load(file)
    values, tables = case.inputs["values"], (case.inputs["cosines"], case.inputs["sines"])
    states = torch.zeros(values.shape[1], 1)
    heads = Heads(values, values, 1.0, values=values)
    view = view_of(states, case, heads, layer=16, rotary=tables)
    total = case.params["n_visual"]
    marks = coordinate_tokens(view, round(total * case.params["coordinates"]))
    assert marks.nonzero().squeeze(1).equal(case.expected["coordinates"])
    question = view.text[2:]
    relevance = similarity(view, question)
    seeds = case.expected["seeds"]
    assert relevance.topk(len(seeds)).indices.sort().values.equal(seeds)
    both = relevance + similarity(view, view.visual[seeds])
    close(both / (len(question) + len(seeds)), case.expected["relevance"])
    method = lftr.get_method("ivc-prune", coordinates=case.params["coordinates"])
    wanted = case.expected["index"]
    assert method.select(view, len(wanted)).index.equal(wanted)


@pytest.mark.parametrize("file", cases("clse"))
def test_clse(file):
    case = load(file)
    row = case.inputs["attention_logits_last_row"]
    logits = torch.zeros(len(row), row.shape[1], row.shape[1])
    logits[:, -1] = row
    frames, rows, columns = case.grid
    places = Places(((rows, columns),) * frames, grid_coordinates((case.grid,)))
    before = view_of(case.inputs["states_0"], case, None, layer=0)
    view = view_of(
        case.inputs["states_1"],
        case,
        heads_of(logits),
        layer=1,
        memory=before.memory,
        locate=lambda: places,
    )
    method = lftr.get_method("clse")
    method.observe(before)
    scores = view.received(view.last) * method.evolution(view)
    close(scores, case.expected["scores"])
    assert method.select(view, case.params["K"]).index.equal(case.expected["index"])
    later = dataclasses.replace(view, layer=11)
    assert method.select(later, case.params["K"]).index.equal(case.expected["index_later"])
