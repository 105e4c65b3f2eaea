"""Accuracy of the same settings served by vLLM and on transformers, with the bundled model.

    python benchmarks/serving_accuracy.py [--n 80] [--json]

Both sides answer the same questions of the test split, in float32 and greedily. Each row is one
setting, and says how many answers of the two are equal. It runs in the environment of
``scripts/test-vllm``, since it needs vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from _measure import save, table

import lftr
from lftr.hosts.vllm.request.request_setting import of_server
from lftr.hosts.vllm.server import check_version
from lftr.lab.evaluation import Outcome, Setting, compare
from lftr.lab.suites import Example, load
from lftr.options.plain import to_plain
from lftr.prompting import inputs_of
from lftr.values.budget import as_arguments

COMMAND = "python benchmarks/serving_accuracy.py"
STARTS = (("original", "size"), ("original", "none"), ("compact", "none"))
"""Positions and weights of slots that the engine is started with."""


def settings(positions: str, weights: str) -> list[Setting]:
    """Return what is compared, with a server's defaults."""
    fields = frozenset({"features", "encoder_features"})
    method = of_server(None, fields, weights != "none").method
    rows = [("full", method, 1.0), ("lftr", method, 1 / 16)]
    rows += [("divprune", lftr.get_method("divprune"), 1 / 4)]
    return [Setting(name, method, keep, positions, None, weights) for name, method, keep in rows]


def served(
    rows: Sequence[Setting], start: dict[str, str], asked: Sequence[Example]
) -> list[Outcome]:
    """Answer all questions under each setting, by an engine in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(lftr.bundled.path()),
        hf_overrides={
            "architectures": ["LftrLlavaForConditionalGeneration"],
            "lftr": start,
        },
        distributed_executor_backend="uni",
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=16,
        block_size=32,
        max_model_len=1024,
    )
    _, processor = lftr.bundled.load()
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    greedy = SamplingParams(max_tokens=8, temperature=0)
    outcomes = []
    for row in rows:
        chosen = {"lftr": {**to_plain(row.method), **as_arguments(row.keep)}}
        requests: list[Any] = [
            {
                "prompt_token_ids": _collapsed(
                    inputs_of(processor, [one.image], one.question)["input_ids"][0].tolist(), token
                ),
                "multi_modal_data": {"image": one.image},
                "mm_processor_kwargs": chosen,
            }
            for one in asked
        ]
        outputs = llm.generate(requests, greedy, use_tqdm=False)
        outcome = Outcome(row, [output.outputs[0].text.strip() for output in outputs])
        outcome.correct = [
            one.is_correct(text) for one, text in zip(asked, outcome.answers, strict=True)
        ]
        outcomes.append(outcome)
    llm.llm_engine.engine_core.shutdown()
    return outcomes


def _collapsed(ids: Sequence[int], token: int) -> list[int]:
    """Return ids with one placeholder for each run of them."""
    return [n for i, n in enumerate(ids) if n != token or i == 0 or ids[i - 1] != token]


def measure(n: int) -> list[dict[str, Any]]:
    """Return the figures of each setting."""
    asked = load("scenes", split="test", n=n)
    examples = [asked[i] for i in range(n)]
    model, processor = lftr.bundled.load()
    figures = []
    for positions, weights in STARTS:
        rows = settings(positions, weights)
        both = zip(
            served(rows, {"positions": positions, "weights": weights}, examples),
            compare(model, processor, examples, rows, batch=16),
            strict=True,
        )
        figures += [
            {
                "label": row.label,
                "keep": row.keep,
                "positions": positions,
                "weights": weights,
                "served": on_vllm.accuracy,
                "transformers": here.accuracy,
                "equal": on_vllm.agreement(here),
            }
            for row, (on_vllm, here) in zip(rows, both, strict=True)
        ]
    return figures


def report(figures: Sequence[dict[str, Any]]) -> str:
    """Return the figures as Markdown, in %."""
    head = ["method", "keep", "positions", "weights", "served", "transformers", "equal answers"]
    return table(
        head,
        [
            [
                one["label"],
                f"{one['keep']:.4g}",
                one["positions"],
                one["weights"],
                *(f"{100 * one[key]:.1f}" for key in ("served", "transformers", "equal")),
            ]
            for one in figures
        ],
    )


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    figures = measure(options.n)
    content = {"questions": options.n, "vllm": check_version()[1], "rows": figures}
    save("serving_accuracy", f"{COMMAND} --n {options.n}", content)
    print(json.dumps(content) if options.json else report(figures))


if __name__ == "__main__":
    main()
