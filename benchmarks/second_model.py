"""Methods on a second architecture: the bundled model converted to Qwen2.5-VL.

    python training/convert.py --out runs/qwen
    python benchmarks/second_model.py --model runs/qwen [--n 320] [--json]

The validation split. M-RoPE, a windowed encoder and a merger of 2x2 patches: 144 visual tokens.
"""

from __future__ import annotations

import argparse
import sys
from math import inf
from pathlib import Path

from _accuracy import finish

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from qwen import load

from lftr.lab.evaluation import Setting
from lftr.methods import Lftr, Merge, get_method

RATIOS = (4, 16)
ROWS = (
    ("lftr", Lftr(), "size"),
    ("lftr, no weights", Lftr(), "none"),
    ("Merge(divprune)", Merge("divprune"), "size"),
    ("Merge(divprune), no weights", Merge("divprune"), "none"),
    ("divprune", get_method("divprune"), "none"),
    ("random", get_method("random"), "none"),
)


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="what convert.py wrote")
    parser.add_argument("--n", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = [Setting("full", get_method("uniform"), 1.0)]
    settings += [Setting(label, m, 1 / r, weights=w) for label, m, w in ROWS for r in RATIOS]
    command = f"python benchmarks/second_model.py --model {options.model} --n {options.n}"
    model, processor = load(options.model)
    finish(
        settings, options, "validation", "second_model", command, subject=(model, processor, None)
    )


if __name__ == "__main__":
    main()
