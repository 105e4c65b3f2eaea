"""The zoo against plain transformers: its inputs are what the models take.

`Traits.upstream` is checked in both directions: what it lists must fail, all else must work.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from . import (
    ABILITIES,
    BROKEN,
    FAMILIES,
    KINDS,
    SPARSE,
    TEXT,
    UNUSABLE,
    VIDEOS,
    Image,
    Row,
    ZooEntry,
)

ROWS: list[Row] = [[3, Image("wide"), 4, Image("small"), 5], [6], [2, Image("square"), 3]]
NEW = 5


@pytest.fixture(params=[*FAMILIES.values(), *VIDEOS.values()], ids=str, scope="module")
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def inputs(entry: ZooEntry, rows: list[Row] | None = None, **options: Any) -> dict[str, Any]:
    model = entry.model()
    return entry.inputs(model, entry.rows(ROWS if rows is None else rows), **options)


def generated(entry: ZooEntry, batch: dict[str, Any], new: int = NEW, **options: Any) -> Tensor:
    tokens: Tensor = entry.model().generate(**batch, max_new_tokens=new, **options)
    return tokens[:, -new:]


def first_logits(entry: ZooEntry, batch: dict[str, Any], **options: Any) -> Tensor:
    output = entry.model().generate(
        **batch, **options, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
    )
    logits: Tensor = output.logits[0]
    return logits


def last_logits(entry: ZooEntry, batch: dict[str, Any]) -> Tensor:
    """Logits of the last token of every row, wherever its padding is."""
    logits: Tensor = entry.model()(**batch).logits
    places = torch.arange(batch["attention_mask"].shape[1]) * batch["attention_mask"]
    return logits[torch.arange(len(logits)), places.argmax(dim=1)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=UNUSABLE[name].reason))
        for name in BROKEN
    ],
)
def test_what_transformers_cannot_run_works_again(name: str) -> None:
    """Fails, as is expected, while it is broken; then its entry in `zoo.UNUSABLE` must go."""
    assert CHECKS["batch"](BROKEN[name])


def test_build_depends_on_the_seed_alone(entry: ZooEntry) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second, other = entry.build(), entry.build(), entry.build(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name
        assert not torch.equal(parameter, other.get_parameter(name)), name


def test_logits_are_spread(entry: ZooEntry) -> None:
    logits = last_logits(entry, inputs(entry))
    assert 0.8 < logits[:, list(TEXT)].std() < 1.3
    best, second = logits.topk(2).values.unbind(dim=-1)
    assert (best - second).min() > 1e-3
    assert set(logits.argmax(dim=-1).tolist()) <= set(TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_the_placeholders(entry: ZooEntry, kind: Any) -> None:
    model, image = entry.model(), Image(kind)
    ids = entry.image_ids(model, image)
    placeholders = int(entry.is_visual(model, torch.tensor(ids)).sum())
    if entry.name == "mllama":
        assert placeholders == 1
    else:
        assert placeholders == entry.counts(model, image) == entry.row_counts(model, [image])[0]
    assert entry.traits.ragged or entry.counts(model, Image("small")) == placeholders


def test_gap_tokens(entry: ZooEntry) -> None:
    """Whether the placeholders of one image are one run."""
    model = entry.model()
    split = False
    for kind in KINDS:
        ids = entry.image_ids(model, Image(kind))
        places = entry.is_visual(model, torch.tensor(ids)).nonzero().squeeze(1).tolist()
        split |= places[-1] - places[0] + 1 > len(places)
    assert split == entry.traits.gap_tokens


def test_features_fill_the_placeholders(entry: ZooEntry) -> None:
    model, rows = entry.model(), entry.rows(ROWS)
    counts = [entry.row_counts(model, row) for row in rows]
    output, traits = entry.features(model, inputs(entry)), entry.traits
    if traits.container == "none":
        assert not hasattr(model, "get_image_features")
        pytest.skip(f"{entry} has no function that encodes images alone, as its traits say")
    features = output.get("pooler_output")
    if traits.container == "last_hidden_state":
        assert features is None
        features = output.last_hidden_state
    planes = output.get("deepstack_features")
    if traits.container == "planes":
        assert features is None
        planes = [plane for _, plane in planes]
        features = planes[0]
    kind = {"list": list, "tuple": tuple, "planes": list}.get(traits.container, torch.Tensor)
    assert type(features) is kind
    sizes = [1 if traits.unit == "token" else len(feature) for feature in features]
    assert (sum(sizes) == sum(map(sum, counts))) != traits.thinned
    if traits.thinned:
        assert all(len(f) >= n for f, n in zip(features, chain.from_iterable(counts), strict=True))
    elif traits.unit == "row":
        assert sizes == [sum(row) for row in counts]
    elif traits.unit == "batch":
        assert sizes == [sum(map(sum, counts))]
    elif traits.unit in ("image", "part"):
        assert sizes == [n for row in rows for part in entry.row_sizes(model, row) for n in part]
    else:
        assert len(set(sizes)) == 1
        assert len(sizes) > sum(map(len, counts))
    width = features[0].shape[-1]
    embedded = model.get_input_embeddings().weight.shape[1]
    projected = traits.container != "last_hidden_state" or traits.unit == "token"
    assert (width == embedded) == projected
    if traits.deepstack:
        assert [list(map(len, plane)) for plane in planes] == [sizes] * traits.deepstack


def test_feature_arguments_are_the_signature(entry: ZooEntry) -> None:
    model = entry.model()
    if entry.traits.container == "none":
        pytest.skip(f"{entry} has no function that encodes images alone")
    encoder = getattr(model.base_model, f"get_{entry.medium}_features", None)
    # PerceptionLM's forward itself shows clips to its encoder of images
    taken = inspect.signature(model.forward if encoder is None else encoder).parameters
    given = set(inputs(entry)) & set(taken) - {"input_ids", "attention_mask"}
    assert given == set(entry.feature_arguments)


def test_images_reach_their_rows_and_no_other(entry: ZooEntry) -> None:
    changed: list[Row] = [[3, Image("wide", 7), 4, Image("small"), 5], *ROWS[1:]]
    difference = last_logits(entry, inputs(entry)) - last_logits(entry, inputs(entry, changed))
    assert difference[0].abs().max() > 1e-2
    assert difference[1:].abs().max() < 1e-5


def test_second_image_of_a_row_counts(entry: ZooEntry) -> None:
    if entry.traits.one_image:
        pytest.skip(f"{entry} takes one image a row")
    changed: list[Row] = [[3, Image("wide"), 4, Image("small", 7), 5], *ROWS[1:]]
    difference = last_logits(entry, inputs(entry)) - last_logits(entry, inputs(entry, changed))
    assert difference[0].abs().max() > 1e-2


def test_rows_without_images(entry: ZooEntry) -> None:
    if entry.traits.one_image:
        with pytest.raises(ValueError, match="exactly one image"):
            entry.inputs(entry.model(), [[6]])
        return
    batch = inputs(entry, [[6], [3]])
    assert entry.pixels not in batch
    assert generated(entry, batch).shape == (2, NEW)


def test_eager_equals_sdpa(entry: ZooEntry) -> None:
    batch = inputs(entry)
    eager = entry.model("eager")(**copy.deepcopy(batch)).logits
    keep = batch["attention_mask"].bool()
    difference = (eager - entry.model()(**batch).logits)[keep].abs().max()
    # Two kernels round differently: what one kernel does twice is within the tolerance itself.
    assert difference < 10 * entry.traits.tolerance


# ---- the abilities -------------------------------------------------------------------------


def close(entry: ZooEntry, left: Tensor, right: Tensor) -> bool:
    return bool((left - right).abs().max() < entry.traits.tolerance)


def alone(entry: ZooEntry, logits: Callable[[ZooEntry, dict[str, Any]], Tensor], side: Any) -> bool:
    together = logits(entry, inputs(entry, side=side))
    single = [logits(entry, inputs(entry, [row]))[0] for row in entry.rows(ROWS)]
    return close(entry, together, torch.stack(single))


def encoder_outputs(entry: ZooEntry) -> bool:
    batch = inputs(entry)
    expected = generated(entry, dict(batch))
    features = entry.features(entry.model(), batch)
    grids = {"image_grid_thw", "video_grid_thw", "target_sizes", "target_sizes_videos"}
    for name in set(entry.feature_arguments) - grids:  # positions are made of these
        del batch[name]
    outputs = {entry.medium: features}
    return torch.equal(generated(entry, batch, mm_encoder_outputs=outputs), expected)


def expansion(entry: ZooEntry) -> bool:
    expected = generated(entry, inputs(entry))
    options = {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
    return torch.equal(
        generated(entry, inputs(entry), **options), expected.repeat_interleave(2, dim=0)
    )


def option(**options: Any) -> Callable[[ZooEntry], bool]:
    def same(entry: ZooEntry) -> bool:
        alone = {"prompt_lookup_num_tokens", "assistant_model"}
        rows = ROWS[:1] if alone & set(options) else ROWS
        changed = generated(entry, inputs(entry, rows), **options)
        return torch.equal(changed, generated(entry, inputs(entry, rows)))

    return same


def second_turn(entry: ZooEntry) -> bool:
    """A text and an image, three tokens, a text and another image."""
    model, old, new = entry.model(), Image("small", 1), Image("tall", 2)
    prompt = entry.row_ids(model, [3, old, 2])

    def batch(ids: list[int], *images: Image) -> dict[str, Any]:
        made = entry.batch(model, [ids], [list(images)])
        if "batch_num_images" in made:  # every image cut as if it were alone, as turn by turn
            made["batch_num_images"] = torch.ones(len(images), dtype=torch.long)
        return made

    output = model.generate(**batch(prompt, old), max_new_tokens=3, return_dict_in_generate=True)
    ids = [*output.sequences[0].tolist(), 20, *entry.image_ids(model, new), 21, 22]
    expected = first_logits(entry, batch(ids, old, new))
    second = batch(ids, old, new) | entry.visual_inputs(model, [[new]])
    second |= (
        {"batch_num_images": torch.ones(1, dtype=torch.long)}
        if "batch_num_images" in second
        else {}
    )
    cache = output.past_key_values
    return close(entry, first_logits(entry, second, past_key_values=cache), expected)


def mrope_second_turn(entry: ZooEntry) -> bool:
    """The way around what `second_turn` cannot do for M-RoPE families."""
    model, old, new = entry.model(), Image("small", 1), Image("tall", 2)
    first = entry.batch(model, [entry.row_ids(model, [3, old, 2])], [[old]])
    output = model.generate(**first, max_new_tokens=3, return_dict_in_generate=True)
    ids = [*output.sequences[0].tolist(), 20, *entry.image_ids(model, new), 21, 22]
    second = entry.batch(model, [ids], [[old, new]])
    expected = first_logits(entry, dict(second))
    del second[entry.pixels]
    features = entry.features(model, entry.visual_inputs(model, [[new]]))
    second |= {"mm_encoder_outputs": {entry.medium: features}}
    cache = output.past_key_values
    return close(entry, first_logits(entry, second, past_key_values=cache), expected)


CHECKS: dict[str, Callable[[ZooEntry], bool]] = {
    "batch": lambda entry: alone(entry, first_logits, "left"),
    "batch_forward": lambda entry: alone(entry, last_logits, "left"),
    "right_padding": lambda entry: alone(entry, last_logits, "right"),
    "encoder_outputs": encoder_outputs,
    "expansion": expansion,
    "assisted": option(prompt_lookup_num_tokens=2),
    "assistant_model": lambda entry: option(assistant_model=entry.build(seed=1))(entry),
    "static_cache": option(cache_implementation="static", disable_compile=True),
    "chunked_prefill": option(prefill_chunk_size=7),
    "no_cache": option(use_cache=False),
    "second_turn": second_turn,
    "mrope_second_turn": mrope_second_turn,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ability", ABILITIES)
def test_abilities(entry: ZooEntry, ability: str) -> None:
    if ability.startswith("mrope") and not entry.traits.mrope:
        pytest.skip("positions need no grids")
    check, reason = CHECKS[ability], entry.traits.cannot(ability)
    if reason is None:
        assert check(entry), ABILITIES[ability]
    else:
        assert not works(check, entry), f"upstream can do it now: {reason}"


def works(check: Callable[[ZooEntry], bool], entry: ZooEntry) -> bool:
    """Whether a family can do what is checked; an error says that it cannot."""
    try:
        return check(entry)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, StopIteration):
        return False


def test_mllama_rows_of_equal_image_count_are_independent() -> None:
    """What `batch` cannot do for mllama in general holds where no image slot is padding."""
    entry = FAMILIES["mllama"]
    rows: list[Row] = [[3, Image("wide"), 4], [2, Image("square"), 3], [Image("tall"), 8]]
    together = first_logits(entry, inputs(entry, rows))
    single = [first_logits(entry, inputs(entry, [row]))[0] for row in rows]
    assert close(entry, together, torch.stack(single))


def test_mm_encoder_outputs_are_changed_in_place() -> None:
    """Why a host must hand a fresh output to every call."""
    entry = FAMILIES["llava"]
    batch = inputs(entry)
    features = entry.features(entry.model(), batch)
    del batch["pixel_values"]
    generated(entry, batch, new=1, num_beams=2, mm_encoder_outputs={"image": features})
    assert len(features.pooler_output) == 6


@pytest.mark.skipif("minimax_m3_vl" in BROKEN, reason=UNUSABLE["minimax_m3_vl"].reason)
def test_sparse_blocks_are_wrong_after_padding_on_the_left() -> None:
    """Why a host must not pad a prompt for MiniMax M3, and must leave no gaps in its positions."""
    rows: list[Row] = [[3, Image("wide"), 4], [2, Image("square"), 3]]
    single = torch.stack([last_logits(SPARSE, inputs(SPARSE, [row]))[0] for row in rows])
    right = last_logits(SPARSE, inputs(SPARSE, rows, side="right"))
    assert close(SPARSE, right, single)
    assert not close(SPARSE, first_logits(SPARSE, inputs(SPARSE, rows)), single)
    batch = inputs(SPARSE, rows[:1])
    gaps = 2 * torch.arange(batch["input_ids"].shape[1])[None]
    with pytest.raises((RuntimeError, IndexError)):
        SPARSE.model()(**batch, position_ids=gaps)
