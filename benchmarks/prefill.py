"""What a reduced prefill costs, against the physical limit: a prompt that short from the start.

    python benchmarks/prefill.py [--rounds 15] [--json]

Three models: the bundled one; a LLaVA of LLaVA-1.5-7B's real layer widths with two decoder layers
(random weights: time does not depend on them) and 576 visual tokens; and for the bookkeeping a
LLaVA-NeXT prompt of 2,944 columns. One CPU thread. The encoder's output is given in every case, so
that only what follows it is timed.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from _measure import median, paired, ratio, table, timed
from _real_width import real_width_config
from transformers import LlavaForConditionalGeneration

import lftr
from lftr.hosts.transformers.encoder.encode_cache import encode_once

COMMAND = "python benchmarks/prefill.py"


def real_width(layers: int = 2) -> Any:
    """LLaVA-1.5-7B's widths, CLIP-L/336 whole, ``layers`` decoder layers, random weights."""
    config = real_width_config(layers, 24, 1000, 999)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model = model.to_empty(device="cpu").eval()
    for parameter in [*model.parameters(), *model.buffers()]:
        if parameter.is_floating_point():
            torch.nn.init.normal_(parameter, std=0.02)
    model.model.vision_tower.embeddings.position_ids = torch.arange(577).unsqueeze(0)
    rotary = model.model.language_model.rotary_emb
    rotary.inv_freq = 1.0 / 10000 ** (torch.arange(0, 128, 2).float() / 128)
    return model


