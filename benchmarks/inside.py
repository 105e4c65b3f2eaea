"""What pruning inside the language model costs, against the kept tokens alone.

    python benchmarks/inside.py [--rounds 9] [--json]

Two models: the bundled one, and a LLaVA of LLaVA-1.5-7B's real layer widths with four decoder
layers (random weights: time does not depend on them). One CPU thread; the decoder from its input
embeddings on. *Alone* is the plain layers on as many tokens as each has under the schedule, the
first ones, with no selection and no hooks: same layers, same lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from prefill import prompt, real_width
from transformers import DynamicCache

import lftr
from lftr.methods.inside.base import LayerView
from lftr.methods.inside.schedules import Schedule, Step

COMMAND = "python benchmarks/inside.py"


def settings() -> dict[str, Any]:
    """Return what is timed by itself: one early cut, and three stages."""
    return {
        "fastv, layer 2, 75 % off": lftr.methods.FastV(Step(2, 0.25)),
        "pyramiddrop": lftr.get_method("pyramiddrop"),
    }


def embedded(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the prompt's embeddings with the image's features in their places."""
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    features = torch.cat(
        list(model.base_model.get_image_features(inputs["pixel_values"]).pooler_output)
    )
    marks = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
    return embeds.masked_scatter(marks, features.to(embeds.dtype))


def alone(model: Any, embeds: torch.Tensor, visual: torch.Tensor, schedule: Schedule) -> Any:
    """Return a function that runs the plain layers at the schedule's lengths."""
    decoder = model.base_model.language_model
    depth, tokens = len(decoder.layers), int(visual.sum())
    order = visual.cumsum(0)
    columns = [
        (~visual | (order <= count)).nonzero().squeeze(1)
        for count in schedule.counts(tokens, depth)
    ]
    positions = torch.arange(embeds.shape[1]).unsqueeze(0)

    def run() -> Any:
        states, now, cache = embeds, columns[0], DynamicCache(config=decoder.config)
        turns = decoder.rotary_emb(states, position_ids=positions)
        for layer, mine in zip(decoder.layers, columns, strict=True):
            if len(mine) != len(now):
                states = states[:, torch.searchsorted(now, mine)]
                now = mine
            here = tuple(one[:, mine] for one in turns) if len(mine) < embeds.shape[1] else turns
            states = layer(states, position_embeddings=here, past_key_values=cache, use_cache=True)
        return decoder.norm(states)

    return run


class Kept(lftr.LayerMethod):
    """Keeps the view that a method was shown, and chooses the first tokens."""

    schedule = Step(2, 0.25)
    reads = "previous"
    view: LayerView

    def select(self, view: LayerView, keep: int) -> lftr.Selection:
        """Put the view by."""
        self.view = view
        return lftr.Selection.everything(keep)


@torch.inference_mode()
def measure(model: Any, name: str, rounds: int) -> list[dict[str, Any]]:
    """Time every setting on one model."""
    inputs = prompt(model)
    embeds = embedded(model, inputs)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    decoder = model.base_model.language_model
    depth = len(decoder.layers)

    def full() -> Any:
        return decoder(inputs_embeds=embeds, use_cache=True)

    found = []
    for label, method in settings().items():
        caches: list[Any] = []
        with lftr.reduce(model, method) as reduction:  # what is not announced passes untouched

            def pruned(inside: Any = reduction.inside, caches: list[Any] = caches) -> None:
                inside.announce(inputs)
                caches[:] = [decoder(inputs_embeds=embeds, use_cache=True).past_key_values]

            times = paired([pruned, alone(model, embeds, visual, method.schedule), full], rounds)
        report = reduction.report
        lengths = [layer.keys.shape[-2] for layer in caches[0].layers]
        counts = method.schedule.counts(int(visual.sum()), depth)
        text = len(visual) - int(visual.sum())
        found.append(
            {
                "model": name,
                "setting": label,
                "counts": counts,
                "lengths_as_planned": lengths == [text + count for count in counts],
                "cache_MiB": report.cache_bytes / 2**20,
                "full_cache_MiB": report.full_cache_bytes / 2**20,
                "pruned": median(times[0]),
                "alone": median(times[1]),
                "full": median(times[2]),
                "pruned_over_alone": ratio(times[0], times[1]),
                "full_over_pruned": ratio(times[2], times[0]),
            }
        )
    return found


