"""The claims of LFTR's abstract, measured: few tokens, beside quantization, beside the encoder's.

    python benchmarks/claims.py [--model ID] [--n 320] [--rounds 30] [--claims tokens ...] [--json]

Up to 16x fewer tokens at maintained accuracy; complementary to post-training quantization; and
complementary to compression of the vision encoder (tokens merged inside it). Every setting answers
the same questions of the bundled suite's test split (another model is asked for a single word or
phrase, as it was not trained on the suite); times are of single questions, to the first
token, settings taking turns. Verdicts follow from the intervals, see ``_verdicts.py``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _accuracy import beside, percent
from _measure import machine, save, table
from _quantized import KINDS, quantized, weights_mib
from _verdicts import (
    BLIND,
    RULE,
    TOO_FEW,
    adds_no_loss,
    enough,
    is_faster,
    maintained,
    of_all,
    of_pair,
    of_ratios,
    sees,
)

import lftr
from lftr.cli.loading import Loaded, load_model
from lftr.hosts.transformers.families import family_of
from lftr.lab.evaluation import Bootstrap, Outcome, Setting, compare
from lftr.lab.profiling.call import Call
from lftr.lab.profiling.parts import time_prefill
from lftr.lab.profiling.timing import Spread, Times
from lftr.lab.suites import load
from lftr.values.errors import LftrError

COMMAND = "python benchmarks/claims.py"
METHOD = "lftr"
RATIOS = (2, 4, 8, 16)
CLAIMS = {
    "tokens": "up to 16x fewer visual tokens at maintained accuracy",
    "quantization": "complementary to post-training quantization",
    "encoder": "complementary to compression of the vision encoder",
}
FULL, PLAIN = "full", "as loaded"
SHORT = "Answer the question using a single word or phrase."  # as LLaVA's benchmarks ask


@dataclass(frozen=True)
class Row:
    """One way to run the model: how its weights are held, and what is done with its tokens."""

    weights: str
    setting: Setting

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.setting.label


def rows_for(claims: Sequence[str], merges: Mapping[str, lftr.EncoderMerge]) -> list[Row]:
    """Return the full model, and every row that the claims need.

    ``merges`` are what stands for the encoder's compression.
    """
    method, uniform, least = lftr.get_method(METHOD), lftr.get_method("uniform"), max(RATIOS)
    ratios = RATIOS if "tokens" in claims else (least,)
    rows = [Row(PLAIN, Setting(FULL, uniform, 1.0))]
    rows += [Row(PLAIN, Setting(alone(ratio), method, 1 / ratio)) for ratio in ratios]
    for kind in KINDS if "quantization" in claims else ():
        rows.append(Row(kind, Setting(kind, uniform, 1.0)))
        rows.append(Row(kind, Setting(together(kind), method, 1 / least)))
    for name, merge in merges.items() if "encoder" in claims else ():
        rows.append(Row(PLAIN, Setting(name, uniform, 1.0, encoder=merge)))
        rows.append(Row(PLAIN, Setting(together(name), method, 1 / least, encoder=merge)))
    return rows


def alone(ratio: int) -> str:
    """Label the method at a ratio."""
    return f"{METHOD} {ratio}x"


def together(other: str) -> str:
    """Label the method at the largest ratio, with something else."""
    return f"{other} + {alone(max(RATIOS))}"


def encoder_merges(loaded: Loaded, question: Any) -> dict[str, lftr.EncoderMerge]:
    """Return ToMe, which leaves about half of an image's tokens, and FOLDER, which leaves a third.

    Raises
    ------
    LftrError
        If tokens cannot merge in this model's encoder.
    """
    depth = len(family_of(loaded.model).merging_layers(loaded.model))
    call = Call.of(loaded.model, loaded.processor, [question])
    with torch.inference_mode(), lftr.reduce(loaded.model, "uniform", keep=1.0) as reduction:
        reduction.prepare(**call.inputs)
    size = reduction.report.items[0].tokens
    r = max(1, round(size / 2 / depth))
    return {f"ToMe r={r}": lftr.EncoderToMe(r=r), "FOLDER 1/3": lftr.EncoderFolder(keep=1 / 3)}


def measure(
    loaded: Loaded, n: int, rounds: int, claims: Sequence[str], split: str = "test", batch: int = 16
) -> dict[str, Any]:
    """Answer ``n`` questions and time ``rounds`` of them in every row; judge the claims."""
    examples = _examples(split, n, loaded.name)
    claims, left_out, merges = list(claims), {}, {}
    if "encoder" in claims:
        try:
            merges = encoder_merges(loaded, examples[0])
        except LftrError as error:
            claims.remove("encoder")
            left_out["encoder"] = str(error)
    models, refused = {PLAIN: loaded.model}, ""
    try:
        models |= {k: quantized(loaded.model, k) for k in KINDS if "quantization" in claims}
    except LftrError as error:
        refused = str(error)
    if refused:
        claims.remove("quantization")
        left_out["quantization"] = refused
    rows = rows_for(claims, merges)
    outcomes = _answers(loaded, models, rows, examples, batch)
    times = _times(loaded, models, rows, examples[:rounds])
    figures = {
        "model": loaded.name,
        "split": split,
        "questions": len(examples),
        "guess": guess(examples),
        "rounds": min(rounds, n),
        "rows": _figures(rows, outcomes, times, models),
        "left_out": left_out,
    }
    judged = _judge(claims, list(merges), outcomes, times)
    instead = None
    if not sees(figures["rows"][0]["accuracy"], figures["guess"]):
        instead = BLIND
    if not enough(figures["questions"], figures["rounds"]):
        instead = TOO_FEW
    if instead is not None:
        for part in [*judged, *(pair for claim in judged for pair in claim.get("pairs", ()))]:
            part["verdict"] = instead
    return figures | {"claims": judged}


def _examples(split: str, n: int, model: str) -> list[Any]:
    """Return the questions; another model than the bundled one is told how to answer."""
    examples = list(load("scenes", split=split, n=n))
    if model == "bundled":
        return examples
    return [replace(one, question=f"{one.question}\n{SHORT}") for one in examples]


def guess(examples: Sequence[Any]) -> float:
    """Return the accuracy of the most frequent answer to each kind of question."""
    kinds: dict[str, Counter[str]] = {}
    for example in examples:
        kinds.setdefault(example.category, Counter())[example.answer] += 1
    return sum(max(answers.values()) for answers in kinds.values()) / len(examples)


def _answers(
    loaded: Loaded,
    models: Mapping[str, Any],
    rows: Sequence[Row],
    examples: Sequence[Any],
    batch: int,
) -> dict[str, Outcome]:
    found = {}
    for kind, model in models.items():
        settings = [row.setting for row in rows if row.weights == kind]
        outcomes = compare(model, loaded.processor, examples, settings, batch=batch)
        found.update((outcome.setting.label, outcome) for outcome in outcomes)
    return found


def _times(
    loaded: Loaded, models: Mapping[str, Any], rows: Sequence[Row], examples: Sequence[Any]
) -> dict[str, Times]:
    """Time every row on every question, in turns; the first round warms up and does not count."""
    times = {row.label: Times() for row in rows}
    for number, example in enumerate([examples[0], *examples]):
        for row in rows:
            call = Call.of(models[row.weights], loaded.processor, [example])
            parts = time_prefill(call, row.setting)
            if number:
                times[row.label].parts.append(parts)
    return times


def _figures(
    rows: Sequence[Row],
    outcomes: Mapping[str, Outcome],
    times: Mapping[str, Times],
    models: Mapping[str, Any],
) -> list[dict[str, Any]]:
    full = outcomes[FULL]
    bootstrap = Bootstrap(["scenes"] * len(full.correct))
    weights = {kind: weights_mib(model) for kind, model in models.items()}
    return [
        {
            "label": row.label,
            "weights": row.weights,
            "weights_mib": weights[row.weights],
            "encoder_merge": str(row.setting.encoder or ""),
            "tokens": outcomes[row.label].tokens,
            "accuracy": bootstrap.mean(outcomes[row.label].correct),
            **beside(outcomes[row.label], full, bootstrap),
            "encoder_ms": times[row.label].encoder.plain,
            "after_encoder_ms": times[row.label].after_encoder.plain,
            "total_ms": Spread.of(times[row.label].of("total")).plain,
            "time": _time_ratio(times, row.label, FULL),
        }
        for row in rows
    ]


def _time_ratio(times: Mapping[str, Times], over: str, under: str) -> list[float]:
    """Return the geometric mean of the ratios of two rows' times, paired, with its interval."""
    pairs = zip(times[over].of("total"), times[under].of("total"), strict=True)
    logs = [math.log(a / b) for a, b in pairs]
    return [math.exp(end) for end in Bootstrap(["scenes"] * len(logs)).mean(logs, None)]


