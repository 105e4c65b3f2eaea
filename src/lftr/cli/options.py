"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ArgumentError
from ..methods.base import Method
from ..methods.inside import LayerMethod
from ..reduce import POSITIONS


def _known_positions(value: str | None) -> str | None:
    """Refuse a word that no model takes before any model is loaded."""
    if value not in (None, *POSITIONS):
        raise ArgumentError.of("--positions", value, " or ".join(POSITIONS))
    return value


Model = Annotated[
    str | None,
    typer.Option("--model", help="Hugging Face id or folder; by default the bundled model."),
]
MethodName = Annotated[str, typer.Option("--method", help="A name that `lftr methods` lists.")]
Keep = Annotated[
    str, typer.Option("--keep", help="A ratio (1/16, 0.25) or a count for each image (64).")
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
    before = [method for method in methods if isinstance(method, Method)]
    return any("text_embeds" in names for method in before for names in method.evidence)
