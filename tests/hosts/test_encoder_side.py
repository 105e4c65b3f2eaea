"""BLIP-2, InstructBLIP and mllama: reduced == the plain language model on gathered states."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import transformers
import zoo
from zoo import Image

import lftr
from lftr import LftrError
from lftr.hosts.transformers.kinds import cross_attention, qformer
from lftr.hosts.transformers.prompt.text_evidence import row_texts

from .oracle import handed_over, language_model
from .support import Asking

ROWS = [[4, Image("wide"), 3, Image("small", 1), 5], [6, Image("square", 3)], [Image("tall", 2), 3]]
CASES = [("blip_2", "llm"), ("blip_2", "encoder"), ("instructblip", "llm"),
         ("instructblip", "encoder"), ("instructblipvideo", "llm"),
         ("instructblipvideo", "encoder"), ("mllama", "llm")]  # fmt: skip
cases = pytest.mark.parametrize(("name", "stage"), CASES)


def prepared(name: str) -> tuple[Any, Any, list[Any]]:
    entry = zoo.FAMILIES[name]
    return entry, entry.model(), entry.rows(ROWS)


def kept_of(reduction: Any, row: int) -> list[Any]:
    return [item for item in reduction.report.items if item.row == row]


def truth(name: str, stage: str, model: Any, inputs: dict[str, Any], items: list[Any]) -> Any:
    """Logits of the plain model's language model, fed with what was gathered by hand."""
    index = torch.tensor([item.positions for item in items]) if name != "mllama" else None
    if stage == "encoder":  # the Q-Former itself is fed by hand, everything else is the plain model
        seen: list[Any] = []

        def feed(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            states = kwargs["encoder_hidden_states"]
            columns = torch.nn.functional.pad(index + 1, (1, 0))  # of each frame
            seen.append(states.shape)
            mask = kwargs["encoder_attention_mask"].gather(1, columns)
            return args, kwargs | {
                "encoder_hidden_states": states.take_along_dim(columns[..., None], 1),
                "encoder_attention_mask": mask,
            }

        handle = model.qformer.register_forward_pre_hook(feed, with_kwargs=True)
        logits = model(**inputs).logits
        handle.remove()
        assert seen
        return logits
    given = handed_over(model, inputs)
    if name == "mllama":
        states = given["cross_attention_states"]
        each, most = states.shape[-2], model.config.vision_config.max_num_tiles
        columns: list[int] = []
        for item in items:
            start = item.number * most * each
            tiles = item.tokens // (each - 1)
            here = [t * each for t in range(tiles)]
            here += [p // (each - 1) * each + 1 + p % (each - 1) for p in item.positions]
            columns += [start + c for c in sorted(here)]
        flat = states.reshape(1, -1, states.shape[-1])[:, columns]
        call = given | {
            "cross_attention_states": flat,
            "cross_attention_mask": given["cross_attention_mask"][..., columns],
        }
        return model.lm_head(language_model(model)(**call)[0])
    entry = zoo.FAMILIES[name]
    visual = entry.is_visual(model, inputs["input_ids"])[0]
    keep = ~visual
    frames = visual.nonzero().view(len(items), -1)
    keep[frames.gather(1, index)] = True
    embeds = given["inputs_embeds"][:, keep]
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    return model.language_model(inputs_embeds=embeds, attention_mask=mask).logits


@cases
@pytest.mark.parametrize("method", ["random", "divprune"])
def test_reduced_is_the_plain_model_on_gathered_states(name: str, stage: str, method: str) -> None:
    entry, model, rows = prepared(name)
    for row in rows:
        inputs = entry.inputs(model, [row])
        with torch.no_grad():
            with lftr.reduce(model, method, keep=0.4, stage=stage) as reduction:
                got = model(**inputs).logits
            items = kept_of(reduction, 0)
            want = truth(name, stage, model, inputs, items)
            full = model(**inputs).logits
        assert all(item.kept == lftr.values.budget.resolve(0.4, item.tokens) for item in items)
        torch.testing.assert_close(got[:, -1], want[:, -1], rtol=0, atol=1e-5)
        assert (got[:, -1] - full[:, -1]).abs().max() > 1e-2, "reduction must be seen"


@cases
def test_everything_kept_is_bit_identical(name: str, stage: str) -> None:
    entry, model, rows = prepared(name)
    inputs = entry.inputs(model, rows)
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    logits = model(**inputs).logits
    with lftr.reduce(model, "uniform", keep=1.0, stage=stage):
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), plain)
        assert torch.equal(model(**inputs).logits, logits)


