"""The attention recorder holds what eager attention would return, and nothing more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

import lftr
from lftr.evidence import attention_recorder as reading
from lftr.evidence.attention import attention_modules, recording
from lftr.evidence.attention_recorder import AttentionRecorder
from lftr.hosts.transformers.encoder import encode
from lftr.hosts.transformers.families import family_of

from .inside.support import methods_for, skips_for
from .support import TAPPED, Asking, Prompt, ZooEntry, assert_close, distance, fresh, reduced


@pytest.fixture(params=TAPPED, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family whose encoder's attention can be read."""
    value: ZooEntry = request.param
    return value


def towers(entry: ZooEntry, kind: str = "sdpa") -> tuple[Any, list[Any]]:
    """A model and the attention layers of its encoder."""
    model = entry.model(kind)
    family = family_of(model)
    return model, attention_modules(family.module(model, family.tower))


def images(entry: ZooEntry, model: Any) -> Any:
    return entry.features(model, Prompt(entry, model=model).inputs())


@contextmanager
def eager_maps(module: Any, values: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """The full maps of one module, written down by the file's own eager attention.

    What it was given as values is added to ``values``.
    """
    file = vars(sys.modules[type(module).__module__])
    own = {name: file[name] for name in file if name.endswith("eager_attention_forward")}
    maps: list[Tensor] = []

    def noting(function: Any) -> Any:
        def note(caller: Any, *args: Any, **kwargs: Any) -> Any:
            output = function(caller, *args, **kwargs)
            if caller is module:
                maps.append(output[1])
                if values is not None:
                    values.append(args[2])
            return output

        return note

    file.update({name: noting(function) for name, function in own.items()})
    try:
        yield maps
    finally:
        file.update(own)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_rows_and_receipts(entry: ZooEntry, kind: str) -> None:
    """One row, and what each key receives, equal the maps of eager attention, for every call."""
    eager, plain_layers = towers(entry, "eager")
    model, layers = towers(entry, kind)
    assert len(layers) == len(plain_layers) > 1
    unused = entry.name == "minicpm_ocr"  # its tower has a merge after the layers, but runs none
    for place in (0, len(layers) - 1 - unused):
        with eager_maps(plain_layers[place]) as maps:
            images(entry, eager)
        with recording(
            layers[place], AttentionRecorder(row=0, received=True, keys=True)
        ) as recorder:
            images(entry, model)
        assert (
            len(maps) == len(recorder.rows) == len(recorder.receipts) == len(recorder.seen_keys) > 0
        )
        for full, row, received in zip(maps, recorder.rows, recorder.receipts, strict=True):
            real = torch.ones(full.shape[0], full.shape[2], dtype=torch.bool)
            if entry.name.startswith("gemma4"):  # images are padded to one number of patches
                positions = Prompt(entry).inputs()["image_position_ids"]
                real = (positions != -1).all(dim=-1)
            if entry.name == "lfm2_vl":
                real = Prompt(entry).inputs()["pixel_attention_mask"].bool()
            mean = full.mean(dim=1) * real[..., None]
            mean = mean.sum(dim=1) / real.sum(dim=1, keepdim=True)
            assert distance(row, full[:, :, 0]) < 1e-5
            assert distance(received, mean) < 1e-5
            assert torch.allclose(row.sum(-1), torch.ones(()))


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_values(entry: ZooEntry, kind: str) -> None:
    """The values that eager attention was given, and one token's product with all of them."""
    eager, plain_layers = towers(entry, "eager")
    model, layers = towers(entry, kind)
    expected: list[Tensor] = []
    with eager_maps(plain_layers[0], expected):
        images(entry, eager)
    recorder = AttentionRecorder(values=True, value_row=0)
    assert recorder.reads
    with recording(layers[0], recorder):
        images(entry, model)
    assert len(expected) == len(recorder.seen_values) == len(recorder.similarities) > 0
    readings = zip(expected, recorder.seen_values, recorder.similarities, strict=True)
    for value, mean, similarity in readings:
        assert distance(mean, value.mean(dim=1)) < 1e-5
        assert torch.allclose(similarity.sum(dim=-1), torch.ones(()))
        if entry.traits.has_cls:
            products = (value[:, :, :1] * value).sum(dim=-1).softmax(dim=-1).mean(dim=1)
            assert distance(similarity, products) < 1e-5


def test_never_a_full_map(entry: ZooEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention received is summed up in chunks of queries; a row is a single query."""
    model, layers = towers(entry)
    whole = AttentionRecorder(received=True)
    with recording(layers[0], whole):
        images(entry, model)
    sizes: list[int] = []
    attend = reading.attend

    def note(*args: Any) -> Tensor:
        scores = attend(*args)
        sizes.append(scores.shape[2])
        return scores

    monkeypatch.setattr(reading, "attend", note)
    monkeypatch.setattr(reading, "_CHUNK", 5)
    with recording(layers[0], AttentionRecorder(row=0)):
        images(entry, model)
    assert set(sizes) == {1}
    with recording(layers[0], AttentionRecorder(received=True)) as recorder:
        images(entry, model)
    assert max(sizes) == 5
    for left, right in zip(recorder.receipts, whole.receipts, strict=True):
        assert distance(left, right) < 1e-6


def test_fires_on_the_tapped_module_alone(entry: ZooEntry) -> None:
    model, layers = towers(entry)
    calls: list[int] = []
    handle = layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    with recording(layers[1], AttentionRecorder(row=0)) as recorder:
        images(entry, model)
    handle.remove()
    assert len(recorder.rows) >= len(calls) == 1
    before = len(recorder.rows)
    images(entry, model)
    assert len(recorder.rows) == before


def test_the_table_is_restored() -> None:
    before, entries = dict(vars(ALL_ATTENTION_FUNCTIONS)), dict(ALL_ATTENTION_FUNCTIONS)
    module = torch.nn.Linear(1, 1)

    def fail() -> None:
        with recording(module, AttentionRecorder()), recording(module, AttentionRecorder()):
            assert vars(ALL_ATTENTION_FUNCTIONS) != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vars(ALL_ATTENTION_FUNCTIONS) == before
    assert dict(ALL_ATTENTION_FUNCTIONS) == entries


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models look their kernels up where no recorder is, as another release might."""
    table = AttentionInterface()
    for file in [one for name, one in sys.modules.items() if ".models." in name]:
        if vars(file).get("ALL_ATTENTION_FUNCTIONS") is ALL_ATTENTION_FUNCTIONS:
            monkeypatch.setattr(file, "ALL_ATTENTION_FUNCTIONS", table)


@pytest.mark.parametrize("field", ["attention_received", "keys", "cls_attention"])
def test_evidence_that_could_not_be_read_is_told(
    entry: ZooEntry, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    if field == "cls_attention" and not entry.traits.has_cls:
        pytest.skip(f"the encoder of {entry} has no class token")
    prompt = Prompt(entry)
    elsewhere(monkeypatch)
    with (
        reduced(prompt.model, Asking(field)),
        pytest.raises(lftr.LftrError, match=transformers.__version__),
    ):
        prompt.generate(1)


@pytest.mark.parametrize("reads", ["previous", "own", "frozen"])
def test_layers_that_could_not_be_read_are_told(
    llava: ZooEntry, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    method = {**methods_for(llava), **skips_for(llava)}[reads]
    prompt = Prompt(llava)
    elsewhere(monkeypatch)
    with (
        lftr.reduce(prompt.model, method),
        pytest.raises(lftr.LftrError, match="could not be read"),
    ):
        prompt.generate(1)


def test_parts_of_the_encoder_that_were_not_called_are_told(
    llava: ZooEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, other = Prompt(llava), torch.nn.Linear(1, 1)
    for hook, field in (("_first_input", "encoder_features"), ("_output", "frame_features")):
        attach = getattr(encode, hook)
        with monkeypatch.context() as patch, reduced(prompt.model, Asking(field)):
            patch.setattr(encode, hook, lambda _, seen, attach=attach: attach(other, seen))
            with pytest.raises(lftr.LftrError, match=field):
                prompt.generate(1)


def test_a_table_without_a_lookup_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(AttentionInterface, "get_interface")
    with (
        pytest.raises(lftr.LftrError, match="get_interface"),
        recording(torch.nn.Linear(1, 1), AttentionRecorder()),
    ):
        pass
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def test_what_others_put_into_the_table_stays() -> None:
    def theirs(name: str, default: Any) -> Any:
        return default

    table = vars(ALL_ATTENTION_FUNCTIONS)
    with recording(torch.nn.Linear(1, 1), AttentionRecorder()):
        table["get_interface"] = theirs
    assert table.pop("get_interface") is theirs
    table["get_interface"] = theirs
    with recording(torch.nn.Linear(1, 1), AttentionRecorder()):
        assert table["get_interface"] is not theirs
    assert table.pop("get_interface") is theirs


@pytest.mark.slow
def test_a_compiled_encoder_is_read(llava: ZooEntry) -> None:
    """What was compiled without a recorder is not gone on with while one is open."""
    model, layers = towers(llava)
    with recording(layers[0], AttentionRecorder(row=0)) as expected:
        images(llava, model)
    compiled = fresh(llava)
    family = family_of(compiled)
    tower = family.module(compiled, family.tower)
    torch.compiler.reset()
    tower.compile(backend="eager")
    plain = images(llava, compiled)
    with recording(attention_modules(tower)[0], AttentionRecorder(row=0)) as recorder:
        seen = images(llava, compiled)
    assert_close(llava, torch.cat(recorder.rows), torch.cat(expected.rows))
    images(llava, compiled)
    assert recorder.calls == expected.calls
    for left, right in zip(plain[family.features_key], seen[family.features_key], strict=True):
        assert_close(llava, left, right)


def test_a_range_that_products_are_squeezed_to() -> None:
    query, key = 3 * torch.randn(1, 2, 5, 4), 3 * torch.randn(1, 2, 5, 4)
    recorder = AttentionRecorder(row=2, received=True)
    recorder.record(query, key, None, None, softcap=1.5)
    full = (1.5 * torch.tanh(query @ key.mT / 2 / 1.5)).softmax(dim=-1)
    assert distance(recorder.rows[0], full[:, :, 2]) < 1e-6
    assert distance(recorder.receipts[0], full.mean(dim=(1, 2))) < 1e-6


def test_output_is_untouched(entry: ZooEntry) -> None:
    model, layers = towers(entry)
    plain = images(entry, model)
    with recording(layers[0], AttentionRecorder(row=0, received=True, keys=True)):
        seen = images(entry, model)
    family = family_of(model)
    for left, right in zip(family.features(plain), family.features(seen), strict=True):
        assert torch.equal(left, right)


def test_threads_do_not_mix(llava: ZooEntry) -> None:
    """Each thread reads its own calls of one module, while others run it untapped."""
    model, layers = towers(llava)
    expected, found, ready = {}, {}, threading.Barrier(3)
    pixels = {seed: torch.randn(2, 3, 24, 24) for seed in range(3)}
    for seed, values in pixels.items():
        with recording(layers[0], AttentionRecorder(row=0)) as recorder:
            model.get_image_features(pixel_values=values)
        expected[seed] = recorder.rows[0]

    def work(seed: int) -> None:
        ready.wait()
        with torch.no_grad(), recording(layers[0], AttentionRecorder(row=0)) as recorder:
            for _ in range(5):
                model.get_image_features(pixel_values=pixels[seed])
        found[seed] = recorder.rows

    threads = [threading.Thread(target=work, args=(seed,)) for seed in pixels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, rows in found.items():
        assert len(rows) == 5
        assert all(torch.equal(row, expected[seed]) for row in rows)


def test_queries_that_share_keys() -> None:
    """With fewer key heads than query heads, heads of one group read the same key."""
    query, key = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4)
    recorder = AttentionRecorder(row=1, received=True, keys=True)
    recorder.record(query, key, None, None)
    heads = [(query[:, h] @ key[:, h // 3].mT / 2).softmax(-1) for h in range(6)]
    full = torch.stack(heads, dim=1)
    assert distance(recorder.rows[0], full[:, :, 1]) < 1e-6
    assert distance(recorder.receipts[0], full.mean(dim=(1, 2))) < 1e-6
    assert distance(recorder.seen_keys[0], key.mean(dim=1)) < 1e-6


@pytest.mark.parametrize("method", ["fastervlm", "visionzip"])
def test_a_tapped_reduction_is_the_truth(entry: ZooEntry, method: str) -> None:
    """Reading attention while encoding changes no logit."""
    if method == "fastervlm" and not entry.traits.has_cls:
        pytest.skip(f"the encoder of {entry} has no class token")
    prompt = Prompt(entry)
    with reduced(prompt.model, method) as run:
        logits = prompt.generate(1).logits[0]
        for row in range(len(prompt.rows)):
            assert_close(entry, logits[row], prompt.truth(row, run.choices(row))[0], slack=2)
