"""A run of embeddings: every prompt under every setting, on disk, and what became of the index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ArgumentError, LftrError
from .configuration import plain_setting
from .embeddings import cosine, embed_batch, recall_agreement
from .intervals import Bootstrap, Interval
from .items import Item, digest
from .journal import Journal, unwritable, write_whole
from .jsonl import Problem
from .settings import Setting
from .subject import Subject

BATCHES, METRICS = "batches.jsonl", "metrics.json"


def index_configuration(
    subject: Subject, name: str, items: Sequence[Item], settings: Sequence[Setting], batch: int
) -> dict[str, Any]:
    """Return all that embeddings depend on, as plain values."""
    return {
        **subject.plain(),
        "data": {"name": name, "prompts": len(items), "digest": digest(items)},
        "settings": [plain_setting(setting) for setting in settings],
        "batch": batch,
    }


def embed_run(
    journal: Journal,
    subject: Subject,
    items: Sequence[Item],
    settings: Sequence[Setting],
    *,
    batch: int = 8,
    step: Callable[[int], None] = lambda prompts: None,
) -> list[Problem]:
    """Embed what the run does not hold yet; a batch is on the disk before the next one begins.

    Returns
    -------
    list of Problem
        Prompts whose images could not be read; the others were embedded.
    """
    done = {line["batch"] for line in journal.lines}
    problems: list[Problem] = []
    for number, start in enumerate(range(0, len(items), batch)):
        members = items[start : start + batch]
        if number not in done:
            _embed(journal, number, subject, members, settings, problems)
        step(len(members))
    return problems


def _embed(
    journal: Journal,
    number: int,
    subject: Subject,
    items: Sequence[Item],
    settings: Sequence[Setting],
    problems: list[Problem],
) -> None:
    held = []
    for item in items:
        try:
            held.append((item.id, item.asked()))
        except LftrError as error:
            problems.append(Problem(item.id, str(error)))
    if not held:
        return
    asked = [question for _, question in held]
    found = embed_batch(
        subject.model, subject.processor, asked, settings, text_tower=subject.text_tower
    )
    labelled = {one.label: rows for one, rows in zip(settings, found, strict=True)}
    name = f"{number:06}.safetensors"
    try:
        save_file({label: rows.states for label, rows in labelled.items()}, journal.path / name)
    except OSError as error:
        raise unwritable(journal.path, error) from None
    kept = {label: rows.kept for label, rows in labelled.items()}
    line = {"batch": number, "ids": [id for id, _ in held], "file": name, "kept": kept}
    journal.add([line])  # the line makes the file count


def embeddings_of(journal: Journal, settings: Sequence[Setting]) -> dict[str, Tensor]:
    """Return for each setting's label all embeddings ``(N, D)``, in the order of the prompts."""
    lines = sorted(journal.lines, key=lambda line: line["batch"])
    files = [load_file(journal.path / line["file"]) for line in lines]
    if not files:
        raise ArgumentError.of("data", str(journal.path), "at least one prompt that can be read")
    return {one.label: torch.cat([file[one.label] for file in files]) for one in settings}


def index_metrics(journal: Journal, settings: Sequence[Setting], k: int = 10) -> dict[str, Any]:
    """Return and write how far each setting moves embeddings and what its index finds.

    Parameters
    ----------
    settings : sequence of Setting
        The first is the full model.
    k : int
        How many neighbours are looked up; of few prompts, all others.
    """
    found = embeddings_of(journal, settings)
    full = found[settings[0].label]
    if len(full) < 2:
        raise ArgumentError.of("data", f"{len(full)} prompts", "two or more: neighbours to find")
    k = min(k, len(full) - 1)
    bootstrap = Bootstrap(["prompts"] * len(full))
    rows = []
    for setting in settings:
        states = found[setting.label]
        alike = bootstrap.mean(cosine(full, states).tolist(), (-1.0, 1.0))
        recall = bootstrap.mean(recall_agreement(full, states, k).tolist())
        kept = [value for line in journal.lines for value in line["kept"][setting.label]]
        rows.append(
            {
                "label": setting.label,
                "method": setting.name,
                "keep": plain_setting(setting)["keep"],
                "tokens": sum(kept) / len(kept),
                **_ends("cosine", alike, setting.full),
                **_ends("recall", recall, setting.full),
            }
        )
    chance = k / (len(full) - 1)
    metrics = {"prompts": len(full), "k": k, "chance": chance, "settings": rows}
    write_whole(journal.path / METRICS, json.dumps(metrics, indent=1) + "\n")
    return metrics


def _ends(name: str, value: Interval, itself: bool) -> Mapping[str, float]:
    ends = (1.0, 1.0, 1.0) if itself else value
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
