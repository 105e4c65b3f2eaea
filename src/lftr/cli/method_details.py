"""``lftr methods NAME``: one method in full, and how it is spelled."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import types
import typing
from collections.abc import Sequence
from typing import Any

from ..methods.inside import LayerMethod
from ..methods.inside.base import READS
from ..options.calls import spell
from ..options.checks import fields_of, hints_of, rules_of
from ..options.plain import classes_of, kind_of, name_of
from ..values.evidence import FIELDS
from .terminal import Table, say

_REQUIRED = inspect.Parameter.empty
_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_PLACES = {
    False: "before the language model",
    True: "inside the language model, at the layers of its schedule",
}


def details(method: Any) -> dict[str, Any]:
    """Return what `print_details` shows, as plain values."""
    cls, inside = type(method), isinstance(method, LayerMethod)
    options = _options(method)
    if inside:
        needs = [READS[method.reads]]
        needs += ["states through attention and MLP"] if method.follows else []
    else:
        needs = [" or ".join(map(_need, names)) for names in method.evidence]
    changed = next((one for one in options if one["default"] not in ("required", "None")), None)
    spelled, budget = str(method), "" if inside else " --keep 1/16"
    command = f'lftr run photo.png "question" --method {shlex.quote(spelled)}{budget}'
    arguments = "" if inside else ", keep=1/16"
    lines = [f'lftr.reduce(model, "{spelled}"{arguments})']
    if changed is not None and spelled == method.name:  # no option is stated already
        value = changed["default"]
        command += f" --option {shlex.quote(changed['name'] + '=' + value.strip(chr(39)))}"
        made = f"lftr.methods.{cls.__name__}({changed['name']}={_in_python(value)})"
        lines.append(f"lftr.reduce(model, {made}{arguments})")
    return {
        "name": name_of(cls),
        "acts": _PLACES[inside],
        "description": _description(cls),
        "source": "" if method.source is None else str(method.source),
        "links": [] if method.source is None else [*filter(None, _links(method.source))],
        "options": options,
        "evidence": needs or ["none beyond the tokens and their layout"],
        "example": spelled,
        "command": command,
        "python": lines,
    }


def print_details(method: Any) -> None:
    """Print one method: what it does, its source, its options, its evidence, its spellings."""
    page = details(method)
    say(page["name"], "", page["description"], "", f"acts: {page['acts']}")
    if page["source"]:
        say(f"source: {', '.join([page['source'], *page['links']])}")
    for need in page["evidence"]:
        say(f"looks at: {need}")
    if page["options"]:
        table = Table(["option", "type", "default", "allowed", "what it does"])
        for one in page["options"]:
            table.add(*(one[key] for key in ("name", "type", "default", "allowed", "description")))
        table.print()
    say(f"command line: {page['command']}", *(f"Python: {line}" for line in page["python"]))


def _options(method: Any) -> list[dict[str, str]]:
    cls = type(method)
    hints, rules = hints_of(cls), rules_of(cls)
    described = {name: text for base in reversed(cls.__mro__) for name, text in _documented(base)}
    return [
        {
            "name": name,
            "type": _type(hints.get(name, str)),
            "default": "required"
            if parameter.default is _REQUIRED
            else spell(_default(cls, name, parameter.default)),
            "allowed": rules[name].allowed if name in rules else "",
            "description": described.get(name, ""),
        }
        for name, parameter in inspect.signature(cls).parameters.items()
    ]


def _default(cls: type, name: str, default: Any) -> Any:
    """Return an option's default; if the class has a factory for it, what that makes."""
    fields = {field.name: field for field in fields_of(cls)}
    factory = fields[name].default_factory if name in fields else dataclasses.MISSING
    return default if factory is dataclasses.MISSING else factory()


def _type(hint: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, dataclasses.InitVar):
        return _type(hint.type)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return "word"
    if origin in (typing.Union, types.UnionType):
        words = [_type(one) for one in arguments if one is not types.NoneType]
        return " or ".join(dict.fromkeys(words + ["None"] * (types.NoneType in arguments)))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"several, each a {_type(arguments[0])}"
    if not isinstance(hint, type):
        return str(hint)
    return _KINDS.get(hint) or kind_of(hint) or hint.__name__


def _need(name: str) -> str:
    return f"{FIELDS[name].meaning} ({name})"


def _links(source: Any) -> tuple[str, str, str]:
    return source.url, source.code, source.note


def _in_python(default: str) -> str:
    """Return a default as Python code, with the module before the names of schedules."""
    schedules = "|".join(classes_of("schedule"))
    return re.sub(rf"\b(?=(?:{schedules})\()", "lftr.schedules.", default)


def _description(cls: type) -> str:
    """Return the docstring up to its first section, a line for each paragraph."""
    text = re.split(r"\n\n\w+\n-+\n", inspect.getdoc(cls) or "", maxsplit=1)[0]
    paragraphs = (" ".join(one.split()) for one in text.split("\n\n"))
    return "\n".join(paragraphs).replace("``", "").replace("`", "")


def _documented(cls: type) -> list[tuple[str, str]]:
    """Return the names and texts under Parameters in a class's own docstring."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    parts = re.split(r"(?:^|\n\n)(\w+)\n-+\n", text)
    section = dict(zip(parts[1::2], parts[2::2], strict=True)).get("Parameters", "")
    options: list[tuple[str, str]] = []
    for head, body in re.findall(r"^(\S.*?) :.*\n((?:(?:[ ]+.*)?\n?)*)", section, re.MULTILINE):
        words = " ".join(body.split()).replace("``", "").replace("`", "")
        options += [(name.strip(), words) for name in head.split(",")]
    return options
