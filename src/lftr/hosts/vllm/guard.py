"""What a request may change: the setting of lftr, and nothing else of preprocessing.

vLLM takes arguments of a request only from trusted clients (``--trust-request-mm-kwargs``), since
they could ask for frames or pixels without end, and it loads what it was asked for before any
processor can refuse. ``lftr serve`` therefore trusts, and puts this in front of the server.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .metrics import Counters
from .setting import KEY

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
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        message = await receive()
        parts = [message.get("body", b"")]
        while message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
        body = b"".join(parts)
        found = foreign(body)
        if found:
            Counters.get().refused.inc()
            await _refuse(send, found)
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)


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


async def _refuse(send: Send, names: list[str]) -> None:
    shown = ", ".join(names)[:200]
    error = {
        "message": f"{shown}: not on this server; allowed: mm_processor_kwargs.{KEY} alone (its "
        "operator can give --trust-request-mm-kwargs)",
        "type": "BadRequestError",
        "param": names[0],
        "code": 400,
    }
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
