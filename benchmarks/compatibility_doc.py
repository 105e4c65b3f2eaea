"""Write docs/compatibility.md: every model type of transformers, and what of lftr works on it.

    python benchmarks/compatibility_doc.py            # asks every tiny model of tests/zoo
    python benchmarks/compatibility_doc.py --seen     # notes which types this release has, and ends

Each figure is asked of the code, on the tiny random models of the real architectures that the tests
use; `results/compatibility.json` holds which releases have which types (run with ``--seen`` under
each release that pyproject.toml allows; `scripts/test-transformers` installs them).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lftr.hosts.transformers.encoder.encode import choose_evidence
from lftr.hosts.transformers.families import Family, family_of
from lftr.hosts.transformers.families.general import General
from lftr.hosts.transformers.families.refused import REFUSED
from lftr.hosts.transformers.layers.host import LayerHost
from lftr.hosts.vllm import ARCHITECTURES
from lftr.methods import StaticExit
from lftr.methods.inside.schedules import Exit
from lftr.values.errors import LftrError, MissingEvidenceError
from lftr.values.report import Report

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "compatibility.md"
RESULTS = HERE / "results" / "compatibility.json"
BEFORE = {
    "prefill": "yes",
    "qformer": "yes (Q-Former)",
    "cross_attention": "yes (cross-attention)",
    "diffusion": "yes (diffusion)",
}
EVIDENCE = {
    "attention": ("cls_attention", "attention_received"),
    "keys": ("keys",),
    "encoder features": ("encoder_features",),
}
SERVED = {one.model_type for one in ARCHITECTURES.values()}
HEAD = """# Compatibility

Which models lftr works on, and how far. `lftr verify --model ID` proves the same on your own model,
weights and versions ([verify.md](verify.md)).

This page is written by `python benchmarks/compatibility_doc.py`, which asks the code about a tiny
random-weight model of every architecture; the tests run on the same models. No checkpoint was
downloaded for it.
"""


def types() -> list[str]:
    """Return the model types that AutoModelForImageTextToText of this release loads."""
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def seen() -> dict[str, list[str]]:
    """Return the types of each release, this one included, and note them."""
    held: dict[str, list[str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    held[transformers.__version__] = types()
    held = dict(sorted(held.items(), key=lambda item: [int(x) for x in item[0].split(".")]))
    RESULTS.write_text(json.dumps(held, indent=1) + "\n")
    return held


def inside(model: Any, family: Family) -> str:
    """Return from which decoder layer on tokens can be dropped inside, or why not."""
    try:
        first = max(1, family.first_layer_to_reduce(model))
        LayerHost(model, family, (StaticExit(Exit(first)),), Report())
    except LftrError as error:
        return "no: " + str(error).split(":")[0].split(";")[0]
    return f"from layer {first}"


def evidence(model: Any, family: Family) -> str:
    """Return what methods can be shown beside the features and the prompt's text."""
    if family.kind != "prefill":
        return "features"
    found = []
    for label, names in EVIDENCE.items():
        try:
            choose_evidence(family, model, (names,))
        except MissingEvidenceError:
            continue
        found.append(label)
    return ", ".join(found) or "features"


def first_release(model_type: str, releases: dict[str, list[str]], fault: Any = None) -> str:
    """Return the first release that has a type, and not the fault that makes it unusable."""
    for release, known in releases.items():
        major, minor, _ = map(int, release.split("."))
        if model_type in known and (fault is None or not fault.on((major, minor))):
            return release
    raise LookupError(f"no release has {model_type} without a fault")


def rows(releases: dict[str, list[str]]) -> list[str]:
    """Return a row for each hosted type that this release has."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from zoo import BROKEN, DIFFUSION, FAMILIES, UNUSABLE, VIDEOS

    models: dict[str, Any] = {}
    for entry in (*FAMILIES.values(), DIFFUSION):
        models.setdefault(entry.model().config.model_type, entry)
    broken = {entry.model().config.model_type for entry in BROKEN.values()}
    by_class = {type(entry.model()).__name__: model_type for model_type, entry in models.items()}
    found = []
    for model_type in types():
        if model_type in REFUSED:
            continue
        name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]
        name = name if isinstance(name, str) else name[0]
        since = first_release(model_type, releases, UNUSABLE.get(model_type))
        if model_type in broken:
            found.append(
                f"| `{model_type}` | broken in transformers {transformers.__version__} itself; "
                f"tested on {since} | | | | | {since} |"
            )
            continue
        like = model_type if model_type in models else by_class.get(name, "")
        if not like:
            found.append(f"| `{model_type}` | not tested | | | | | {since} |")
            continue
        entry = models[like]
        model = entry.model()
        family = family_of(model)
        clips = "yes" if entry.name in VIDEOS else "no"
        host = BEFORE[family.kind]
        host += ", general host" if type(family) is General else ""
        host += "" if like == model_type else f" (as `{like}`, its class)"
        vllm = "yes" if model_type in SERVED else "no"
        found.append(
            f"| `{model_type}` | {host} | {inside(model, family)} | {clips} | "
            f"{evidence(model, family)} | {vllm} | {since} |"
        )
    return found


def main() -> None:
    """Write the page."""
    releases = seen()
    if "--seen" in sys.argv:
        return
    lines = rows(releases)
    hosted = [line for line in lines if "| not tested |" not in line]
    newest = transformers.__version__
    refused = [f"| `{name}` | {REFUSED[name]} |" for name in types() if name in REFUSED]
    text = [
        HEAD,
        f"Of the {len(types())} model types that `AutoModelForImageTextToText` of transformers "
        f"{newest} loads, {len(hosted)} are hosted and {len(refused)} are refused with a reason.",
        "",
        f"Tests of the host run on transformers {newest} (all types) and on {min(releases)} (those "
        "that it has), and in part on the releases between: "
        f"{', '.join(r for r in releases if r not in (newest, min(releases)))}. A newer release "
        "than the bound in `pyproject.toml` is not installed with lftr.",
        "",
        "## Hosted",
        "",
        "*Before*: methods that decide before the language model. *Inside*: methods inside it, and "
        "the first decoder layer at which they may drop tokens. *Videos*: reduced as videos. "
        "*Evidence*: what methods can read beside the features and the prompt's text. *vLLM*: "
        "`lftr serve` reduces its images, and of some its videos "
        "([Serving](serving.md#what-is-served)). *Since*: the first release, of those tested, that "
        "has the type and can run it.",
        "",
        "| model type | before | inside | videos | evidence | vLLM | since |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
        "A type that is not in this table and has placeholders, `get_image_features` and "
        "`mm_encoder_outputs` (code from the hub too) is taken by the general host; its reports "
        "say that no test has run on it. For all other code: `lftr.reduce_module`.",
        "",
        "## Refused",
        "",
        "| model type | why |",
        "|---|---|",
        *refused,
        "",
    ]
    TARGET.write_text("\n".join(text), encoding="utf-8")
    print(f"{len(hosted)} hosted, {len(refused)} refused of {len(types())}")


if __name__ == "__main__":
    main()
