"""Train the bundled clip model: ``python training/train_clips.py --out DIR``.

It begins as the bundled model of the scenes, whose vision tower stays as it is: the language side
learns to follow what it sees through the frames. Made for one CPU core. ``--smoke`` runs all of it
tiny.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from architecture import SHIPPED, TINY, ClipTowers, export_clips
from clip_data import clip_stream, clips_held_out
from clip_losses import ClipHeads, answer_clip, clip_losses, see_clip
from losses import wanted
from torch import Tensor
from train import Run, Stage, learn, optimisers, tally

from lftr import bundled
from lftr.lab.suites.clip_questions import CLIP_CATEGORIES
from lftr.lab.suites.tracks import FRAMES


def lesson(progress: float) -> tuple[int, int]:
    """Most objects and number of frames: few of both at first."""
    if progress < 0.08:
        return 3, FRAMES // 2
    return (4 if progress < 0.3 else 5), FRAMES


def forward(run: Run, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the losses in mixed precision, twice as fast where a CPU multiplies bfloat16."""
    with torch.autocast(run.device, torch.bfloat16):
        return clip_losses(run.towers, run.heads, batch)


@torch.no_grad()
def evaluate(run: Run, keep: int | None = None) -> dict[str, float]:
    """Share of right answers on held-out clips, by category; with ``keep``, from random patches."""
    hits = []
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(run.check["image"]), 8):
        batch = {key: value[start : start + 8] for key, value in run.check.items()}
        with torch.autocast(run.device, torch.bfloat16):
            patches = see_clip(run.towers, batch["image"])
            kept = None
            if keep is not None:
                chance = torch.rand((len(patches), patches[0, ..., 0].numel()), generator=generator)
                kept = chance.topk(keep, 1).indices.sort(1).values
            found = answer_clip(run.towers, patches, batch, kept)[0].argmax(-1)
        hits.append((found == wanted(batch)).all(-1).flatten())
    return tally(torch.cat(hits), run.check["category"], CLIP_CATEGORIES)


def report(run: Run) -> None:
    """Log accuracies, refresh the exported folder and the checkpoint."""
    run.log(full=evaluate(run))
    run.log(random50=evaluate(run, 50)["all"])
    export_clips(run.towers, run.out / "weights")
    run.save()


def train(run: Run, stage: Stage, seed: int, every: int, save: float) -> None:
    """Run the one stage to its end."""
    model = run.towers.llava.model
    run.optimisers = optimisers(
        run,
        stage,
        {
            "language": [
                *model.multi_modal_projector.named_parameters(),
                *model.language_model.named_parameters(),
                *run.towers.llava.lm_head.named_parameters(),
            ],
            "heads": [*run.heads.named_parameters()],
        },
    )
    for optimiser, state in zip(run.optimisers, run.resumed, strict=False):
        optimiser.load_state_dict(state)
    run.resumed = []
    most = torch.tensor(lesson(stage.progress()))
    batches = clip_stream(seed, stage.batch, most)
    clock = saved = time.monotonic()
    while stage.progress() < 1:
        for group in (g for o in run.optimisers for g in o.param_groups):
            group["lr"].fill_(group["peak"] * stage.rate())
        most.copy_(torch.tensor(lesson(stage.progress())))
        batch = next(batches)
        found = learn(run, lambda batch=batch: forward(run, batch))
        stage.done += 1
        now = time.monotonic()
        stage.spent, clock = stage.spent + now - clock, now
        if stage.done % every == 0:
            shown = {name: float(loss.detach()) for name, loss in found.items()}
            run.log(
                step=stage.done, spent=stage.spent, rate=stage.rate(), most=most.tolist(), **shown
            )
        if now - saved > save:
            report(run)
            clock = saved = time.monotonic()
    report(run)


def main(arguments: list[str] | None = None) -> Run:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and weights")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, a few steps")
    parser.add_argument("--start", type=Path, default=bundled.path(), help="the scenes' weights")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--steps", type=int, default=0, help="instead of seconds")
    parser.add_argument("--batch", type=int, default=8, help="clips of one step")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="steps between lines of the log")
    parser.add_argument("--save", type=float, default=480, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(chosen.threads)
    if chosen.smoke:
        chosen.batch, chosen.every, chosen.steps = 2, 2, chosen.steps or 4
    chosen.out.mkdir(parents=True, exist_ok=True)
    towers = ClipTowers(TINY) if chosen.smoke else ClipTowers(SHIPPED, chosen.start)
    towers.llava.model.language_model.set_attn_implementation("packed")
    heads = ClipHeads(towers.llava.config.text_config.hidden_size)
    stage = Stage(
        "clips", chosen.seconds, chosen.steps, chosen.batch,
        {"language": chosen.rate, "heads": chosen.rate}, warmup=30, decay=0.45,
    )  # fmt: skip
    check = clips_held_out("validation", 4 if chosen.smoke else 64)
    run = Run(chosen.out, "cpu", towers, heads, [stage], check)
    run.resume()
    run.log(torch=torch.__version__, transformers=transformers.__version__, device=run.device)
    run.log(arguments=vars(chosen) | {"out": str(chosen.out), "start": chosen.start.name})
    train(run, stage, 1000 * chosen.seed + stage.done, chosen.every, chosen.save)
    return run


if __name__ == "__main__":
    main()
