"""Write docs/methods.md (one row a method, from the registry) and docs/results.md (measurements).

    python benchmarks/methods_doc.py

Reads what ``benchmarks/methods_accuracy.py`` and ``benchmarks/inside_accuracy.py`` (accuracy on the
bundled suite's test split), ``benchmarks/methods.py`` (time), ``benchmarks/data/published.json``,
and of videos ``benchmarks/lftr_video.py --test`` and ``benchmarks/video_methods.py`` left; measures
nothing.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from _accuracy import RATIOS, percent
from _measure import table, where
from inside_accuracy import RESTING, UNTRAINED
from methods_accuracy import tuned

from lftr.methods import Method, get_method, list_methods
from lftr.methods.inside.base import READS
from lftr.methods.video.base import ClipMethod

HERE = Path(__file__).parent
CATALOGUE = HERE.parent / "docs" / "methods.md"
RESULTS = HERE.parent / "docs" / "results.md"
WRITTEN = "<!-- written by python benchmarks/methods_doc.py; edit that, not this -->"
CONTROLS = ("random", "uniform", "pool", "downsample")
TIMES = [f"{r}x" for r in RATIOS]
UNMEASURED = ["not measured"] * len(RATIOS)  # of a method that the run does not have


def read(name: str) -> Any:
    """Return a results file, or nothing if it was not made."""
    path = HERE / name
    return json.loads(path.read_text()) if path.exists() else {}


def described(method: Any) -> tuple[str, str]:
    """Return the first sentence of a method's docstring, and its source."""
    text = inspect.getdoc(type(method)) or ""
    summary = " ".join(text.split("\n\n")[0].split())
    return summary.rstrip("."), method.source.markdown()