def _judge(
    claims: Sequence[str],
    merges: Sequence[str],
    outcomes: Mapping[str, Outcome],
    times: Mapping[str, Times],
) -> list[dict[str, Any]]:
    bootstrap = Bootstrap(["scenes"] * len(outcomes[FULL].correct))
    found: list[dict[str, Any]] = []
    if "tokens" in claims:
        full = outcomes[FULL]
        relative = {r: beside(outcomes[alone(r)], full, bootstrap)["relative"] for r in RATIOS}
        found.append({"claim": "tokens", "relative": relative, "verdict": of_ratios(relative)})
    for claim, others in {"quantization": list(KINDS), "encoder": list(merges)}.items():
        if claim not in claims:
            continue
        pairs = [_pair(other, outcomes, times, bootstrap) for other in others]
        verdict = of_all([pair["verdict"] for pair in pairs])
        found.append({"claim": claim, "pairs": pairs, "verdict": verdict})
    return found


def _pair(
    other: str, outcomes: Mapping[str, Outcome], times: Mapping[str, Times], bootstrap: Bootstrap
) -> dict[str, Any]:
    both, method = together(other), alone(max(RATIOS))
    surplus = None
    if any(outcomes[FULL].correct):
        surplus = bootstrap.statistic(
            lambda both, one, other, full: both / full - one / full * (other / full),
            *(outcomes[label].correct for label in (both, method, other, FULL)),
        )
    over = {label: _time_ratio(times, both, label) for label in (method, other)}
    return {
        "with": other,
        "surplus": surplus,
        "time": over,
        "verdict": of_pair(surplus, over.values()),
    }


