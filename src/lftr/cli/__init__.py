"""The command line: ``lftr run | show | demo | eval | tune | bench | report | serve | methods``.

Nothing of it is imported by the library. Typer and rich come with the extra ``cli``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point ``lftr``."""
    try:
        import rich  # noqa: F401  (verbs need it; what it needs itself comes later)

        from ..app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print(f"{error.name} is not installed: pip install typer rich", file=sys.stderr)
        raise SystemExit(1) from None
    app(prog_name="lftr")


__all__ = ["main"]