def accuracies(name: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Return each label's relative accuracy at every ratio, and the run they come from."""
    content = read(f"results/{name}.json")
    if not content:
        return {}, {}
    figures = content["figures"]
    rows: dict[str, list[str]] = {}
    for one in figures["rows"][1:]:
        rows.setdefault(one["label"], []).append(percent(one["relative"]))
    return rows, content


def times() -> dict[str, str]:
    """Return each method's time at N=576, C=1024, K=64 on one CPU thread."""
    rows = read("results/methods.json").get("rows", [])
    wanted = [
        r
        for r in rows
        if r["B"] == 1 and r["N"] == 576 and r["K"] == 64 and "thread" in r["machine"]
    ]
    return {r["method"]: f"{r['ms']:.1f} ms ({r['ms'] / r['X @ X.T']:.2f})" for r in wanted}


def catalogue() -> list[str]:
    """Return the lines of the catalogue: what each method does, and where it comes from."""
    before = []
    for name in images():
        method = get_method(name)
        summary, source = described(method)
        needs = "; ".join(" or ".join(names) for names in method.evidence) or "features"
        control = "control: " if name in CONTROLS else ""
        before.append([f"`{name}`", control + summary, needs, source])
    clips = []
    for name in videos():
        summary, source = described(get_method(name))
        needs = ", ".join(names[0] for names in get_method(name).evidence) or "features"
        clips.append([f"`{name}`", summary, needs, source])
    layers = []
    for name in list_methods("inside"):
        method = get_method(name)
        summary, source = described(method)
        reads = READS[method.reads] + "; attention and MLP of the layer before" * method.follows
        layers.append([f"`{name}`", summary, reads, f"`{method.schedule}`", source])
    return [
        "# Methods",
        "",
        WRITTEN,
        "",
        "What each method does, which evidence it looks at, and where it comes from. How well each "
        "does at equal budgets is on a page of its own, [results](results.md); how to choose among "
        "them: [which method should I use?](choosing.md). `lftr methods` prints the options of "
        "each, and [the API reference](api_methods.md) explains them. Several kinds of evidence "
        "joined by *or*: the first that the model can give is used. A *control* is a simple rule "
        "that every other method must beat at the same number of tokens.",
        "",
        "## Before the language model",
        "",
        "These choose among the tokens that the vision encoder and the projector give, before the "
        "language model runs.",
        "",
        table(["method", "what it does", "looks at", "source"], escaped(before)),
        "",
        "## For videos",
        "",
        "A video is one item of `T` frames. These methods know frames; they take images too, as "
        "clips of one frame. Every method above takes videos as well: `lftr.methods.PerFrame` puts "
        "one on every frame, `lftr.methods.Adaptive` spreads the budget over the frames.",
        "",
        table(["method", "what it does", "looks at", "source"], escaped(clips)),
        "",
        "## Inside the language model",
        "",
        "Each drops visual tokens from some decoder layer on, or leaves them out of some layers. "
        "The schedule says how many tokens each layer has "
        "([inside the language model](inside.md)).",
        "",
        table(["method", "what it does", "reads", "schedule", "source"], escaped(layers)),
        "",
    ]


def results() -> list[str]:
    """Return the lines of the results: accuracy, time and memory of each method."""
    return [
        "# Results of the methods",
        "",
        WRITTEN,
        "",
        "Only `lftr`, `scorer`, `Merge(...)` and tuned methods before the language model were "
        "measured with [weights](weights.md), with which attention counts a merged token as many; "
        "all other methods are as published, where each token counts as one. The rows for videos "
        "and inside the language model were measured before there were weights: `lftr` drops "
        "tokens there, and `dycoke`, `holitom` and `prunevid` count as they did then. More with "
        "weights: [Benchmarks](benchmarks.md#weights-of-slots).",
        "",
        "Relative accuracy is in % of the full model's, with 95 % paired bootstrap intervals over "
        "the questions, on the bundled suite with the bundled model: it tells the methods apart on "
        "this model and predicts nothing about others. What each method does: "
        "[methods](methods.md).",
        "",
        *before_results(),
        *video_results(),
        *inside_results(),
    ]


def before_results() -> list[str]:
    """Return the results of the methods before the language model."""
    measured, run = accuracies("methods_accuracy_test")
    cost = times()
    published = read("data/published.json")["figures"]
    rows = [
        [
            f"`{name}`",
            cost.get(name, "-"),
            *measured.get(name, UNMEASURED),
            published.get(name, ""),
        ]
        for name in images()
    ]
    options = {f"{name}, tuned": changed(method) for name, method in tuned().items()}
    best = [
        [f"`{label.removesuffix(', tuned')}`", f"`{options[label]}`", *cells]
        for label, cells in measured.items()
        if label in options
    ]
    others = [
        [f"`{label}`", *cells]
        for label, cells in measured.items()
        if label not in options and label not in list_methods("before")
    ]
    return [
        "## Before the language model",
        "",
        "Published figures are their authors' (or a re-run's) on LLaVA-1.5-7B; nothing of that "
        "column was measured here. The first four rows are the controls. *Not measured* is a "
        "method that the run does not include, and *-* a time that was not taken.",
        "",
        made(run),
        "Time: `python benchmarks/methods.py`, N=576, C=1024, K=64, one CPU thread, decision and "
        "application; in brackets its ratio to a plain `X @ X.T` of the run. That of `lftr` is of "
        "its former default, which drops tokens; of today's: [cost](benchmarks.md#cost).",
        "",
        table(["method", "time (ratio)", *TIMES, "published, theirs"], escaped(rows)),
        "",
        "Published options fit published models. The same methods with the option that did best on "
        "120 questions of the validation split (`python benchmarks/options_search.py`: one option "
        "at a time, at 8x and 32x) and with weights of merged tokens; a method that is not here "
        "did best with its defaults:",
        "",
        table(["method", "option", *TIMES], best),
        "",
        "Compositions and other settings of the same run:",
        "",
        table(["setting", *TIMES], others),
        "",
    ]


def changed(method: Method) -> str:
    """Return the options that are not a method's defaults, as the command line spells them."""
    default = get_method(method.name)
    names = [field.name for field in fields(method)]  # type: ignore[arg-type]
    values = {name: getattr(method, name) for name in names}
    return ",".join(f"{n}={v}" for n, v in values.items() if v != getattr(default, n))


def video_results() -> list[str]:
    """Return the results of the methods for videos."""
    measured, run = accuracies("lftr_video_test")
    speed = read("results/video_methods.json").get("figures", {"times": [], "memory": []})
    cost = {
        row["method"]: f"{row['median_ms']:.1f} ms"
        for row in speed["times"]
        if abs(row["share"] - 1 / 16) < 1e-9
    }
    longest = {row["method"]: f"{row['mib']:.0f} MiB" for row in speed["memory"]}
    rows = []
    for name in videos():
        cells = measured.pop(name, UNMEASURED)
        rows.append([f"`{name}`", cost.get(name, "-"), longest.get(name, "-"), *cells])
    others = [
        "Other settings of the same run:",
        "",
        table(["setting", *TIMES], [[f"`{n}`", *cells] for n, cells in measured.items()]),
        "",
    ]
    return [
        "## For videos",
        "",
        made(run),
        "Time: `python benchmarks/video_methods.py`, 32 frames of 196 tokens, C=1024, at 16x, one "
        "CPU thread. Memory: what a decision takes over what it is given, 512 frames, C=256.",
        "",
        table(["method", "time", "memory", *TIMES], rows),
        "",
        *(others if measured else []),
    ]


def images() -> list[str]:
    """Return the methods before the language model that are not made for videos, controls first."""
    names = [n for n in list_methods("before") if not for_videos(n)]
    return sorted(names, key=lambda n: (n not in CONTROLS, n))


def videos() -> list[str]:
    """Return LFTR, which takes images too, and the methods made for videos."""
    return ["lftr", *(n for n in list_methods("before") if for_videos(n))]


def for_videos(name: str) -> bool:
    """Whether a method was made for videos."""
    return isinstance(get_method(name), ClipMethod)


def escaped(rows: list[list[str]]) -> list[list[str]]:
    """Return rows whose cells end no cell of a Markdown table."""
    return [[cell.replace("|", "\\|") for cell in row] for row in rows]


def inside_results() -> list[str]:
    """Return the results of the methods inside the language model."""
    content = read("results/inside_accuracy.json")
    measured: dict[str, dict[str, str]] = {}
    for one in content["figures"]["rows"][1:] if content else []:
        share = str(Fraction(one["keep"]).limit_denominator(100))
        measured.setdefault(one["label"], {})[share] = percent(one["relative"])
    shares = list(next(iter(measured.values()), {}))

    def row(name: str) -> list[str]:
        missing = "" if name in (UNTRAINED, *RESTING) else UNMEASURED[0]
        found = measured.get(name) or dict.fromkeys(shares, missing)
        return [f"`{name}`", *(found.get(share, "") for share in shares)]

    return [
        "## Inside the language model",
        "",
        "A budget is the average over the layers, as papers count it: a method that decides before "
        "the language model has so many tokens in every layer, one inside it all of them first and "
        "fewer later. *Not measured* is a method that the run does not include. Where a cell is "
        "empty, the layers that see everything exceed the budget "
        f"alone (the bundled model has {content['figures']['depth'] if content else '?'} layers), "
        "or the method takes none: `dyvte` exits where its gates say, `freeze` and `bypass` keep "
        "all tokens.",
        "",
        made(content),
        "",
        table(["method", *shares], [row(name) for name in list_methods("inside")]),
        "",
        "Methods before the language model, at the same average, of the same run:",
        "",
        table(["method", *shares], [row(n) for n in measured if n in list_methods("before")]),
        "",
    ]


def made(content: dict[str, Any]) -> str:
    """Say which command made the figures, and on what."""
    if not content:
        return ""
    figures = content["figures"]
    return (
        f"Accuracy: `{content['command']}`, {figures['questions']} questions of the "
        f"{figures['split']} split, full accuracy {percent(figures['rows'][0]['accuracy'])} %, "
        f"{where(content)}."
    )


def main() -> None:
    """Write both pages."""
    CATALOGUE.write_text("\n".join(catalogue()))
    RESULTS.write_text("\n".join(results()))


if __name__ == "__main__":
    main()