@cases
def test_generate_batches_beams_and_caches(name: str, stage: str) -> None:
    entry, model, _ = prepared(name)
    # mllama rows with different numbers of images see each other's padding in the plain model too
    rows = entry.rows([[4, Image("wide"), 5], [Image("square", 3), 3], [2, Image("wide", 7), 2]])
    inputs = entry.inputs(model, rows)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    with lftr.reduce(model, "uniform", keep=0.4, stage=stage):
        batch = model.generate(**inputs, **options)
        uncached = model.generate(**inputs, **options, use_cache=False)
        beams = model.generate(**inputs, **options, num_beams=3)
        single = [model.generate(**entry.inputs(model, [row]), **options) for row in rows]
        alone = [
            model.generate(**entry.inputs(model, [row]), **options, num_beams=3) for row in rows
        ]
    assert torch.equal(batch, uncached)
    assert torch.equal(batch[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    same = name != "mllama"  # its plain batches differ from single rows, see the zoo's notes
    if same:
        for row in range(len(rows)):
            assert torch.equal(batch[row, -5:], single[row][0, -5:])
            assert torch.equal(beams[row, -5:], alone[row][0, -5:])


@cases
def test_nothing_is_left(name: str, stage: str) -> None:
    entry, model, rows = prepared(name)
    inputs = entry.inputs(model, rows)
    hooks = {id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
    own = set(model.__dict__)
    plain = model(**inputs).logits

    def nested() -> None:
        with lftr.reduce(model, "uniform", keep=0.4, stage=stage):
            with lftr.reduce(model, "random", tokens=2, stage=stage):
                model(**inputs)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nested()
    assert {
        id(m): (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    } == hooks
    assert set(model.__dict__) == own
    assert torch.equal(model(**inputs).logits, plain)


def test_what_cannot_be_right_is_refused() -> None:
    _, blip, _ = prepared("blip_2")
    with pytest.raises(LftrError, match="positions = 'original'"):
        lftr.reduce(blip, "uniform", tokens=4, positions="original")
    with pytest.raises(LftrError, match="stage = 'encoder'"):
        lftr.reduce(zoo.FAMILIES["llava"].model(), "uniform", tokens=4, stage="encoder")


@pytest.mark.parametrize("configured", [False, True])
def test_a_static_cache_of_mllama_is_refused(configured: bool) -> None:
    """It is sized for all vision tokens; asked for by an argument or by a configuration."""
    entry, mllama, rows = prepared("mllama")
    options: dict[str, Any] = {"max_new_tokens": 2, "cache_implementation": "static"}
    if configured:
        options = {"generation_config": transformers.GenerationConfig(**options)}
    with lftr.reduce(mllama, "uniform", tokens=4), pytest.raises(LftrError, match="static"):
        mllama.generate(**entry.inputs(mllama, rows), **options)


@cases
@pytest.mark.parametrize("way", ["forward", "generate", "fails", "prepare"])
def test_what_is_known_of_a_call_ends_with_it(
    name: str, stage: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts are free, and modules that are called by themselves give what they always gave."""
    entry, model, rows = prepared(name)
    inputs = entry.inputs(model, rows)
    part = _reduced_part(name, stage, model)
    given: list[Any] = []
    handle = part.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args, dict(kwargs))), with_kwargs=True
    )
    model(**inputs)
    handle.remove()
    args, kwargs = given[0]
    kwargs = {k: v for k, v in kwargs.items() if k not in ("cache", "past_key_values", "use_cache")}
    plain = _first(part(*args, **kwargs))
    texts: list[weakref.ref[torch.Tensor]] = []
    module = cross_attention if name == "mllama" else qformer

    def noting(*args: Any) -> dict[str, Any]:
        found = row_texts(*args)
        texts.extend(weakref.ref(one) for rows in found.values() for one in rows)
        return found

    monkeypatch.setattr(module, "row_texts", noting)
    method = Asking("text_token_embeds" if stage == "llm" else "features")
    with lftr.reduce(model, method, tokens=4, stage=stage) as reduction:
        if way == "forward":
            model(**inputs)
        elif way == "generate":
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        elif way == "prepare":
            reduction.prepare(**inputs)
        else:
            with pytest.raises(ValueError, match="max_new_tokens"):
                model.generate(**inputs, max_new_tokens=-1)
        assert bool(texts) == (stage == "llm")
        assert not any(text() is not None for text in texts)
        assert torch.equal(_first(part(*args, **kwargs)), plain)


@pytest.mark.parametrize("name", ["blip_2", "instructblip"])
def test_text_that_fits_no_encoder_state_is_refused_at_once(name: str) -> None:
    model = zoo.FAMILIES[name].model()
    with pytest.raises(LftrError, match="text_token_embeds"):
        lftr.reduce(model, Asking("text_token_embeds"), tokens=4, stage="encoder")


def _reduced_part(name: str, stage: str, model: Any) -> Any:
    """The module whose input or output is reduced."""
    if name == "mllama":
        return language_model(model)
    return model.language_projection if stage == "llm" else model.qformer


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
