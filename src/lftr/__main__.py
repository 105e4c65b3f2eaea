"""``python -m lftr``."""

from .cli import main

main()