@torch.inference_mode()
def score(model: Any, name: str, rounds: int) -> dict[str, Any]:
    """Time the last row's score and the choice by it, beside one decoder layer at full length."""
    inputs = prompt(model)
    embeds = embedded(model, inputs)
    decoder = model.base_model.language_model
    keeper = Kept()
    with lftr.reduce(model, keeper) as reduction:
        assert reduction.inside is not None
        reduction.inside.announce(inputs)
        decoder(inputs_embeds=embeds, use_cache=True)
    view, keep = keeper.view, len(keeper.view.visual) // 4
    turns = decoder.rotary_emb(embeds, position_ids=torch.arange(embeds.shape[1]).unsqueeze(0))
    times = paired(
        [
            lambda: lftr.Selection.top(view.received(view.last), keep),
            lambda: decoder.layers[1](embeds, position_embeddings=turns),
        ],
        rounds,
    )
    return {
        "model": name,
        "score": median(times[0]),
        "layer": median(times[1]),
        "share": ratio(times[0], times[1]),
    }


@torch.inference_mode()
def composed(model: Any, name: str, rounds: int) -> dict[str, Any]:
    """Time a 4x reduction before the language model, FastV inside it, and both."""
    inputs = prompt(model)
    fastv = lftr.methods.FastV(Step(2, 0.25))
    encoded = {
        "image": model.base_model.get_image_features(inputs["pixel_values"], return_dict=True)
    }
    given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}

    def under(method: Any, keep: Any) -> Any:
        with lftr.reduce(model, method, keep=keep) as reduction:
            prepared = reduction.prepare(**inputs)

        def run() -> None:
            with lftr.reduce(model, method, keep=keep):
                model(**prepared, use_cache=True, logits_to_keep=1)

        return run

    functions = [
        lambda: model(**given, mm_encoder_outputs=encoded, use_cache=True, logits_to_keep=1),
        under("lftr", 1 / 4),
        under(fastv, None),
        under(["lftr", fastv], 1 / 4),
    ]
    times = paired(functions, rounds)
    names = ("full", "before", "inside", "both")
    found: dict[str, Any] = {n: median(one) for n, one in zip(names, times, strict=True)}
    found |= {f"full_over_{n}": ratio(times[0], one) for n, one in zip(names, times, strict=True)}
    return found | {"model": name}


def measure_all(rounds: int) -> dict[str, Any]:
    """Return every figure."""
    models = {"bundled": lftr.bundled.load()[0], "7B widths, 4 layers": real_width(4)}
    figures: dict[str, Any] = {"prefill": [], "score": [], "composed": []}
    for name, model in models.items():
        times = rounds * (5 if name == "bundled" else 1)
        figures["prefill"] += measure(model, name, times)
        figures["score"].append(score(model, name, times))
        figures["composed"].append(composed(model, name, times))
    return figures


def report(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""

    def times(ratio: Any, digits: int = 2) -> str:
        return f"{ratio[0]:.{digits}f} ({ratio[1]:.{digits}f}-{ratio[2]:.{digits}f})"

    head = ["model", "setting", "visual tokens by layer", "full ms", "pruned ms", "alone ms",
            "pruned / alone", "full / pruned", "cache MiB"]  # fmt: skip
    rows = [
        [
            one["model"],
            one["setting"],
            " ".join(map(str, one["counts"])),
            f"{one['full'][0]:.1f}",
            f"{one['pruned'][0]:.1f}",
            f"{one['alone'][0]:.1f}",
            times(one["pruned_over_alone"]),
            times(one["full_over_pruned"]),
            f"{one['full_cache_MiB']:.1f} -> {one['cache_MiB']:.1f}",
        ]
        for one in figures["prefill"]
    ]
    shares = [
        f"{one['model']}: {one['score'][0]:.2f} ms beside a layer's {one['layer'][0]:.1f} ms, "
        f"{times([100 * share for share in one['share']])} %"
        for one in figures["score"]
    ]
    both = [
        [
            one["model"],
            *(f"{one[name][0]:.1f}" for name in ("full", "before", "inside", "both")),
            *(times(one[f"full_over_{name}"]) for name in ("before", "inside", "both")),
        ]
        for one in figures["composed"]
    ]
    return "\n".join(
        [
            table(head, rows),
            "",
            "The last row's score with the choice by it, beside one decoder layer at full length: "
            + "; ".join(shares)
            + ".",
            "",
            "Before (lftr, 4x), inside (fastv, layer 2, 75 % off), and both; the language model's "
            "part, ms and full over reduced:",
            "",
            table(
                [
                    "model",
                    "full",
                    "before",
                    "inside",
                    "both",
                    "full / before",
                    "full / inside",
                    "full / both",
                ],
                both,
            ),
        ]
    )


if __name__ == "__main__":
    timed("inside", COMMAND, __doc__, 9, measure_all, report)
