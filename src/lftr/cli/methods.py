"""``lftr methods``: every method with its options and what it looks at."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Annotated, Any

import typer

from .options import Json


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="One method in full: a name, or a composition such as Merge."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every method: what it does, its options with defaults and ranges, what it looks at.

    With a name, show that method: its options with their types, how it is spelled.
    """
    from ..methods import get_method, list_methods
    from ..methods.lookup import example_of
    from .method_details import details, print_details
    from .terminal import Table, print_json

    if name is not None:
        method = get_method(example_of(name))
        print_json(details(method)) if as_json else print_details(method)
        return

    every = [get_method(name) for name in list_methods()]
    if as_json:
        print_json([describe(method) for method in every])
        return
    table = Table(
        ["method", "acts", "what it does", "options (--option name=value)", "looks at", "source"],
        caption="Acts: before the language model, or inside it, at the layers of its schedule. "
        "In brackets: the words or numbers that an option may be. "
        "Looks at: what the method needs beyond the tokens; 'or' separates alternatives.",
    )
    for method in every:
        one = describe(method)
        allowed = {name: f" ({text})" for name, text in one["allowed"].items()}
        options = [
            f"{name}={value}{allowed.get(name, '')}" for name, value in one["options"].items()
        ]
        needs = [" or ".join(names) for names in one["evidence"]]
        table.add(
            one["name"],
            one["acts"],
            one["summary"],
            "\n".join(options),
            "\n".join(needs) or "tokens",
            str(method.source or ""),
        )
    table.print()


def describe(method: Any) -> dict[str, Any]:
    """Return a method's name, where it acts, summary, options and evidence as plain values.

    What a method inside the language model reads is its evidence; its schedule is an option.
    ``allowed`` has an entry for each option whose type declares words or a range, ``source`` one
    for each part of a `Source` that is stated; it is empty where a method states none.
    """
    from ..methods.inside import LayerMethod
    from ..methods.inside.base import READS
    from ..methods.lookup import KINDS
    from ..options.checks import rules_of

    summary = (inspect.getdoc(method) or "").strip().partition("\n\n")[0]
    fields: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(method):
        fields = dataclasses.fields(method)
    needs = ((READS[method.reads],),) if isinstance(method, LayerMethod) else method.evidence
    stated = {} if method.source is None else dataclasses.asdict(method.source)
    return {
        "name": method.name,
        "acts": next(where for where, kind in KINDS.items() if isinstance(method, kind)),
        "summary": " ".join(summary.split()).replace("``", ""),
        "options": {
            field.name: _plain(getattr(method, field.name)) for field in fields if field.init
        },
        "allowed": {name: rule.allowed for name, rule in rules_of(type(method)).items()},
        "evidence": [list(names) for names in needs],
        "source": {k: v for k, v in stated.items() if v},
    }


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)  # JSON has no infinity
    return list(value) if isinstance(value, tuple) else repr(value)
