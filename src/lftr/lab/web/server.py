"""Serve the page on a port of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from ...values.errors import ArgumentError

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # none to fetch
_MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]

_STYLE = "#table :is(td, th) { word-break: normal; overflow-wrap: normal }"


def serve(
    page: gr.Blocks,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a page until the process is interrupted, without any connection to other machines.

    Parameters
    ----------
    host : str
        The address to listen on; ``127.0.0.1`` is reachable from this machine only.
    port : int, optional
        By default the first free one from 7860.
    ready : callable
        Called with the address when the page is served.

    Raises
    ------
    ArgumentError
        If the port is not free.
    """
    with _without_analytics():
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                footer_links=[],
                css=_STYLE,
                theme=gr.themes.Base(font=_FONT, font_mono=_MONO),
            )
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise ArgumentError.of("port", port, f"a free port ({reason})") from None
        try:
            ready(str(page.local_url))
            page.block_thread()
        finally:
            page.close(verbose=False)


@contextmanager
def _without_analytics() -> Iterator[None]:
    """Turn off gradio's analytics while it serves, and restore the setting afterwards."""
    name = "GRADIO_ANALYTICS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "False"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
