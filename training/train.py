"""Train the bundled model: ``python training/train.py --out DIR``.

Two stages under one clock. First the vision tower learns to say what covers each patch and to match
texts; then the language side learns to answer, in scenes of few objects first, while the vision
tower goes on slowly under its own objectives. ``--smoke`` runs all of it tiny, on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from architecture import SHIPPED, TINY, Towers, export, restore
from data import OBJECTS, Pool, held_out, stream
from losses import (
    Batch,
    Heads,
    answer,
    answer_losses,
    dense_losses,
    pixels,
    see,
    text_losses,
    wanted,
)
from muon import Muon
from torch import Tensor, nn

from lftr.lab.suites.questions import CATEGORIES

_WEIGHTS = {"kind": 1.0, "colour": 0.7, "digit": 1.0, "box": 0.7, "region": 0.4, "scene": 0.1}


@dataclass
class Stage:
    """One part of the schedule: what learns, how fast, for how long."""

    name: str
    seconds: float
    steps: int
    batch: int
    rates: dict[str, float]  # peak learning rate of each part of the model
    warmup: int = 200
    decay: float = 0.6  # share of the stage over which the rate goes down
    done: int = 0
    spent: float = 0.0

    def progress(self) -> float:
        """Share of the stage that is over, by steps if they are limited, else by time."""
        over = self.done / self.steps if self.steps else self.spent / self.seconds
        return min(1.0, over)

    def rate(self) -> float:
        """Learning rate as a share of its peak: warm-up, a plateau, then down to nothing."""
        return min(1.0, (self.done + 1) / self.warmup, 1e-3 + (1 - self.progress()) / self.decay)

    def most(self) -> int:
        """Most objects in a scene: few at first, where the language side has to catch on."""
        if self.name == "vision" or self.progress() > 0.2:
            return OBJECTS
        return 2 if self.progress() < 0.08 else 4


@dataclass
class Run:
    """All that a checkpoint holds, and the folder it lies in."""

    out: Path
    device: str
    towers: Any
    heads: nn.Module
    stages: list[Stage]
    check: Batch
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    resumed: list[Any] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def log(self, **record: object) -> None:
        """Print one line and keep it in ``log.txt``."""
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}
        line = json.dumps({"at": round(time.monotonic() - self.since, 1), **shown})
        print(line, flush=True)
        with (self.out / "log.txt").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Write ``last.pt``, whole or not at all."""
        state = {
            "towers": self.towers.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "stages": [(s.done, s.spent) for s in self.stages],
        }
        torch.save(state, self.out / "last.tmp")
        (self.out / "last.tmp").rename(self.out / "last.pt")

    def resume(self) -> None:
        """Go on from ``last.pt`` where there is one."""
        if (self.out / "last.pt").exists():
            state = torch.load(self.out / "last.pt", map_location=self.device, weights_only=True)
            self.towers.load_state_dict(state["towers"])
            self.heads.load_state_dict(state["heads"])
            for stage, spent in zip(self.stages, state["stages"], strict=True):
                stage.done, stage.spent = spent
            self.resumed = state["optimisers"]

    def cast(self) -> Any:
        """Mixed precision: bfloat16 where it is safe, on a GPU."""
        on = self.device == "cuda"
        return torch.autocast(self.device, torch.bfloat16, enabled=on, cache_enabled=False)


Parts = dict[str, list[tuple[str, nn.Parameter]]]


def parts(run: Run) -> Parts:
    """Name the parameters by the part of the model whose learning rate they share."""
    llava = run.towers.llava.model
    return {
        "vision": [*llava.vision_tower.named_parameters()],
        "text": [
            *run.towers.text_tower.named_parameters(),
            *run.towers.visual_projection.named_parameters(),
            *run.heads.named_parameters(),
        ],
        "language": [
            *llava.multi_modal_projector.named_parameters(),
            *llava.language_model.named_parameters(),
            *run.towers.llava.lm_head.named_parameters(),
        ],
    }


