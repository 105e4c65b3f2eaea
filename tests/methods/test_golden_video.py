"""The methods for videos against the outputs of the original programs, see ``tests/golden``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import cases, close, load

import lftr
from lftr.methods.operations.regions import pairs_of
from lftr.methods.operations.segments import unlike_cuts
from lftr.methods.video.vidcom2 import likenesses

GOLDEN = Path(__file__).parents[1] / "golden"


def video_of(case, **extra):
    return lftr.VisualTokens(case.inputs["video"].flatten(0, 1), grid=case.grid, **extra)


@pytest.mark.parametrize("file", cases("evs"))
def test_evs(file):
    case = load(file)
    tokens = video_of(case)
    chosen = lftr.get_method("evs").select(tokens, case.notes["K_out"])
    assert chosen.index.equal(case.expected["index"])
    # positions of what is kept are its own in the full grid
    steps = case.params["tokens_per_second"] * case.params["second_per_grid"]
    place = tokens.coordinates[chosen.index]
    place[:, 0] = (place[:, 0] * steps).long()
    assert place.equal(case.expected["mrope"][:, :3])


@pytest.mark.parametrize("file", cases("vidcom2"))
def test_vidcom2(file):
    case = load(file)
    to_clip, to_frame = likenesses(case.inputs["video"][None])
    close(to_clip[0], case.expected["video_score"])
    close(to_frame[0], case.expected["frame_score"])
    method = lftr.methods.VidCom2(base_scale=case.params["base_scale"])
    close(method.shares(to_clip)[0] * method.base_scale, case.expected["scales"])
    chosen = method.select(video_of(case), "auto")
    assert chosen.index.equal(case.expected["index"])
    frames = chosen.index // case.inputs["video"].shape[1]
    assert frames.bincount().equal(case.expected["frame_count"])
    assert method.select(video_of(case), case.notes["K_out"]).index.equal(chosen.index)


@pytest.mark.parametrize("file", cases("vcast"))
def test_vcast(file):
    case = load(file)
    chosen = lftr.get_method("v-cast").select(video_of(case), case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    frames = chosen.index // case.inputs["video"].shape[1]
    assert frames.bincount(minlength=case.grid[0]).equal(case.expected["frame_count"])


@pytest.mark.parametrize("file", cases("semvid"))
def test_semvid(file):
    case = load(file)
    tokens = video_of(case, text_token_embeds=case.inputs["text"])
    method = lftr.get_method("semvid", threshold=case.params["threshold"])
    assert method.select(tokens, case.params["K"]).index.equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("dycoke_ttm"))
def test_dycoke(file):
    case = load(file)
    method = lftr.methods.DyCoke(merging_ratio=case.params["merging_ratio"])
    tokens = video_of(case)
    chosen = method.select(tokens, "auto")
    assert chosen.index.equal(case.expected["index"])
    lost = case.grid[0] % 2 * case.inputs["video"].shape[1]  # the original's odd last frame
    assert chosen.index[: chosen.count - lost].equal(case.expected["index_official"].sort().values)
    full = lftr.methods.DyCoke(merging_ratio=case.params["merging_ratio"], full_groups=True)
    assert full.select(tokens, "auto").index.equal(case.expected["index_full_groups"])


@pytest.mark.parametrize("name", ["one_fold_half", "two_folds_quarter"])
def test_aim_video(name):
    case = load(GOLDEN / "aim_merge" / f"{name}.safetensors")
    method = lftr.methods.AIMVideo(folds=case.params["r_list"])
    features = case.inputs["features"]
    clip = torch.cat([features, features.flip(0)])
    tokens = lftr.VisualTokens(clip, grid=(2, *case.grid[1:]))
    chosen = method.select(tokens, 2 * case.notes["K_out"])
    merged = chosen.apply(clip)
    close(merged[: case.notes["K_out"]], case.expected["tokens"])
    assert chosen.index[: case.notes["K_out"]].equal(case.expected["index"])


@pytest.mark.parametrize("file", cases("fastvid"))
def test_fastvid(file):
    case = load(file)
    options = {"segments": "c", "threshold": "tau", "contextual": "d", "step": "p", "own": "beta"}
    method = lftr.methods.FastVID(**{ours: case.params[p] for ours, p in options.items()})
    frames = case.inputs["frame_features"]
    segments = unlike_cuts(frames, method.segments, method.threshold)
    assert [end - first for first, end in segments] == case.expected["segment_sizes"].tolist()
    received = case.inputs["attention"].flatten()
    tokens = video_of(case, attention_received=received, frame_features=frames)
    chosen = method.select(tokens, case.notes["K_out"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(tokens.features), case.expected["tokens"])


@pytest.mark.parametrize("file", cases("flashvid"))
def test_flashvid(file):
    case = load(file)
    tokens = video_of(case, cls_attention=case.inputs["cls_attention"].flatten()[None])
    method = lftr.get_method("flashvid", segments=case.params["segments"])
    chosen = method.select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(tokens.features), case.expected["tokens"])


@pytest.mark.parametrize("file", cases("prunevid"))
def test_prunevid(file):
    case = load(file)
    options = {name: case.params[name] for name in ("clusters", "threshold", "share", "neighbours")}
    tokens = video_of(case)
    chosen = lftr.methods.PruneVid(**options).select(tokens, "auto")
    wanted = case.expected["tokens"]  # in another order: part by part
    got = chosen.apply(tokens.features)
    assert len(got) == len(wanted) == case.notes["K_out"]
    there = torch.cdist(got.double(), wanted.double()).argmin(dim=1)
    assert there.sort().values.equal(torch.arange(len(wanted)))
    close(got, wanted[there])


@pytest.mark.parametrize("file", cases("holitom"))
def test_holitom(file):
    case = load(file)
    params = case.params
    method = lftr.methods.HoliTom(
        threshold=params["tau"],
        contextual=params["D"],
        neighbours=params["k"],
        own=params["beta"],
        mean=params["no_beta"],
        longest=params["max_window_size"],
    )
    windows = [(first, end - 1) for first, end in method.parts(case.inputs["video"], 1).segments]
    assert torch.tensor(windows).equal(case.expected["windows"])
    tokens = video_of(case, attention_received=case.inputs["attention"].flatten())
    chosen = method.select(tokens, case.notes["K_out"])
    place = case.expected["frame"] * case.inputs["video"].shape[1] + case.expected["position"]
    assert chosen.index.equal(place.sort().values)
    close(chosen.apply(tokens.features), case.expected["tokens"][place.argsort()])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("file", cases("free_video_llm"))
def test_free_video_llm(file, transposed):
    case = load(file)
    x, params = case.inputs, case.params
    official = "_official" if transposed else ""
    method = lftr.methods.FreeVideoLLM(
        slow=params["n_textguided"],
        middle=0,
        side=0,
        region=params["roi_ratio"],
        pool="max" if "max" in params["pool"] else "avg",
        frames_by="frame",
        transposed=transposed,
    )
    shape = case.grid[1:]
    pooled = pairs_of(x["video"], shape, method.pool)
    close(pooled, case.expected["pooled"])
    text = torch.nn.functional.normalize(x["text_embeds"][0], dim=0)
    found = method.regions_of(x["visual_projected"], text, shape)
    assert torch.tensor([r.box for r in found]).equal(case.expected[f"box{official}"])
    index = torch.stack([r.index for r in found])
    assert index.equal(case.expected[f"pooled_index{official}"])
    close(
        torch.stack([f[i] for f, i in zip(pooled, index, strict=True)]),
        case.expected[f"tokens{official}"],
    )

    tokens = video_of(
        case,
        visual_projected=x["visual_projected"].flatten(0, 1),
        text_embeds=x["text_embeds"],
        frame_features=x["frame_features"],
    )
    chosen = method.select(tokens, "auto")
    wanted = case.expected["frame_index"]
    assert (chosen.index // x["video"].shape[1]).unique().equal(wanted)
    halves = pairs_of(x["video"], shape, "avg")  # what a slot is, whatever places the region
    rows = torch.cat([halves[t][index[t]] for t in wanted])
    assert chosen.count == len(rows)
    order = torch.cat([t * pooled.shape[1] + index[t] for t in wanted]).argsort()
    close(chosen.apply(tokens.features), rows[order])
    if method.pool == "avg":
        close(rows, case.expected[f"tokens{official}"][wanted].flatten(0, 1))


@pytest.mark.parametrize("file", cases("aot"))
def test_aot(file):
    case = load(file)
    tokens = video_of(
        case,
        attention_received_shallow=case.inputs["middle"].flatten(),
        cls_attention=case.inputs["late"].flatten()[None],
    )
    method = lftr.get_method("aot", rest=case.params["rest"], segments=case.params["segments"])
    chosen = method.select(tokens, case.params["K"])
    assert chosen.index.equal(case.expected["index"])
    close(chosen.apply(tokens.features), case.expected["tokens"])
