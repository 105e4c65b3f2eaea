"""Convert the bundled model to Qwen2.5-VL: ``python training/convert.py --out DIR``.

A second architecture for the same questions: M-RoPE, an encoder with windows and rotations, a
merger of 2x2 patches, 12x12 visual tokens. No gradient step is taken: weights are copied where that
is exact, the rest is least squares, on scenes of the train split. Minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import convert_language
import convert_tower
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from data import collate, held_out, scene
from losses import pixels, wanted
from qwen import build, export, merge, read, see
from torch import Tensor
from train import tally

from lftr import bundled
from lftr.lab.suites.questions import CATEGORIES


def draw(seed: int, n: int) -> dict[str, Tensor]:
    """Draw scenes of the train split, none of which `lftr.suites.load` can draw."""
    rng = np.random.default_rng([5, seed])
    return collate([scene(rng, "train") for _ in range(n)])


def accuracy(model: torch.nn.Module, check: dict[str, Tensor]) -> dict[str, float]:
    """Share of right answers on packed questions, by category."""
    hits = []
    for start in range(0, len(check["image"]), 8):
        batch = {key: value[start : start + 8] for key, value in check.items()}
        vision = model.model.visual
        tokens = merge(vision, see(vision, pixels(batch["image"])))
        hits.append((read(model, tokens, batch).argmax(-1) == wanted(batch)).all(-1).flatten())
    return tally(torch.cat(hits), check["category"], CATEGORIES)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--tower-scenes", type=int, default=320)
    parser.add_argument("--language-scenes", type=int, default=96)
    parser.add_argument("--check", type=int, default=32, help="scenes of validation, 18 questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()

    def log(**record: object) -> None:
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}
        line = json.dumps({"at": round(time.monotonic() - begin, 1), **shown})
        print(line, flush=True)
        with (chosen.out / "log.txt").open("a") as file:
            file.write(line + "\n")

    old, _ = bundled.load()
    old.model.language_model.set_attn_implementation("packed")
    model = build()
    vision, tower = model.model.visual, old.model.vision_tower
    log(parameters=sum(p.numel() for p in model.parameters()))

    scenes = draw(2 * chosen.seed, chosen.tower_scenes)
    images = pixels(scenes["image"])
    convert_tower.begin(vision, tower, images[:24])
    place = convert_tower.calibrate(vision, tower, images, scenes["owner"], log)

    scenes = draw(2 * chosen.seed + 1, chosen.language_scenes)
    patches, streams = [], []
    for start in range(0, chosen.language_scenes, 8):
        batch = {key: value[start : start + 8] for key, value in scenes.items()}
        images = pixels(batch["image"])
        patches.append(see(vision, images))
        known = convert_tower.features(tower, images)
        streams.append(convert_language.streams(old, known, batch))
    seen = torch.cat(patches)
    convert_language.begin(model, old)
    convert_language.begin_merger(vision, old.model.multi_modal_projector, seen)
    tokens, placed = (merge(vision, x) for x in (seen, seen + place))
    words = scenes["slots"].unique()
    convert_language.front(model, tokens, (placed - tokens).mean(0), words)
    check = held_out("validation", chosen.check)
    log(copied=accuracy(model, check))
    convert_language.calibrate(model, tokens, torch.cat(streams, 1), scenes, log)
    log(fitted=accuracy(model, check))
    export(model, chosen.out)


if __name__ == "__main__":
    main()
