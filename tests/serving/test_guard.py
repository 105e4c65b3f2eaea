"""Bodies that ask for more than a setting, in every spelling that JSON allows."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

SETTING = {"mm_processor_kwargs": {"lftr": {"keep": 0.5}}}
SIZE = {"mm_processor_kwargs": {"lftr": {}, "size": {"shortest_edge": 9}}}
FRAMES = {"media_io_kwargs": {"video": {"num_frames": 9}}}


def spelled(request: Any) -> list[bytes]:
    plain = json.dumps(request)
    escaped = plain.replace("kwargs", "\\u006b\\u0077args").replace("lftr", "l\\u0066tr")
    return [plain.encode(), escaped.encode(), plain.encode("utf-16"), plain.encode("utf-32-le")]


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({}, []),
        (SETTING, []),
        ({"mm_processor_kwargs": None, "media_io_kwargs": {}}, []),
        ({"messages": [{"content": "media_io_kwargs"}]}, []),
        (SIZE, ["mm_processor_kwargs.size"]),
        (FRAMES, ["media_io_kwargs"]),
        (FRAMES | SIZE, ["media_io_kwargs", "mm_processor_kwargs.size"]),
        ({"lftr": {"keep": 0.5}}, ["lftr"]),
        ({"extra_body": SETTING}, ["extra_body"]),  # Python's spelling, sent as it is
        ([SIZE], []),  # no request of any route
    ],
)
def test_what_is_foreign(request_: Any, names: list[str]) -> None:
    from lftr.hosts.vllm.guard import foreign

    for body in spelled(request_):
        assert foreign(body) == names


def test_what_is_no_json() -> None:
    from lftr.hosts.vllm.guard import foreign

    for body in (b"", b"_kwargs", b'{"mm_processor_kwargs"', b"_kwargs" + b"[" * 10**5):
        assert foreign(body) == []


@pytest.mark.parametrize(("request_", "refused"), [(SETTING, False), (SIZE, True)])
@pytest.mark.parametrize("parts", [1, 7])
def test_requests_in_parts(request_: Any, refused: bool, parts: int) -> None:
    """What goes on is what came; what does not is answered at once."""
    from lftr.hosts.vllm.guard import Guard

    body = json.dumps(request_).encode()
    cuts = [len(body) * i // parts for i in range(parts + 1)]
    coming = [
        {"type": "http.request", "body": body[a:b], "more_body": b < len(body)}
        for a, b in pairwise(cuts)
    ]
    coming.append({"type": "http.disconnect"})
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive()])

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(app)({"type": "http", "method": "POST"}, receive, send))
    if refused:
        assert (seen, sent[0]["status"]) == ([], 400)
        assert "mm_processor_kwargs.size" in json.loads(sent[1]["body"])["error"]["message"]
    else:
        assert [one["type"] for one in seen] == ["http.request", "http.disconnect"]
        assert (seen[0]["body"], sent) == (body, [])
