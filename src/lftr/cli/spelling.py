"""Schedules as the command line spells them, which is as Python prints them."""

from __future__ import annotations

import ast
from typing import Any

from ..errors import ArgumentError
from ..methods.plain import from_plain


def parse_schedule(name: str, text: str) -> object:
    """Read ``Step(layer=2, keep=0.5)``, or another schedule with its options.

    Raises
    ------
    ArgumentError
        If it is no such spelling (the message names the option), or no such schedule.
    """
    try:
        return from_plain(_plain(ast.parse(text, mode="eval").body))
    except (SyntaxError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        allowed = "a schedule with its options, such as Step(layer=2, keep=0.5)"
        raise ArgumentError.of(name, text, allowed) from None


def _plain(node: ast.expr) -> Any:
    """Return a schedule as a plain value; a number or a list as it is."""
    if not isinstance(node, ast.Call):
        value = ast.literal_eval(node)
        return list(value) if isinstance(value, tuple) else value
    if node.args or not isinstance(node.func, ast.Name):
        raise ValueError("options have names")
    options = {str(option.arg): _plain(option.value) for option in node.keywords}
    return {"schedule": node.func.id, "options": options}
