"""A run of embeddings on disk: every prompt under every setting, and the metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...values.errors import ArgumentError, UnansweredError
from ..asking.controls import but_controls
from ..asking.items import Item, Question, digest
from ..asking.journal import Journal, unwritable, write_whole
from ..asking.problems import Problem, or_unanswered, readable
from ..asking.settings import Setting
from ..asking.subject import Subject
from ..scoring.intervals import ITSELF, Bootstrap, interval_fields
from .configuration import plain_settings
from .embeddings import Embedded, cosine, embed_batch, recall_agreement

FORMAT = "embeddings 1"
BATCHES, METRICS = "batches.jsonl", "metrics.json"


def index_configuration(
    subject: Subject, name: str, items: Sequence[Item], settings: Sequence[Setting], batch: int
) -> dict[str, Any]:
    """Return everything that embeddings depend on, as plain values.

    Raises
    ------
    ArgumentError
        If two settings have one label.
    """
    return {
        "format": FORMAT,
        **subject.plain(),
        "data": {"name": name, "prompts": len(items), "digest": digest(items)},
        "settings": plain_settings(settings),
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
    """Embed the prompts that the run lacks; each batch is on disk before the next starts.

    A batch in which a prompt could not be read is tried again. A control that the model does not
    support is left out of the run.

    Returns
    -------
    list of Problem
        Prompts whose images could not be read, and those on which the processor or the model
        failed; all others were embedded.
    """
    problems: list[Problem] = []
    for number, start in enumerate(range(0, len(items), batch)):
        members = items[start : start + batch]
        done = _batches(journal).get(number, {"ids": []})["ids"]
        if len(done) < len(members):
            held = list(readable(members, problems))
            if done:  # somebody could not be embedded then
                held = _embeddable(journal, subject, held, settings, done, problems)
            if len(held) > len(done):
                _embed(journal, number, subject, held, settings, problems)
        step(len(members))
    return problems


def _embeddable(
    journal: Journal,
    subject: Subject,
    held: Sequence[tuple[Item, Question]],
    settings: Sequence[Setting],
    done: Sequence[str],
    problems: list[Problem],
) -> list[tuple[Item, Question]]:
    """Return the prompts that are done or can be read; add the others to the problems."""
    return [
        one
        for one in held
        if one[0].id in done or _together(journal, subject, [one], settings, problems)
    ]


def _embed(
    journal: Journal,
    number: int,
    subject: Subject,
    held: Sequence[tuple[Item, Question]],
    settings: Sequence[Setting],
    problems: list[Problem],
) -> None:
    """Embed prompts as one batch or, if that fails, one by one, and write the embeddings."""
    parts = _together(journal, subject, held, settings, problems)
    if not parts:
        return
    labels = [one.label for one in left(journal, settings)]
    joined = {label: Embedded.joined([part[label] for _, part in parts]) for label in labels}
    ids = [item.id for members, _ in parts for item in members]
    name = f"{len(journal.lines):06}.safetensors"  # never one that a line has named already
    try:
        save_file({label: rows.states for label, rows in joined.items()}, journal.path / name)
    except OSError as error:
        raise unwritable(journal.path, error) from None
    kept = {label: rows.kept for label, rows in joined.items()}
    line = {"batch": number, "ids": ids, "file": name, "kept": kept}
    journal.add([line])  # the line makes the file count


def _together(
    journal: Journal,
    subject: Subject,
    held: Sequence[tuple[Item, Question]],
    settings: Sequence[Setting],
    problems: list[Problem],
) -> list[tuple[list[Item], dict[str, Embedded]]]:
    """Return the embeddings of prompts by setting, and the prompts that could be embedded.

    As one batch or, if that fails, one by one; a prompt that fails alone is a problem.
    """
    questions = [question for _, question in held]

    def ask(waiting: Sequence[Setting]) -> Iterator[Embedded]:
        return embed_batch(
            subject.model, subject.processor, questions, waiting, text_tower=subject.text_tower
        )

    going = left(journal, settings)
    try:
        results = dict(or_unanswered(but_controls(going, ask, journal.leave_out)))
    except UnansweredError as error:
        if len(held) > 1:
            return [
                part
                for one in held
                for part in _together(journal, subject, [one], settings, problems)
            ]
        problems.append(Problem(held[0][0].label, str(error)))
        return []
    rows = {setting.label: embedded for setting, embedded in results.items()}
    return [([item for item, _ in held], rows)]


def left(journal: Journal, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that a run has not left out."""
    return [setting for setting in settings if setting.name not in journal.left_out]


def _batches(journal: Journal) -> dict[int, dict[str, Any]]:
    """Return the lines by batch, in order; a later line of the same batch replaces the earlier."""
    return dict(sorted({line["batch"]: line for line in journal.lines}.items()))


def embedded(journal: Journal) -> int:
    """Return the number of prompts in a run."""
    return sum(len(line["ids"]) for line in _batches(journal).values())


def embeddings_of(journal: Journal, settings: Sequence[Setting]) -> dict[str, Tensor]:
    """Return for each setting's label all embeddings ``(N, D)``, in the order of the prompts."""
    files = [load_file(journal.path / line["file"]) for line in _batches(journal).values()]
    if not files:
        raise ArgumentError.of("data", str(journal.path), "at least one prompt that can be read")
    return {one.label: torch.cat([file[one.label] for file in files]) for one in settings}


def index_metrics(
    journal: Journal, items: Sequence[Item], settings: Sequence[Setting], k: int = 10
) -> dict[str, Any]:
    """Compute the cosine and recall of each setting, write and return them.

    Parameters
    ----------
    items : sequence of Item
        The prompts. Those about the same image are one group for the intervals.
    settings : sequence of Setting
        The first is the full model; settings that the run left out are skipped.
    k : int
        Number of nearest neighbours, at most all other prompts. With all of them recall is not
        defined, since every index finds them.
    """
    rows = left(journal, settings)
    embeddings = embeddings_of(journal, rows)
    full = embeddings[rows[0].label]
    if len(full) < 2:
        raise ArgumentError.of("data", f"{len(full)} prompts", "two or more: neighbours to find")
    others = len(full) - 1
    k = min(k, others)
    lines = _batches(journal).values()
    images = {item.id: item.image or item.id for item in items}
    bootstrap = Bootstrap(
        ["prompts"] * len(full), [images[id] for line in lines for id in line["ids"]]
    )
    figures = []
    for setting, plain in zip(rows, plain_settings(rows), strict=True):
        states = embeddings[setting.label]
        alike = bootstrap.mean(cosine(full, states).tolist(), (-1.0, 1.0))
        recall = bootstrap.mean(recall_agreement(full, states, k).tolist())
        kept = [value for line in lines for value in line["kept"][setting.label]]
        figures.append(
            {
                "label": setting.label,
                "method": setting.name,
                "keep": plain["keep"],
                "tokens": sum(kept) / len(kept),
                **interval_fields("cosine", ITSELF if setting.full else alike),
                **interval_fields(
                    "recall", None if k == others else ITSELF if setting.full else recall
                ),
            }
        )
    metrics = {"prompts": len(full), "k": k, "chance": k / others, "settings": figures}
    write_whole(journal.path / METRICS, json.dumps(metrics, indent=1) + "\n")
    return metrics