def optimisers(run: Run, stage: Stage, learning: Parts) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW for embeddings, read-outs, norms and biases."""
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part, named in learning.items():
        rate = stage.rates.get(part, 0.0)
        for _, p in named:
            p.requires_grad_(rate > 0)
        if rate == 0:
            continue
        hidden = [p for n, p in named if p.ndim == 2 and ("layers." in n or "linear_" in n)]
        known = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in known]
        matrices.append({"params": hidden, "lr": rate, "peak": rate})
        others.append({"params": rest, "lr": rate, "peak": rate})
    for group in (*matrices, *others):  # a graph reads its learning rate from memory
        group["lr"] = torch.tensor(group["peak"], device=run.device)
    cuda = run.device == "cuda"
    adam = torch.optim.AdamW(
        others, betas=(0.9, 0.98), weight_decay=0.01, fused=cuda, foreach=False, capturable=cuda
    )
    return [Muon(matrices, lr=torch.tensor(0.0), decay=0.02), adam]


def losses(run: Run, stage: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass of one stage, and its parts for the log."""
    found: dict[str, Tensor] = {}
    with run.cast():
        patches, cls = see(run.towers, pixels(batch["image"]))
        found |= dense_losses(run.heads, patches, batch)
        found |= text_losses(run.towers, run.heads, patches, cls, batch)
        total = sum((_WEIGHTS[name] * loss for name, loss in found.items()), patches.new_zeros(()))
        if stage == "language":
            logits = answer(run.towers, patches, batch)
            found |= answer_losses(logits, batch)
            total = total + found["answer"] + found["end"]
    return total, found


@torch.no_grad()
def evaluate(run: Run, keep: int | None = None) -> dict[str, float]:
    """Share of right answers on scenes and digits never trained on, by category.

    With ``keep``, from that many random patches of each image.
    """
    hits: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    size = min(64, len(run.check["image"]))
    for start in range(0, len(run.check["image"]), size):
        batch = {k: v[start : start + size].to(run.device) for k, v in run.check.items()}
        with run.cast():
            patches, _ = see(run.towers, pixels(batch["image"]))
            kept = None
            if keep is not None:
                chance = torch.rand(patches.shape[:2], generator=generator)
                kept = chance.topk(keep, 1).indices.sort(1).values.to(run.device)
            found = answer(run.towers, patches, batch, kept).argmax(-1)
        hits.append((found == wanted(batch)).all(-1).flatten().cpu())
    return tally(torch.cat(hits), run.check["category"], CATEGORIES)


