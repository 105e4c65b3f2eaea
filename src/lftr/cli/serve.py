"""``lftr serve``: vLLM's server, answering from a fraction of the visual tokens."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..values.errors import ArgumentError
from . import options

if TYPE_CHECKING:
    from ..hosts.vllm.server import ServerPlan
    from ..presets import Preset


_AGAIN = "each new text encodes the item again"


def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Hugging Face id or folder; by default the bundled model."),
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option("--preset", help="File with method and budget, as `lftr tune` writes it."),
    ] = None,
    method: options.MethodBefore = None,
    keep: options.ServedKeep = None,
    tokens: options.Tokens = None,
    option: options.Options = None,
    positions: options.ServedPositions = None,
    weights: options.ServedWeights = None,
    guide: Annotated[
        str,
        typer.Option(
            "--guide",
            help="Which text guides methods that compare with one: last (all of the prompt's), or "
            "first (that up to the first answer after an image, so that later turns reuse it).",
        ),
    ] = "last",
    text_tower: Annotated[
        str | None,
        typer.Option(
            "--text-tower",
            help="The CLIP (id or folder) of the model's vision tower, whose text side these "
            "methods compare with; by default the language model's embeddings.",
        ),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Print the command that would start the server.")
    ] = False,
) -> None:
    """Serve a model with vLLM; every other option goes on to vLLM's server.

    Method and budget are those of requests that ask for none. A request can ask for others, with
    the stock OpenAI client:
    extra_body={"mm_processor_kwargs": {"lftr": {"keep": 0.25, "method": "divprune"}}}.
    """
    from ..hosts.vllm.server import check_version, plan, split_model
    from ..hosts.vllm.start_options import FAILURES

    arguments = {"--method": method, "--keep": keep, "--tokens": tokens, "--option": option}
    stated = {"positions": positions, "weights": weights, "text_tower": text_tower}
    started = {name: value for name, value in stated.items() if value is not None}
    rest = list(context.args)
    if model is not None and model.startswith("-"):  # an option of vLLM's comes first
        model, rest = split_model([model, *rest])
    name = _bundled_path() if model is None else str(options.check_model_name("MODEL", model))
    setting = _setting(arguments) if preset is None else _preset(preset, arguments)
    build = check_version()
    planned = plan(name, _config("MODEL", name), setting, rest, started, guide)
    if text_tower not in (None, "bundled"):
        _check_clip(text_tower)
    command = planned.command
    _say(planned, *build)
    if dry:
        typer.echo(shlex.join(command))
        return
    os.environ.pop(FAILURES, None)  # that of a server which started this one
    os.execv(command[0], command)


def _setting(arguments: dict[str, Any]) -> dict[str, Any]:
    from ..methods.base import Method
    from ..options.calls import is_call, read_call
    from ..options.plain import to_plain
    from ..options.spelling import parse_options
    from ..values.budget import as_arguments
    from .parsing import parse_budget, parse_method

    name, spelled = arguments["--method"] or "lftr", arguments["--option"] or []
    chosen = parse_method(name, spelled)
    plain: dict[str, Any] = {"method": chosen.name}
    named = set(parse_options(type(chosen), spelled))
    named |= read_call("--method", name, "method")["options"].keys() if is_call(name) else set()
    if not chosen.name:
        plain = to_plain(chosen)
    elif named and isinstance(chosen, Method):  # others are as the server has them
        options_of = to_plain(chosen)["options"]
        plain["options"] = {key: value for key, value in options_of.items() if key in named}
    budget = parse_budget(arguments["--keep"], arguments["--tokens"])
    return {**plain, **as_arguments(1 / 16 if budget is None else budget)}


def _preset(path: Path, arguments: dict[str, Any]) -> Preset:
    from ..presets import Preset

    options.refuse(arguments, "beside --preset")
    return Preset.load(path)


def _bundled_path() -> str:
    from .. import bundled

    return str(bundled.path())


def _check_clip(name: str) -> None:
    kind = _config("--text-tower", name).model_type
    if kind != "clip":
        raise ArgumentError.of("--text-tower", name, f"a CLIP; it is a model of type {kind!r}")


def _config(option: str, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            known = "a model that transformers itself has, not one with code of its own (auto_map)"
            raise ArgumentError.of(option, name, known) from None
        reason = str(error).strip().splitlines()[0]
        allowed = f"a model of Hugging Face or a folder ({reason})"
        raise ArgumentError.of(option, name, allowed) from None


def _say(planned: ServerPlan, distribution: str, version: str) -> None:
    """Tell the operator what will be served, before the many lines of vLLM."""
    from .terminal import remark

    served = planned.architecture
    compact = planned.started.positions == "compact"
    positions = "renumbered" if compact else "as in the full prompt"
    weights = f"{planned.started.weights:g}" if planned.started.weights else "none"
    seen = "images and videos" if served.videos else "images"
    text = "all text" if planned.setting.guide == "last" else "the text up to the first answer"
    guided = f"; guided by {text} of the prompt: {_AGAIN}" if planned.guided else ""
    official = distribution == "vllm"
    build = "" if official else f" ({distribution}: built by others than the vLLM project)"
    remark(
        f"vLLM {version}{build}: {planned.model}, {served.stock} as {served.name}",
        f"reduced before the language model: {seen}; positions {positions}; "
        f"weights of slots {weights}",
        f"{seen}: {planned.setting}, unless a request asks for another method or keep{guided}",
        'a request asks beside "messages": "mm_processor_kwargs": {"lftr": {"keep": 0.25, '
        f'"method": "divprune"}}}}; methods: {", ".join(planned.fitting)}',
        f"figures: /metrics on port {planned.port}, names that begin with lftr:",
        *([f"note: {planned.note}"] if planned.note else []),
    )
