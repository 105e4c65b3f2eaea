"""Accuracy of fitted methods beside their training-free twins and LFTR, on the bundled suite.

    python benchmarks/fit.py [--prompts 160] [--steps 240] [--n 200] [--folder lftr-fit] [--json]
                             [--only "scorer, fitted" two-expert]

Every method that `lftr.fit` takes is fitted to the bundled model's own answers to questions of the
split train, at 16x, and then answers questions of the split test at 4x, 16x and 32x. A part that
the folder has already is not fitted again; remove it, or name another folder, if the command
differs. An interrupted fit goes on. ``--only`` measures these and keeps the other rows.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _accuracy import renewed, report, score, summary
from _measure import machine, save

import lftr
from lftr.lab.evaluation import Setting
from lftr.lab.fitting.fit import fittable
from lftr.lab.suites import load
from lftr.methods import Method, get_method
from lftr.prompting import batch_inputs

RATIOS = (4, 16, 32)
FITTED_AT = 1 / 16
SEED = 11  # of the scenes that parts are fitted on
BATCH = 4
FITTED = ", fitted"


def prompts(processor: Any, number: int) -> Iterator[dict[str, Any]]:
    """Yield batches of questions of the split train, without their answers."""
    examples = load(split="train", n=number, seed=SEED)
    for first in range(0, number, BATCH):
        part = [examples[i] for i in range(first, min(first + BATCH, number))]
        yield dict(batch_inputs(processor, [([one.image], one.question) for one in part]))


def fitted(name: str, options: argparse.Namespace) -> Path:
    """Return the file with a method's fitted part; fit it if it is not there."""
    path = options.folder / f"{name}.safetensors"
    if path.exists():
        return path
    options.folder.mkdir(parents=True, exist_ok=True)
    model, processor = lftr.bundled.load()
    start, losses = time.process_time(), []

    def told(what: str, number: int, value: float) -> None:
        losses.extend([value] * (what == "step"))
        if not number % 20:
            mean = f", mean loss {sum(losses[-20:]) / 20:.3f}" if losses else ""
            print(f"{name}: {what} {number}{mean}", flush=True)

    method = lftr.fit(
        model,
        prompts(processor, options.prompts),
        name,
        keep=FITTED_AT,
        steps=options.steps,
        checkpoint=path.with_suffix(".checkpoint"),
        on_progress=told,
    )
    method.fitted.save(path)
    seconds = time.process_time() - start
    known = {"name": name, "seconds_of_cpu": seconds, "first": losses[:20], "last": losses[-20:]}
    path.with_suffix(".json").write_text(json.dumps(known))
    return path


def variants(options: argparse.Namespace) -> dict[str, Method]:
    """Return training-free methods, and every fitted method after its twin; fit what is chosen."""
    names = [name for name in fittable() if name != "dyvte"]
    labels = ["lftr", "divprune", *(label for name in names for label in (name, name + FITTED))]
    chosen = options.only or labels
    if not {*chosen} <= {*labels}:
        raise SystemExit(f"--only {chosen}; allowed: {labels}")
    methods = {}
    for label in chosen:
        name = label.removesuffix(FITTED)
        part = {} if label == name else {"fitted": fitted(name, options)}
        methods[label] = get_method(name, **part)
    return methods


def main() -> None:
    """Fit, measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("lftr-fit"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", help="measure these again, keep the other rows")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # as few as give the same weights on every machine
    methods = variants(options)
    rows = [Setting("full", get_method("uniform"), 1.0)]
    for label, method in methods.items():
        rows += [Setting(label, method, 1 / ratio) for ratio in RATIOS]
    outcomes, categories = score(rows, "test", options.n)
    files = [Path(one.fitted) for label, one in methods.items() if label.endswith(FITTED)]
    content = {
        "split": "test",
        "questions": len(categories),
        "prompts": options.prompts,
        "steps": options.steps,
        "fitted_at": FITTED_AT,
        "fits": [
            json.loads(path.with_suffix(".json").read_text())
            for path in files
            if path.with_suffix(".json").exists()
        ],
        "rows": summary(outcomes, categories),
    }
    for row in content["rows"]:
        row["method"] = row["label"]  # not the path of a file
    command = (
        f"python benchmarks/fit.py --prompts {options.prompts} --steps {options.steps} "
        f"--n {options.n}"
    )
    if options.only:
        made = content["fits"]
        command, content = renewed("fit", f"{command} --only {shlex.join(options.only)}", content)
        kept = [one for one in content["fits"] if one["name"] + FITTED not in options.only]
        content["fits"] = sorted(kept + made, key=lambda one: one["name"])
    save("fit", command, content)
    print(json.dumps({"machine": machine()} | content) if options.json else report(content))


if __name__ == "__main__":
    main()
