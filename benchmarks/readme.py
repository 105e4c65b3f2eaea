"""Write the README's table and picture: ``python benchmarks/readme.py``.

Runs ``lftr demo --markdown``; further arguments go on to it. Takes two minutes on two CPU cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- demo: begin -->\n", "<!-- demo: end -->"


def main() -> None:
    """Replace what stands between the marks."""
    command = [sys.executable, "-m", "lftr", "demo", "--markdown", "--out", "docs/images"]
    table = subprocess.run(
        [*command, *sys.argv[1:]], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    page = ROOT / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}{table.strip()}\n{END}{after}")


if __name__ == "__main__":
    main()
