"""A guard in front of the server: of preprocessing, a request may change the lftr setting alone.

vLLM accepts processor arguments only from trusted clients (``--trust-request-mm-kwargs``), since
they can demand any number of frames or pixels, and it loads these before a processor can refuse.
``lftr serve`` therefore sets that option, and this guard refuses all other arguments.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException

from ..metrics import Counters
from .request_setting import KEY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MEANT = ("lftr", "extra_body")  # places in which a setting would have no effect
# a body without these has nothing to refuse: plain names, an escape, or wide characters
_SIGNS = (b"_kwargs", *(b'"%s"' % name.encode() for name in _MEANT), b"\\u", b"\x00")


class Guard:
    """ASGI middleware that answers 400 to arguments of preprocessing other than ``lftr``.

    Also to a setting in the wrong place, which vLLM would ignore without an error.

    Parameters
    ----------
    app : ASGI application
        The server.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, and refuse it once the server has read it to its end."""
        parts: list[bytes] = []

        async def checked() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    _check(b"".join(parts))
            return message

        post = scope["type"] == "http" and scope["method"] == "POST"
        await self.app(scope, checked if post else receive, send)


def _check(body: bytes) -> None:
    names = foreign(body)
    if names:
        Counters.get().refused.inc()
        shown = ", ".join(names)[:200]
        allowed = f"mm_processor_kwargs.{KEY} alone, beside messages"
        # in the server's own reading, so that it answers in its own way, and strangers first
        raise HTTPException(400, f"{shown}: not on this server; allowed: {allowed}")


def foreign(body: bytes) -> list[str]:
    """Return the names of arguments that are refused or without effect; none if not JSON."""
    if not any(sign in body for sign in _SIGNS):
        return []
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):  # the server itself answers with an error
        return []
    if not isinstance(request, dict):
        return []
    names = [name for name in _MEANT if name in request]
    names += ["media_io_kwargs"] if request.get("media_io_kwargs") else []
    kwargs = request.get("mm_processor_kwargs")
    keys = kwargs if isinstance(kwargs, dict) else {}
    return names + [f"mm_processor_kwargs.{key}" for key in keys if key != KEY]