def report(figures: Mapping[str, Any]) -> str:
    """Return the figures and the verdicts as Markdown."""
    rows = [
        [
            row["label"],
            f"{row['tokens']:.0f}",
            _percent(row["relative"]),
            percent(row["agreement"]),
            f"{row['encoder_ms']['median']:.0f}",
            f"{row['after_encoder_ms']['median']:.0f}",
            _spread(row["time"]),
            f"{row['weights_mib']:.1f}",
        ]
        for row in figures["rows"]
    ]
    head = ["setting", "tokens", "relative accuracy, %", "agreement, %", "encoder, ms"]
    head += ["after it, ms", "time / full", "weights, MiB"]
    claims = [line for claim in figures["claims"] for line in _lines(claim)]
    claims += [[CLAIMS[name], why, "not measured"] for name, why in figures["left_out"].items()]
    about = (
        f"{figures['questions']} questions of {figures['split']} ({figures['model']} model), "
        f"{figures['rounds']} of them timed; full accuracy "
        f"{percent(figures['rows'][0]['accuracy'])} %, by guessing {100 * figures['guess']:.1f} %."
    )
    verdicts = table(["claim", "measured", "verdict"], claims)
    return f"{about}\n\n{table(head, rows)}\n\n{verdicts}\n\n{RULE}"


def _lines(claim: Mapping[str, Any]) -> list[list[str]]:
    """Return a claim's rows: what was measured of each part, then the whole."""
    name, verdict = CLAIMS[claim["claim"]], f"**{claim['verdict']}**"
    if "relative" in claim:
        kept = {True: "maintained", False: "not shown to be maintained"}
        parts = [
            f"{ratio}x: {_percent(value)} %, {kept[maintained(value)]}"
            for ratio, value in claim["relative"].items()
        ]
        return [[name, "; ".join(parts), verdict]]
    lines = [[f"... {p['with']}", _told(p), p["verdict"]] for p in claim["pairs"]]
    return [[name, "", verdict], *lines]


def _told(pair: Mapping[str, Any]) -> str:
    over = "; ".join(f"time / {name} alone {_spread(v)}" for name, v in pair["time"].items())
    accuracy = "" if adds_no_loss(pair["surplus"]) else "not "
    faster = "" if is_faster(pair["time"].values()) else "not "
    return (
        f"accuracy over the product {_percent(pair['surplus'])} points, {accuracy}shown to add no "
        f"loss; {over}, {faster}shown to be below both"
    )


def _percent(value: Sequence[float] | None) -> str:
    return "-" if value is None else percent(value)


def _spread(value: Sequence[float]) -> str:
    """Return an interval as ``0.51 (0.49-0.53)``."""
    return f"{value[0]:.2f} ({value[1]:.2f}-{value[2]:.2f})"


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="Hugging Face id or folder; the bundled model without")
    parser.add_argument("--n", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=30, help="questions that are timed")
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        loaded = load_model(options.model)
        figures = measure(loaded, options.n, options.rounds, options.claims)
    except LftrError as error:
        raise SystemExit(f"claims: {error}") from None
    command = f"{COMMAND} --n {options.n} --rounds {options.rounds}"
    command += f" --model {options.model}" if options.model else ""
    name = "claims" if options.model is None else f"claims_{Path(loaded.name).name}"
    save(name, command, figures)
    print(json.dumps({"machine": machine()} | figures) if options.json else report(figures))


if __name__ == "__main__":
    main()
