"""``lftr tune``: the smallest budget whose answers agree with the full model's, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...cli import options

if TYPE_CHECKING:
    from ...cli.terminal import Table
    from ..tuning.tune import Tuned


def tune(
    workload: Annotated[
        str,
        typer.Argument(
            help="A folder of images or videos with prompts.txt (or --prompt), a JSONL file with "
            "image or video and question, or a suite (scenes, clips)."
        ),
    ] = "scenes",
    model: options.Model = None,
    agreement: Annotated[
        float,
        typer.Option(
            "--agreement",
            help="Share of an image's answers that equal the full model's, mean over images.",
        ),
    ] = 0.95,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Probability that the result is right.")
    ] = 0.95,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Question about every image of a folder."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A method to try; may be repeated; by default a few that suit any model.",
        ),
    ] = None,
    option: options.Options = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Ratios to try; by default 11 from 1/2 to 1/64."),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", min=1, help="In place of --keep: counts to try."),
    ] = None,
    positions: options.Positions = None,
    encoder: options.Encoder = None,
    weights: options.Weights = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="At most so many questions; by default 240 of a suite."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the shuffle, and of a suite.")
    ] = 0,
    batch: options.Batch = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 64,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the preset is written.")] = Path(
        "lftr-preset.json"
    ),
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder of the search's answers; by default a folder in lftr-tune/ for "
            "each configuration. An interrupted search is continued.",
        ),
    ] = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Find the smallest budget whose answers agree with the full model's, and write a preset.

    The same command goes on where a search was interrupted; what was answered stays answered.
    Exit code 3: done, but for images that could not be read, which are named.
    """
    from ...cli.parsing import parse_budgets, parse_methods
    from ...cli.terminal import print_json, progress, say
    from ...media import Picking
    from ...methods.encoder.spelling import parse_merge
    from ...presets import check_writable
    from ..tuning.answers import count_answers
    from ..tuning.plan import BUDGETS, Plan, tune_configuration
    from ..tuning.search import Goal
    from ..tuning.tune import check_size
    from ..tuning.tune import tune as search
    from ..tuning.workload import load_workload
    from .asking import check_picking, load_subject
    from .run_folder import check_folder, end, folder_of, resumable

    if method is None:
        options.refuse({"--option": option}, "without --method")
    check_writable(out)
    check_folder("--run", run, "tune")
    plan = Plan(
        None if method is None else parse_methods(method, option or []),
        parse_budgets(keep, tokens, BUDGETS),
        positions,
        None if encoder is None else parse_merge(encoder),
        weights,
        batch,
        seed,
    )
    goal = Goal(agreement, confidence)
    loaded = load_workload(workload, prompt or (), n, seed, picking=Picking(frames, fps))
    check_picking(loaded.items, frames, fps)
    check_size(loaded, goal)  # before the model is loaded
    subject = load_subject(
        loaded.items, model, device, dtype, plan.candidates, text_tower, max_new_tokens
    )
    config = tune_configuration(subject, loaded, goal, plan)
    folder = run or folder_of("tune", config)
    with (
        resumable(folder, count_answers(folder, config)),
        progress("asking", len(loaded.groups)) as bar,
    ):
        tuned = search(
            subject,
            loaded,
            goal,
            plan,
            run=folder,
            step=bar.step,
        )
    tuned.preset.save(out)
    if as_json:
        plain = {"preset": str(out), "run": str(folder), "verdict": tuned.verdict}
        print_json(plain | tuned.preset.to_plain() | {"problems": list(map(str, tuned.problems))})
    else:
        _table(tuned).print()
        say(tuned.verdict, *_saving(tuned), f"preset: {out}")
    end(tuned.problems)


def _table(tuned: Tuned) -> Table:
    from ...cli.terminal import Table

    measured = tuned.preset.found
    table = Table(
        ["setting", "visual tokens>", "images>", "agrees with full>", "verdict"],
        title=(
            f"Agreement of {measured['agreement']:.4g} at a confidence of "
            f"{measured['confidence']:.4g}, {measured['workload']['images']} images of "
            f"{measured['workload']['name']}"
        ),
        caption=(
            "Tested on images that had no part in choosing the method. holds: shown; fails: "
            "refuted; open: neither. What counts is what stands above the first that does not hold."
        ),
    )
    for one in measured["tested"]:
        agrees = f"{one['agreement']:.1%}" if one["images"] else "-"
        kept = f"{one['kept']:g}" if one["images"] else "-"
        table.add(one["setting"], kept, str(one["images"]), agrees, one["verdict"])
    return table


def _saving(tuned: Tuned) -> list[str]:
    if not tuned.holds:
        return []  # the preset keeps all tokens
    saving: dict[str, Any] = tuned.preset.found["prefill"]
    after, whole = saving["after_encoder"], saving["with_encoder"]
    return [
        f"prefill {after['full_ms']:.1f} -> {after['ms']:.1f} ms after the encoder, "
        f"{after['full_over_this']['median']:.2f}x faster; with the encoder "
        f"{whole['full_over_this']['median']:.2f}x (median of {saving['questions']} questions)"
    ]
