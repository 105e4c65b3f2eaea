"""Reports of a run: one page that anyone can open, without a network.

Needs the extra ``report`` (matplotlib and jinja2).
"""

from __future__ import annotations

from ...values.errors import MissingExtraError

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise MissingExtraError.of(error.name or "matplotlib", "report") from None

from .page import write_report

__all__ = ["write_report"]
