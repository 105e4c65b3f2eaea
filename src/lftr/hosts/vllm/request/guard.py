"""A guard in front of the server: of preprocessing, a request may change the lftr setting alone.

vLLM accepts processor arguments only from trusted clients (``--trust-request-mm-kwargs``), since
they can demand any number of frames or pixels, and it loads these before a processor can refuse.
``lftr serve`` therefore sets that option, and this guard refuses all other arguments. It also
refuses bodies over a size, since vLLM reads a body of any size into memory.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from itertools import islice
from typing import Any

from fastapi import HTTPException
from PIL import Image
from vllm.multimodal.image import open_image

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

_MOST_MEDIA = 1000  # of a request; vLLM refuses more than 999 images or videos before it loads any
_BEGINNING = 2**16  # characters of base64, a multiple of 4
# how the formats begin that a video decoder cannot read, or not as a clip
_STILL = re.compile(
    rb"\x89PNG|\xff\xd8\xff|BM|II\*\x00|MM\x00\*|P[1-6]\s|RIFF.{4}WEBP|.{4}ftypavif", re.DOTALL
)


class Guard:
    """ASGI middleware that answers 400 to arguments of preprocessing other than ``lftr``.

    Also to a setting in the wrong place, which vLLM would ignore without an error; and to what vLLM
    cannot load and answers with an error of its own: an image as a video, files where the server
    reads none, images of too many pixels. And 413 to a body over the size of `LIMIT`, by default
    64 MB.

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
                    _check(body, scope)
            return message

        post = scope["type"] == "http" and scope["method"] == "POST"
        await self.app(scope, checked if post else receive, send)

    def _check_size(self, size: int) -> None:
        if size > self.most:
            Counters.get().refused.inc()
            allowed = f"{self.most / 10**6:g} MB, the server's {LIMIT}"
            raise HTTPException(413, f"the request has {size} bytes or more; allowed: {allowed}")


def _reads_files(scope: MutableMapping[str, Any]) -> bool:
    """Whether the operator lets clients name files of the server."""
    return bool(scope["app"].state.vllm_config.model_config.allowed_local_media_path)


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


def _check(body: bytes, scope: MutableMapping[str, Any]) -> None:
    # in the server's own reading, so that it answers in its own way, and strangers first
    names = foreign(body)
    fault = None
    if names:
        allowed = f"mm_processor_kwargs.{KEY} alone, beside messages"
        fault = f"{', '.join(names)[:200]}: not on this server; allowed: {allowed}"
    elif b"_url" in body:
        media = islice(_media(_read(body)), _MOST_MEDIA)
        fault = next(filter(None, (_fault(*one, scope) for one in media)), None)
    if fault is not None:
        Counters.get().refused.inc()
        raise HTTPException(400, fault)


def _read(body: bytes) -> dict[str, Any]:
    """Return a request; an empty one where the server itself answers with an error."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


def _media(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the medium and the URL of each image and video, in whatever parts a route has them."""
    waiting = [request.get("messages"), request.get("input")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        waiting += part.values()
        for medium in ("image", "video"):
            address = part.get(f"{medium}_url")
            url = address.get("url") if isinstance(address, dict) else address
            if isinstance(url, str):
                yield medium, url


def _fault(medium: str, url: str, scope: MutableMapping[str, Any]) -> str | None:
    """Return in words why vLLM would fail to load what a URL holds, as far as this can be seen."""
    scheme = url[:5].lower()
    if scheme == "file:" and not _reads_files(scope):
        return (
            f"{medium}_url: a file of the server, which reads none; allowed: data: and http(s): "
            "URLs (the operator can allow a folder with --allowed-local-media-path)"
        )
    if scheme != "data:":
        return None
    kind, _, data = url[5:].partition(",")
    frames = medium == "video" and kind.lower().startswith("video/jpeg")
    if medium == "video" and not frames and _is_still(kind, data):
        return (
            "a video_url holds an image; allowed: image_url for an image, data:video/jpeg;base64, "
            "with its frames for a video"
        )
    pictures = data.split(",", _MOST_MEDIA) if frames else [data] if medium == "image" else []
    if any(map(_too_large, pictures)):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"{medium}_url: an image of too many pixels; allowed: at most {most:,}"
    return None


def _is_still(kind: str, data: str) -> bool:
    """Whether data are an image, by their type or by their first bytes."""
    return kind.lower().startswith("image/") or _STILL.match(_bytes(data[:16])) is not None


def _too_large(data: str) -> bool:
    """Whether Pillow, with which vLLM opens images, refuses one for its pixels.

    Most formats state their size at the beginning.
    """
    for part in (data[:_BEGINNING], data):
        try:
            open_image(io.BytesIO(_bytes(part))).close()
        except Image.DecompressionBombError:
            return True
        except Exception:  # a part alone cannot be opened, or this is no image, as vLLM will say
            continue
        return False
    return False


def _bytes(data: str) -> bytes:
    """Return what base64 stands for; nothing if it is none."""
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""


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