def prompt(model: Any, words: int = 40) -> dict[str, Any]:
    """One image and some text."""
    config = model.config
    size = config.vision_config.image_size
    tokens = (size // config.vision_config.patch_size) ** 2
    image = torch.full((tokens,), config.image_token_id)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10, 150, (words,), generator=generator)
    ids = torch.cat([text[:5], image, text[5:]]).unsqueeze(0)
    pixels = torch.randn(1, 3, size, size, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.inference_mode()
def against_limit(model: Any, name: str, keep: float, rounds: int) -> dict[str, Any]:
    """Time the reduced prefill, its language model alone, and the short and full prompts."""
    inputs = prompt(model)
    encoded = model.base_model.get_image_features(inputs["pixel_values"], return_dict=True)
    features = torch.cat(list(encoded.pooler_output))
    visual = inputs["input_ids"][0] == model.config.image_token_id
    count = lftr.values.budget.resolve(keep, int(visual.sum()))
    whole = inputs["input_ids"][0]
    ids = whole[~visual | (visual.cumsum(0) <= count)].unsqueeze(0)
    kind = type(encoded)

    def plain(ids: Any, rows: Any) -> Any:
        given = {"image": kind(pooler_output=[rows])}
        mask = torch.ones_like(ids)
        return model(ids, attention_mask=mask, mm_encoder_outputs=given, logits_to_keep=1)

    figures: dict[str, Any] = {"model": name, "tokens": int(visual.sum()), "kept": count}
    with encode_once(model), lftr.reduce(model, "lftr", keep=keep) as reduction:
        with lftr.reduce(model, "lftr", keep=keep, weights="none") as unweighted:
            prepared = unweighted.prepare(**inputs)  # encodes; from here on the output is held
        method, host = [], []

        def reduced() -> Any:
            output = model(**inputs, logits_to_keep=1)
            method.append(reduction.report.method_ms)
            host.append(reduction.report.host_ms)
            return output

        times = paired(
            [
                reduced,
                lambda: model(**prepared, logits_to_keep=1),
                lambda: plain(ids, features[:count]),
                lambda: plain(inputs["input_ids"], features),
            ],
            rounds,
        )
    names = ("reduced", "language", "short", "full")
    figures |= {name: median(values) for name, values in zip(names, times, strict=True)}
    figures["method_ms"], figures["host_ms"] = median(method), median(host)
    figures["language_over_short"] = ratio(times[1], times[2])
    figures["reduced_over_short"] = ratio(times[0], times[2])
    figures["full_over_reduced"] = ratio(times[3], times[0])
    encoder = paired([lambda: model.base_model.get_image_features(inputs["pixel_values"])], 3, 1)[0]
    figures["encoder_ms"] = median(encoder)
    overhead = statistics.median(a + b for a, b in zip(method, host, strict=True))
    figures["overhead_share_of_encoder"] = overhead / statistics.median(encoder)
    return figures


@torch.inference_mode()
def own_time(rounds: int) -> dict[str, Any]:
    """LFTR alone at the size of LLaVA-1.5's tokens, beside a plain ``X @ X.T``."""
    generator = torch.Generator().manual_seed(0)
    x, seen = (torch.randn(576, 1024, generator=generator) for _ in range(2))
    tokens = lftr.VisualTokens(x, grid=(1, 24, 24), encoder_features=seen)
    method = lftr.get_method("lftr")
    keep = 36
    chosen = method.select(tokens, keep)
    times = paired(
        [lambda: method.select(tokens, keep), lambda: chosen.apply(x), lambda: x @ x.T], rounds * 4
    )
    names = ("select", "apply", "gram")
    found: dict[str, Any] = {n: median(values) for n, values in zip(names, times, strict=True)}
    return found | {"select_over_gram": ratio(times[0], times[2])}


@torch.inference_mode()
def bookkeeping(rounds: int) -> dict[str, Any]:
    """Time the host's part at L = 2944: segment, positions, columns; no method, no encoder."""
    from lftr.hosts.items import ReductionPlan, VisualItem
    from lftr.hosts.transformers.encoder.media_input import MediaInput
    from lftr.hosts.transformers.families import Layout
    from lftr.hosts.transformers.kinds.prefill import PrefillHost
    from lftr.hosts.transformers.prompt.segment import PromptSegment

    model, _ = lftr.bundled.load()
    length, visual = 2944, 2880
    ids = torch.randint(10, 100, (1, length), generator=torch.Generator().manual_seed(0))
    ids[0, 20 : 20 + visual] = model.config.image_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    reduction = lftr.reduce(model, "uniform", keep=1 / 16)
    host: Any = reduction.host
    assert isinstance(host, PrefillHost)
    assert isinstance(host.plan, ReductionPlan)
    selection = lftr.get_method("uniform").select(lftr.VisualTokens(torch.zeros(visual, 1)), 1 / 16)

    def shrink() -> None:
        segment = PromptSegment.of(inputs, None)
        media = [MediaInput.of(medium, model, inputs, segment) for medium in host.family.media]
        items = [VisualItem(0, 0, visual, Layout(), selection=selection)]
        host._shrink(inputs, segment, media, items)

    times = paired([shrink], rounds * 10)[0]
    reduction.remove()
    return {"columns": length, "ms": median(times)}


def measure(rounds: int) -> dict[str, Any]:
    """Return every figure."""
    return {
        "own": own_time(rounds),
        "bookkeeping": bookkeeping(rounds),
        "prefill": [
            against_limit(lftr.bundled.load()[0], "bundled", 1 / 16, rounds),
            against_limit(real_width(), "7B widths, 2 layers", 1 / 16, rounds),
        ],
    }


def report(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""

    def times(ratio: Any) -> str:
        return f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})"

    rows = [
        [
            one["model"],
            f"{one['tokens']} -> {one['kept']}",
            f"{one['full'][0]:.1f}",
            f"{one['reduced'][0]:.1f}",
            f"{one['short'][0]:.1f}",
            times(one["language_over_short"]),
            times(one["reduced_over_short"]),
            times(one["full_over_reduced"]),
            f"{one['method_ms'][0]:.2f} + {one['host_ms'][0]:.2f}",
            f"{100 * one['overhead_share_of_encoder']:.2f} %",
        ]
        for one in figures["prefill"]
    ]
    head = ["model", "tokens", "full ms", "reduced ms", "short ms", "LM / short", "reduced / short",
            "full / reduced", "method + host ms", "share of encoder"]  # fmt: skip
    own, host = figures["own"], figures["bookkeeping"]
    return "\n".join(
        [
            table(head, rows),
            "",
            f"LFTR at N=576, C=1024, K=36: select {own['select'][0]:.2f} ms (IQR "
            f"{own['select'][1]:.2f}), apply {own['apply'][0]:.2f} ms; X @ X.T of the same run "
            f"{own['gram'][0]:.2f} ms, ratio {times(own['select_over_gram'])}.",
            f"Bookkeeping at L={host['columns']}: {host['ms'][0]:.2f} ms "
            f"(IQR {host['ms'][1]:.2f}).",
        ]
    )


if __name__ == "__main__":
    timed("prefill", COMMAND, __doc__, 15, measure, report)
