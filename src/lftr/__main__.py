"""The command line: ``python -m lftr``, and the entry point ``lftr``.

Typer and rich come with the extra ``cli``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        import rich  # noqa: F401  (verbs need it; what it needs itself comes later)

        from .app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print(f"{error.name} is not installed: pip install typer rich", file=sys.stderr)
        raise SystemExit(1) from None
    app(prog_name="lftr")


if __name__ == "__main__":
    main()
