"""Muon: momentum whose matrices are made orthogonal, for the hidden weights of the towers.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the update scaled to AdamW's
root mean square as in Liu et al. 2025 (arXiv 2502.16982), so that both share learning rates.

`torch.optim.Muon` has the same update (``adjust_lr_fn="match_rms_adamw"``), but it converts the
learning rate to a Python number, which fails while a CUDA graph is recorded, and updates one matrix
at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonal(stack: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix of ``(n, rows, columns)`` near one."""
    x = stack.bfloat16() if stack.is_cuda else stack
    if wide := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if wide else x).to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Matrices of one shape are orthogonalised as one batch."""

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: Tensor, decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                grads = [p.grad for p in params]
                for p in params:
                    if p not in self.state:
                        self.state[p]["speed"] = torch.zeros_like(p)
                speeds = [self.state[p]["speed"] for p in params]
                torch._foreach_lerp_(speeds, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, speeds, group["momentum"])
                size = -0.2 * max(shape) ** 0.5 * group["lr"]
                update = (orthogonal(torch.stack(ahead)) * size).unbind()
                torch._foreach_mul_(params, 1 - group["lr"] * group["decay"])
                torch._foreach_add_(params, update)
