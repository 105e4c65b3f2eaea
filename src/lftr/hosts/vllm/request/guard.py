"""A guard in front of the server: of preprocessing, a request may change the lftr setting alone.

vLLM accepts processor arguments only from trusted clients (``--trust-request-mm-kwargs``), since
they can demand any number of frames or pixels, and it loads these before a processor can refuse.
``lftr serve`` therefore sets that option, and this guard refuses all other arguments. It also
refuses bodies over a size, since vLLM reads a body of any size into memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from fastapi import HTTPException

from ....values.errors import ArgumentError
from ..metrics import Counters
from .request_setting import KEY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MEANT = ("lftr", "extra_body")  # places in which a setting would have no effect
# a body without these has nothing to refuse: plain names, an escape, or wide characters
_SIGNS = (b"_kwargs", *(b'"%s"' % name.encode() for name in _MEANT), b"\\u", b"\x00")


LIMIT = "LFTR_MAX_BODY_MB"
"""The environment variable with the largest size of a request's body, in MB of 10**6 bytes."""
_DEFAULT = 64


class Guard:
    """ASGI middleware that answers 400 to arguments of preprocessing other than ``lftr``.

    Also to a setting in the wrong place, which vLLM would ignore without an error, and to an image
    as a video, which vLLM cannot load; and 413 to a body over the size of `LIMIT`, by default 64
    MB.

    Parameters
    ----------
    app : ASGI application
        The server.

    Raises
    ------
    ArgumentError
        If `LIMIT` is no number above 0.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.most = _most_bytes(os.environ.get(LIMIT, str(_DEFAULT)))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, and refuse it once the server reads it."""
        parts: list[bytes] = []
        size = 0

        async def checked() -> Message:
            nonlocal size
            self._check_size(_stated_size(scope))  # before anything is received
            message = await receive()
            if message["type"] == "http.request":
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                self._check_size(size)
                if not message.get("more_body", False):
                    body = b"".join(parts)
                    parts.clear()
                    _check(body)
            return message

        post = scope["type"] == "http" and scope["method"] == "POST"
        await self.app(scope, checked if post else receive, send)

    def _check_size(self, size: int) -> None:
        if size > self.most:
            Counters.get().refused.inc()
            allowed = f"{self.most / 10**6:g} MB, the server's {LIMIT}"
            raise HTTPException(413, f"the request has {size} bytes or more; allowed: {allowed}")


def _most_bytes(text: str) -> int:
    try:
        most = float(text)
    except ValueError:
        most = 0.0
    if not 0 < most < float("inf"):
        raise ArgumentError.of(LIMIT, text, "a number of MB above 0")
    return int(most * 10**6)


def _stated_size(scope: MutableMapping[str, Any]) -> int:
    """Return the size that a request's header states; 0 without one."""
    for name, value in scope.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


def _check(body: bytes) -> None:
    # in the server's own reading, so that it answers in its own way, and strangers first
    if b"data:image" in body and b"video_url" in body and any(_stills(_read(body))):
        Counters.get().refused.inc()
        raise HTTPException(
            400,
            "a video_url holds an image; allowed: image_url for an image, data:video/jpeg;base64, "
            "with its frames for a video",
        )
    names = foreign(body)
    if names:
        Counters.get().refused.inc()
        listed = ", ".join(names)[:200]
        allowed = f"mm_processor_kwargs.{KEY} alone, beside messages"
        raise HTTPException(400, f"{listed}: not on this server; allowed: {allowed}")


def _read(body: bytes) -> dict[str, Any]:
    """Return a request; an empty one where the server itself answers with an error."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


def _stills(request: dict[str, Any]) -> Iterator[bool]:
    """Yield of each video in the messages whether it is an image."""
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            video = part.get("video_url") if isinstance(part, dict) else None
            url = video.get("url") if isinstance(video, dict) else video
            yield isinstance(url, str) and url.startswith("data:image")


def foreign(body: bytes) -> list[str]:
    """Return the names of arguments that are refused or without effect; none if not JSON."""
    if not any(sign in body for sign in _SIGNS):
        return []
    request = _read(body)
    names = [name for name in _MEANT if name in request]
    names += ["media_io_kwargs"] if request.get("media_io_kwargs") else []
    kwargs = request.get("mm_processor_kwargs")
    keys = kwargs if isinstance(kwargs, dict) else {}
    return names + [f"mm_processor_kwargs.{key}" for key in keys if key != KEY]
