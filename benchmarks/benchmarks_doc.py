"""Write docs/benchmarks.md from the measured results; measures nothing.

python benchmarks/benchmarks_doc.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _accuracy
import claims
import inside
import overhead
import peers
import prefill
import weights_cost

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "benchmarks.md"


def read(name: str) -> dict[str, Any]:
    """Return a results file."""
    found: dict[str, Any] = json.loads((HERE / "results" / f"{name}.json").read_text())
    return found


def made(content: dict[str, Any]) -> str:
    """Say which command made the figures, and on what."""
    on = content["machine"]
    return (
        f"`{content['command']}`, {on['cpu']}, {on['cores']} cores, torch {on['torch']}, "
        f"transformers {on['transformers']}."
    )


def against_first(content: dict[str, Any]) -> list[str]:
    """Return a table, and by how much its first row leads each other."""
    figures = content["figures"]
    return [made(content), "", _accuracy.report(figures), "", _accuracy.leads(figures), ""]


def weights_of_slots() -> list[str]:
    """Return the section about weights, and write its summary into docs/weights.md."""
    cost, decided, parts, short = read("weights_cost"), read("peers"), [], []
    distance = read("weights_distance")
    for suite, name in (("scenes", "images"), ("clips", "videos")):
        final, search = (read(f"weights_{suite}_{split}") for split in ("test", "validation"))
        parts += [f"### {name.capitalize()}", "", made(final), ""]
        parts += [_accuracy.report(final["figures"]), ""]
        parts += [f"The search on the validation split: {made(search)}", ""]
        parts += [_accuracy.report(search["figures"]), ""]
        short += [f"{name.capitalize()}:", "", _accuracy.report(chosen(final["figures"])), ""]
        short += [f"`{final['command']}`", ""]
    begin, end = "<!-- weights: begin -->", "<!-- weights: end -->"
    page = TARGET.parent / "weights.md"
    before, _, rest = page.read_text().partition(begin)
    page.write_text("\n".join([before + begin, *short, end + rest.partition(end)[2]]))
    return [
        "## Weights of slots",
        "",
        "What it brings that a merged slot counts as many tokens ([Weights](weights.md)). Pruning "
        "methods are as published, with their published defaults, then with what they drop merged; "
        "methods that merge are without weights, then with them.",
        "",
        *parts,
        "### Weights that grow with distance",
        "",
        "RESTORE (arXiv 2606.01711) adds a term for the distance between query and key beside the "
        "logarithm of the weight. On the bundled model it lowers accuracy, so it is no option of "
        "lftr:",
        "",
        made(distance),
        "",
        _accuracy.report(distance["figures"]),
        "",
        "### Cost",
        "",
        made(cost),
        "",
        weights_cost.report(cost["figures"]),
        "",
        "Below, the decisions of other methods, in processor time:",
        "",
        made(decided),
        "",
        peers.report(decided["figures"]),
        "",
    ]


def chosen(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures with the rows that tell most."""
    labels = [row["label"] for row in figures["rows"][1:]]
    some = {one for one in labels if one.startswith("lftr")}
    some |= {label for label in labels if "divprune" in label or label in ("tome", "tome, weights")}
    full, *rows = figures["rows"]
    return figures | {"rows": [full, *(row for row in rows if row["label"] in some)]}