def tally(hits: Tensor, category: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Share of right answers by category, and the mean of these."""
    found = {name: hits[category.flatten() == i] for i, name in enumerate(names)}
    shares = {name: float(hit.float().mean()) for name, hit in found.items() if len(hit)}
    return {**shares, "all": sum(shares.values()) / len(shares)}


@torch.no_grad()
def look(run: Run) -> dict[str, float]:
    """Share of covered patches whose kind, colour and digit the vision tower tells."""
    size = min(64, len(run.check["image"]))
    batch = {k: v[:size].to(run.device) for k, v in run.check.items()}
    with run.cast():
        patches, _ = see(run.towers, pixels(batch["image"]))
        outputs = run.heads.dense(run.heads.norm(patches)).float().split(run.heads.sizes, -1)
    owner = batch["owner"].flatten(1).long()
    table = batch["objects"]
    truth = table.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, table.shape[-1])).long()
    kind, colour, digit = (output.argmax(-1) for output in outputs[:3])
    covered, inked = owner >= 0, (owner >= 0) & (truth[..., 2] >= 0)
    return {
        "background": float((kind == 0)[owner == -1].float().mean()),
        "kind": float((kind == truth[..., 1] + 1)[covered].float().mean()),
        "colour": float((colour == truth[..., 0])[covered].float().mean()),
        "digit": float((digit == truth[..., 2])[inked].float().mean()),
    }


def train(run: Run, stage: Stage, pool: Pool, most: Tensor, every: int) -> None:
    """Run one stage to its end."""
    run.optimisers = optimisers(run, stage, parts(run))
    for optimiser, state in zip(run.optimisers, run.resumed, strict=False):
        optimiser.load_state_dict(state)
    run.resumed = []
    run.log(stage=stage.name)
    graphed = run.device == "cuda"

    def step(batch: Batch) -> dict[str, Tensor]:
        return learn(run, lambda: losses(run, stage.name, batch))

    take = graph(run, step, pool) if graphed else lambda: step(pool.next())
    clock = time.monotonic()
    while stage.progress() < 1:
        for group in (g for o in run.optimisers for g in o.param_groups):
            group["lr"].fill_(group["peak"] * stage.rate())
        found = take()
        most.fill_(stage.most())
        stage.done += 1
        if graphed and stage.done % 10 == 0:
            torch.cuda.synchronize()
        now = time.monotonic()
        stage.spent, clock = stage.spent + now - clock, now
        if stage.done % every == 0:
            shown = {name: float(loss.detach()) for name, loss in found.items()}
            run.log(
                step=stage.done, spent=stage.spent, rate=stage.rate(), most=int(most),
                drawn=pool.drawn, **shown,
            )  # fmt: skip
        if stage.done % (10 * every) == 0:
            report(run, stage)
            run.save()
    report(run, stage)
    stage.spent = max(stage.spent, stage.seconds)
    run.optimisers = []
    run.save()


def learn(run: Run, forward: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Take one step; the losses before it."""
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
    total, found = forward()
    total.backward()
    trained = [p for o in run.optimisers for g in o.param_groups for p in g["params"]]
    found["norm"] = nn.utils.clip_grad_norm_(trained, 1.0)
    for optimiser in run.optimisers:
        optimiser.step()
    return found


def graph(
    run: Run, step: Callable[[Batch], dict[str, Tensor]], pool: Pool
) -> Callable[[], dict[str, Tensor]]:
    """Record one step as a CUDA graph: issuing its kernels one by one costs more than they do."""
    batch = {key: value.clone() for key, value in pool.draw().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(batch)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
    with torch.cuda.graph(recorded, capture_error_mode="thread_local"):
        found = step(batch)
    pool.start()

    def take() -> dict[str, Tensor]:
        for key, value in pool.draw().items():
            batch[key].copy_(value)
        recorded.replay()
        return found

    return take


def accelerate(run: Run) -> None:
    """Compile one layer of each tower; its siblings share the result."""
    model = run.towers.llava.model
    text = run.towers.text_tower.text_model
    for layers in (
        model.vision_tower.encoder.layers,
        text.encoder.layers,
        model.language_model.layers,
    ):
        for layer in layers:
            layer.compile(dynamic=False)


@torch.compiler.set_stance("force_eager")
def report(run: Run, stage: Stage) -> None:
    """Log accuracies, and refresh the exported folder."""
    if stage.name == "vision":
        run.log(**look(run))
    else:
        run.log(full=evaluate(run))
        run.log(random36=evaluate(run, 36)["all"])
    export(run.towers, run.out / "weights")
    torch.save(run.heads.state_dict(), run.out / "heads.pt")


def main(arguments: list[str] | None = None) -> Run:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and weights")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, a few steps, on a CPU")
    parser.add_argument("--vision-seconds", type=float, default=110)
    parser.add_argument("--language-seconds", type=float, default=280)
    parser.add_argument("--vision-steps", type=int, default=0, help="instead of seconds")
    parser.add_argument("--language-steps", type=int, default=0, help="instead of seconds")
    parser.add_argument("--batch", type=int, default=128, help="images of one step")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--every", type=int, default=200, help="steps between lines of the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="another run's --out to begin from")
    parser.add_argument("--no-compile", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    random.seed(chosen.seed)
    np.random.seed(chosen.seed)  # noqa: NPY002
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() and not chosen.smoke else "cpu"
    if chosen.smoke:
        chosen.batch, chosen.workers, chosen.every = 4, 0, 2
        chosen.vision_steps = chosen.vision_steps or 4
        chosen.language_steps = chosen.language_steps or 4
    chosen.out.mkdir(parents=True, exist_ok=True)
    towers = Towers(TINY if chosen.smoke else SHIPPED).to(device)
    towers.llava.model.language_model.set_attn_implementation("packed")
    width = towers.llava.config.vision_config.hidden_size
    stages = [
        Stage(
            "vision", chosen.vision_seconds, chosen.vision_steps, chosen.batch,
            {"vision": 2e-3, "text": 2e-3},
        ),
        Stage(
            "language", chosen.language_seconds, chosen.language_steps, chosen.batch,
            {"vision": 3e-4, "text": 3e-4, "language": 2e-3},
        ),
    ]  # fmt: skip
    run = Run(
        chosen.out, device, towers, Heads(width).to(device), stages,
        held_out("validation", 8 if chosen.smoke else 256),
    )  # fmt: skip
    if chosen.start:
        restore(towers, chosen.start / "weights")
        heads = torch.load(chosen.start / "heads.pt", map_location=device, weights_only=True)
        run.heads.load_state_dict(heads)
    run.resume()
    if device == "cuda" and not chosen.no_compile:
        accelerate(run)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    run.log(torch=torch.__version__, transformers=transformers.__version__, device=name)
    run.log(arguments=vars(chosen) | {"out": str(chosen.out), "start": str(chosen.start)})
    seed = 1000 * chosen.seed + sum(stage.done for stage in stages)  # other scenes after a pause
    most = torch.tensor(OBJECTS).share_memory_()
    pool = Pool(stream(seed, chosen.batch, most, chosen.workers), device)
    for stage in stages:
        if stage.progress() < 1:
            train(run, stage, pool, most, chosen.every)
    pool.stop()
    return run


if __name__ == "__main__":
    main()
