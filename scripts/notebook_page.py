"""A hook of mkdocs: the notebook of the docs as a page of the site, its code without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add ``notebook.md``, made of the cells of ``start.ipynb``."""
    notebook = json.loads((Path(config["docs_dir"]) / "start.ipynb").read_text(encoding="utf-8"))
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in notebook["cells"]]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells]
    link = "[Download the notebook](start.ipynb) to run it and see its outputs."
    files.append(File.generated(config, "notebook.md", content="\n\n".join([*parts, link])))
    return files