def main() -> None:
    """Write the page."""
    times, defaults, search = read("prefill"), read("lftr_defaults"), read("coverage_search")
    measured, within, final = read("claims"), read("inside"), read("coverage_search_test")
    clips, compared, small = read("lftr_video"), read("lftr_video_test"), read("overhead")
    page = [
        "# Benchmarks",
        "",
        "<!-- written by python benchmarks/benchmarks_doc.py; edit that, not this -->",
        "",
        "Shared machines are noisy: times are medians with quartiles, ratios are paired within one "
        "run. The bundled model tells methods apart on its own suite and predicts nothing about "
        "other models.",
        "",
        "All sections but those on the claims and on weights of slots were measured before slots "
        'had weights: there `lftr` is its former default, `Lftr(space="encoder", candidates=1, '
        'leftovers="drop")`, which drops tokens. vLLM still uses that default with '
        "`--weights none`.",
        "",
        "## The claims of LFTR's abstract",
        "",
        "Up to 16x fewer tokens at maintained accuracy; complementary to post-training "
        "quantization and to compression of the vision encoder. Quantization is torchao's int8 of "
        "every linear layer, on this CPU: of weights alone, whose use is memory, and of "
        "activations too. In the encoder tokens merge as ToMe does, in every layer, or as FOLDER "
        "does, in the last layer that the model reads. Time is that of one question, from the "
        "image to the first token.",
        "",
        made(measured),
        "",
        claims.report(measured["figures"]),
        "",
        *weights_of_slots(),
        "## A reduced prefill against the physical limit",
        "",
        "The limit is the plain model on a prompt that is as short from the start. *LM / short* is "
        "the language model's part alone, *reduced / short* has the method and the bookkeeping in "
        "it. The encoder's output is given in every case. Targets: at most 1.10 on both models, "
        "LFTR at most 2 ms, bookkeeping at most 1 ms, both at most 2 % of the encoder.",
        "",
        made(times),
        "",
        prefill.report(times["figures"]),
        "",
        NOTES,
        "",
        "## Pruning inside the language model, against the kept tokens alone",
        "",
        "*Alone* is the plain layers at the schedule's lengths, on the first tokens, without "
        "selection or hooks: same layers, same lengths. Targets: pruned over alone at most 1.15, "
        "the last row's score at most 3 % of one layer.",
        "",
        made(within),
        "",
        inside.report(within["figures"]),
        "",
        "## LFTR's defaults",
        "",
        "Options that the published descriptions leave open, changed one at a time around the "
        "*former default*, without weights of slots. Today's defaults of `space`, `candidates`, "
        "`leftovers` and `rounds` were chosen by the searches under "
        "[Weights of slots](#weights-of-slots), those for videos by [LFTR on "
        "clips](#lftr-on-clips) and the same searches.",
        "",
        made(defaults),
        "",
        _accuracy.report(defaults["figures"]),
        "",
        "## The search for our own rule",
        "",
        "`coverage` was chosen on the validation split among some fifty settings, all on the same "
        "questions, so its figures there are too high; the test split was used once, after the "
        "choice. It spends half of its budget on tokens that are similar to the prompt in CLIP's "
        "space, and the other half on covering the image; without a text tower, all of it on "
        "covering the image.",
        "",
        made(search),
        "",
        _accuracy.report(search["figures"]),
        "",
        "Once on the test split, and by how many points of accuracy the first row leads each other "
        "(paired over the questions):",
        "",
        *against_first(final),
        "## LFTR on clips",
        "",
        "Time and space on the validation split of the clips, with the bundled clip model, which "
        "never saw a clip with tokens missing: *time share* is how much of the reduction is in "
        "time. All in space is the default by its mean; at 8x and 16x a half or more in time is "
        "level with it, at 4x behind (what merged with an earlier frame, the model takes for gone: "
        "colours that change and objects that vanish suffer). The *default* of this table is a "
        "time share of 0.5, as it was when the table was made.",
        "",
        made(clips),
        "",
        _accuracy.report(clips["figures"]),
        "",
        "Once on the test split, when that was fixed: every method at equal tokens, and by how "
        "many points LFTR leads each other (paired over the questions). Those that select by "
        "features alone, with tokens in every frame, answer best; whole frames, or what has "
        "changed alone, answer worst.",
        "",
        *against_first(compared),
        "## Checks and start-up",
        "",
        "Every forward of a reduced model is checked (design.md, *What transformers calls "
        "things*). Timed here are the checks of arguments, of the language model's arguments and "
        "of the cache's lengths; those of methods inside the language model are not.",
        "",
        made(small),
        "",
        overhead.report(small["figures"]),
        "",
    ]
    TARGET.write_text("\n".join(page))


NOTES = (
    "On real widths all targets hold. On the bundled model the language model's part is at the "
    "limit, but with the method and the bookkeeping a reduced prefill misses 1.10: its language "
    "model is so small (a short prompt takes some 15 ms) that two milliseconds are more than a "
    "tenth of it."
)

if __name__ == "__main__":
    main()
