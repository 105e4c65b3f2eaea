"""What a request may change: the setting of lftr, and nothing else of preprocessing.

vLLM takes arguments of a request only from trusted clients (``--trust-request-mm-kwargs``), since
they could ask for frames or pixels without end, and it loads what it was asked for before any
processor can refuse. ``lftr serve`` therefore trusts, and puts this in front of the server.
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

_MEANT = ("lftr", "extra_body")  # where a setting is looked for in vain
# a body without these has nothing to refuse: plain names, an escape, or wide characters
_SIGNS = (b"_kwargs", *(b'"%s"' % name.encode() for name in _MEANT), b"\\u", b"\x00")


class Guard:
    """ASGI middleware that answers 400 to arguments of preprocessing other than ``lftr``.

    Also to a setting in the wrong place, which would otherwise be ignored without a word.

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
    """Return what a request may not say, or says in vain, by name; nothing if it is no JSON."""
    if not any(sign in body for sign in _SIGNS):
        return []
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):  # the server says what is wrong with it
        return []
    if not isinstance(request, dict):
        return []
    names = [name for name in _MEANT if name in request]
    names += ["media_io_kwargs"] if request.get("media_io_kwargs") else []
    given = request.get("mm_processor_kwargs")
    keys = given if isinstance(given, dict) else {}
    return names + [f"mm_processor_kwargs.{key}" for key in keys if key != KEY]
