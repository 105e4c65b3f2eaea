"""Options that several commands share."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..values.errors import ArgumentError


def _check_model_option(name: str | None) -> str | None:
    """Return a model's name as ``--model``; see `check_model_name`."""
    return check_model_name("--model", name)


def check_model_name(argument: str, name: str | None) -> str | None:
    """Return a model's name; refuse a path without a folder before anything is loaded.

    A Hugging Face id is ``name`` or ``owner/name``; every other spelling is a path.
    """
    if name is None or os.path.isdir(name):
        return name
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(name):
        raise ArgumentError.of(argument, name, "a Hugging Face id, or a folder that exists")
    return name


def _check_positions(value: str | None) -> str | None:
    """Refuse an unknown value before a model is loaded."""
    if value is None:
        return None
    from ..values.positions import POSITIONS

    if value not in POSITIONS:
        raise ArgumentError.of("--positions", value, " or ".join(POSITIONS))
    return value


def _check_weights(value: str | None) -> str | None:
    """Refuse an unknown value before a model is loaded."""
    from ..values.weights import parse_weights

    parse_weights(value)
    return value


_COMPOSED = 'or a composition such as "Merge(divprune)"'
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        callback=_check_model_option,
        help="Hugging Face id or folder; by default the bundled model.",
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method", help=f"A name that `lftr methods` lists, {_COMPOSED}; by default lftr."
    ),
]
MethodBefore = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="A name that `lftr methods` lists as acting before the language model, "
        f"{_COMPOSED}; by default lftr.",
    ),
]
MethodNames = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help=f"A name that `lftr methods` lists, {_COMPOSED}; by default lftr. Several act "
        "together: one before the language model, others inside it.",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        help="A ratio (1/16, 0.25, 6.25%); by default 1/16, or what the schedule of a method "
        "inside the model says.",
    ),
]
ServedKeep = Annotated[
    str | None, typer.Option("--keep", help="A ratio (1/16, 0.25, 6.25%); by default 1/16.")
]
Tokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="In place of --keep: a count for each image or clip."),
]
Methods = Annotated[
    list[str],
    typer.Option(
        "--method", help=f"A name that `lftr methods` lists, {_COMPOSED}; may be repeated."
    ),
]
Keeps = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="A ratio (1/16, 6.25%); may be repeated. Without this and --tokens, 1/4 and 1/16.",
    ),
]
Counts = Annotated[
    list[int] | None,
    typer.Option(
        "--tokens", min=1, help="A count for each image or clip; may be repeated, also with --keep."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="name=value for the method, or method.name=value of several; may be repeated.",
    ),
]
_POSITIONS = "original (kept tokens stay where they were) or compact (renumbered); by default"
Positions = Annotated[
    str | None,
    typer.Option(
        "--positions", callback=_check_positions, help=f"{_POSITIONS} what suits the model."
    ),
]
ServedPositions = Annotated[
    str | None,
    typer.Option("--positions", callback=_check_positions, help=f"{_POSITIONS} original."),
]
_WEIGHTS = (
    "How merged tokens count in attention: size (as many as they are), none (one), or an exponent; "
    "by default size"
)
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        callback=_check_weights,
        help=f"{_WEIGHTS} where the model's attention takes it.",
    ),
]
ServedWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        callback=_check_weights,
        help=f"{_WEIGHTS}; a server that cannot take them is refused at start.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Merge tokens inside the vision encoder too: tome:r=8, folder:keep=1/3, "
        "flowcut:keep=1/9 (LLaVA, VipLLaVA, PaliGemma).",
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        help="Rows with tokens merged inside the vision encoder too: tome:r=8, folder:keep=1/3, "
        "flowcut:keep=1/9; may be repeated.",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames of a clip, evenly spread, the last one among them; by default 8.",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps", help="Frames of each second of a clip; with --frames, at most that many in all."
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of a suite: train, validation or, by default, test."),
]
Questions = Annotated[
    int | None,
    typer.Option(
        "--n", min=1, help="At most so many questions of each data set; by default 240 of a suite."
    ),
]
SuiteSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of a suite; by default 0.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Questions at a time.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda...; by default a GPU if there is one.")
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto (the checkpoint's own), float32, bfloat16, float16.")
]
Tower = Annotated[
    str | None,
    typer.Option("--text-tower", help="CLIP model whose text encoder embeds the question."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Picture = Annotated[Path, typer.Option("-o", "--out", help="Where the picture is written.")]


def refuse(options: Mapping[str, object], where: str) -> None:
    """Refuse an option that would have no effect.

    Parameters
    ----------
    options : mapping
        Values of options by name; None, False and an empty list stand for an absent option.
    where : str
        As in "no such option beside --preset".

    Raises
    ------
    ArgumentError
        Naming the first option that is present.
    """
    for name, value in options.items():
        if value is not None and value is not False and value != []:  # 0 is a value
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            raise ArgumentError.of(name, text, f"no such option {where}")
