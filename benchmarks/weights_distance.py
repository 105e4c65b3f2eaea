"""Whether weights of slots should grow with the distance between query and key: RESTORE's share.

    python benchmarks/weights_distance.py [--n 200] [--json]

RESTORE (arXiv 2606.01711) adds ``log(2 - m(d))`` to the logits of visual keys at prefill, beside
``log(size)``, where ``d`` is the distance between the positions of query and key and ``m(d)`` the
mean over the channels' frequencies of ``cos(d * frequency)``, so that rotary embeddings do not take
from far keys. Here it is added to the slots that stand for more than one token, on the validation
split. It is no option of the library unless it helps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from _accuracy import report, score, summary
from _measure import machine, save
from torch import Tensor

from lftr.hosts.transformers.layers import slot_weights
from lftr.lab.evaluation import Setting
from lftr.methods import Lftr, Merge, Method, get_method

RATIOS = (16, 32, 64)
METHODS: dict[str, Method] = {"lftr": Lftr(), "Merge(divprune)": Merge("divprune")}
BASE, WIDTH = 10_000.0, 64  # rotary embeddings of the bundled model


class WithShare(slot_weights.WeightPass):
    """Weights that also grow with the distance."""

    def __init__(self, host: Any, log_weight: Any, inner: Any, layer_pass: Any) -> None:
        super().__init__(host, log_weight, inner, layer_pass)
        self.positions: Tensor = inner["position_ids"]

    def attend(self, number: int) -> Callable[..., Any]:
        """Return the function that calls a layer's kernel, with the share in its mask."""
        call = super().attend(number)

        def shared(kernel: Any, module: Any, *arguments: Any, **more: Any) -> Any:
            query, key, value, mask = arguments
            bias = self.logit_term(number, key)
            length = key.shape[2]
            if query.shape[2] == length and bias is not None:  # prefill
                if mask is None:
                    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
                share = self.share(length) * (bias > 0)[:, None]
                mask = slot_weights._add_to_mask(mask, share[:, None])
            return call(kernel, module, query, key, value, mask, **more)

        return shared

    def share(self, length: int) -> Tensor:
        """Return ``log(2 - m(d))`` ``(B, L, L)`` of every pair of columns."""
        assert self.positions.shape[-1] == length
        frequency = BASE ** (-torch.arange(0, WIDTH, 2) / WIDTH)
        most = int(self.positions.max()) + 1
        table = torch.log(2 - torch.cos(torch.arange(most)[:, None] * frequency).mean(1))
        distance = self.positions[:, :, None] - self.positions[:, None, :]
        return table[distance.clamp_min(0)]


@contextmanager
def with_share() -> Iterator[None]:
    """Let reductions that begin inside the block use `WithShare`."""
    plain = slot_weights.WeightPass
    slot_weights.WeightPass = WithShare  # type: ignore[misc]
    try:
        yield
    finally:
        slot_weights.WeightPass = plain  # type: ignore[misc]


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    full = Setting("full", get_method("uniform"), 1.0)
    plain = [Setting(name, one, 1 / r) for name, one in METHODS.items() for r in RATIOS]
    outcomes, categories = score([full, *plain], "validation", options.n)
    with with_share():
        named = [replace(one, label=f"{one.label}, by distance") for one in plain]
        outcomes += score(named, "validation", options.n)[0]
    content = {
        "split": "validation",
        "questions": len(categories),
        "seed": 0,
        "rows": summary(outcomes, categories),
    }
    save("weights_distance", f"python benchmarks/weights_distance.py --n {options.n}", content)
    print(json.dumps({"machine": machine()} | content) if options.json else report(content))


if __name__ == "__main__":
    main()
