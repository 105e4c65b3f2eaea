"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..values.errors import ArgumentError

if TYPE_CHECKING:
    from ..methods.base import Method
    from ..methods.inside import LayerMethod


def _known_positions(value: str | None) -> str | None:
    """Refuse a word that no model takes before any model is loaded."""
    if value is None:
        return None
    from ..reducing import POSITIONS

    if value not in POSITIONS:
        raise ArgumentError.of("--positions", value, " or ".join(POSITIONS))
    return value


Model = Annotated[
    str | None,
    typer.Option("--model", help="Hugging Face id or folder; by default the bundled model."),
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="A name that `lftr methods` lists; by default lftr."),
]
MethodNames = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="A name that `lftr methods` lists; by default lftr. Several compose: one before the "
        "language model, others inside it.",
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
Tokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="In place of --keep: a count for each image or clip."),
]
Methods = Annotated[
    list[str],
    typer.Option("--method", help="A name that `lftr methods` lists; as many as wanted."),
]
Keeps = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="A ratio (1/16, 6.25%); as many as wanted. Without this and --tokens, 1/4 and 1/16.",
    ),
]
Counts = Annotated[
    list[int] | None,
    typer.Option(
        "--tokens", min=1, help="A count for each image or clip; as many as wanted, beside --keep."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="name=value for the method; may be given several times."),
]
Positions = Annotated[
    str | None,
    typer.Option(
        "--positions",
        callback=_known_positions,
        help="original (kept tokens stay where they were) or compact (renumbered); by default "
        "what suits the model.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Merge tokens inside the vision encoder too: tome:r=8, folder:keep=1/3 (LLaVA-like).",
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        help="Rows with tokens merged inside the vision encoder too: tome:r=8, folder:keep=1/3; "
        "as many as wanted.",
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
    typer.Option("--fps", help="Frames of each second of a clip; with --frames, at most so many."),
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
    typer.Option("--text-tower", help="CLIP that gives text embeddings to methods that want them."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Picture = Annotated[Path, typer.Option("-o", "--out", help="Where the picture is written.")]


def needs_tower(methods: Iterable[Method | LayerMethod]) -> bool:
    """Whether any of some methods asks for text in CLIP's space."""
    from ..methods.base import Method

    before = [method for method in methods if isinstance(method, Method)]
    return any("text_embeds" in names for method in before for names in method.evidence)


def refuse(given: Mapping[str, object], where: str) -> None:
    """Refuse an option that was given and would go unheard.

    Parameters
    ----------
    given : mapping
        The values of options by name; None, False and nothing in a list are not given.
    where : str
        As in "no such option beside --preset".

    Raises
    ------
    ArgumentError
        Naming the first of them.
    """
    for name, value in given.items():
        if value is not None and value is not False and value != []:  # 0 was given
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            raise ArgumentError.of(name, shown, f"no such option {where}")
