"""``lftr web``: a page in the browser to try methods on the bundled model."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...cli import options
from ...values.errors import ArgumentError

_SCENES = 12  # to pick from on the page


def web(
    method: options.MethodBefore = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; by default this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="By default the first free from 7860."),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Serve a page: an image, a question, and the answers from all and from some of its tokens.

    Uses the small model inside the package. There is no password.
    """
    from ...cli.loading import load_model
    from ...cli.terminal import say, show_spinner
    from ...methods import get_method, list_methods
    from ...methods.base import Method
    from .. import suites
    from ..web.comparison import compare_answers
    from ..web.page import build
    from ..web.server import serve

    chosen, names = get_method(method or "lftr"), list_methods("before")
    if not isinstance(chosen, Method):
        allowed = "one that `lftr methods` lists as acting before the model, or made of such"
        raise ArgumentError.of("--method", str(chosen), allowed)
    loaded = load_model(None, device, dtype, [chosen, *map(get_method, names)])
    ask = partial(compare_answers, loaded.model, loaded.processor, loaded.text_tower)
    scenes = list(suites.load("scenes", split="test", n=_SCENES, seed=0))
    with show_spinner("warming up"):
        ask(scenes[0].image, scenes[0].question, str(chosen), "1/16")
    page = build(ask, scenes, str(chosen))
    serve(page, host, port, lambda url: say(f"serving, until Ctrl+C: {url}"))
