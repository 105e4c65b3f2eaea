"""Bodies that ask for more than a setting, in every spelling that JSON allows."""

from __future__ import annotations

import asyncio
import json
import sys
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
    from lftr.hosts.vllm.request.guard import foreign

    for body in spelled(request_):
        assert foreign(body) == names


def test_what_is_no_json() -> None:
    from lftr.hosts.vllm.request.guard import foreign

    for body in (b"", b"_kwargs", b'{"mm_processor_kwargs"', b"_kwargs" + b"[" * 10**5):
        assert foreign(body) == []


@pytest.fixture
def client() -> Any:
    """A server that wants a key and tells what reached it, behind the guard as vLLM adds it."""
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    from lftr.hosts.vllm.request.guard import Guard

    app = FastAPI()
    app.add_middleware(AuthenticationMiddleware, tokens=["key"])

    @app.post("/v1/echo")
    async def echo(request: dict[str, Any]) -> Any:
        return request

    app.add_middleware(Guard)
    known = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    return TestClient(app, headers=known)


@pytest.mark.parametrize("parts", [1, 7])
def test_requests_in_parts(client: Any, parts: int) -> None:
    """What goes on is what came; the rest is answered as the server answers."""
    for request, names in ((SETTING, []), (SIZE, ["mm_processor_kwargs.size"])):
        body = json.dumps(request).encode()
        cuts = [len(body) * i // parts for i in range(parts + 1)]
        answer = client.post("/v1/echo", content=(body[a:b] for a, b in pairwise(cuts)))
        assert answer.status_code == (400 if names else 200)
        if names:
            assert f"{names[0]}: not on this server" in answer.json()["detail"]
        else:
            assert answer.json() == request


def test_strangers_are_sent_away_first(client: Any) -> None:
    answer = client.post("/v1/echo", json=SIZE, headers={"Authorization": "Bearer none"})
    assert answer.status_code == 401


def test_half_a_request_is_none() -> None:
    """A client that goes away leaves the server to see it, whatever the half looks like."""
    from lftr.hosts.vllm.request.guard import Guard

    coming = [
        {"type": "http.request", "body": json.dumps(SIZE).encode(), "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = list(coming)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive()])

    async def receive() -> Any:
        return coming.pop(0)

    asyncio.run(Guard(app)({"type": "http", "method": "POST"}, receive, receive))
    assert seen == sent


def test_bodies_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the stated size before anything is read, else as soon as there is too much."""
    from fastapi import HTTPException

    from lftr.hosts.vllm.request import guard

    monkeypatch.setenv(guard.LIMIT, "0.001")
    coming = [b"x" * 400] * 9

    async def receive() -> Any:
        return {"type": "http.request", "body": coming.pop(), "more_body": True}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"1001")]}
    for headers, left in ((scope["headers"], 9), ([], 6)):
        with pytest.raises(HTTPException, match=r"allowed: 0\.001 MB") as caught:
            asyncio.run(guard.Guard(app)(scope | {"headers": headers}, receive, receive))
        assert caught.value.status_code == 413
        assert len(coming) == left
    for wrong in ("", "0", "-1", "nan", "inf", "1 GB"):
        monkeypatch.setenv(guard.LIMIT, wrong)
        with pytest.raises(ValueError, match="a number of MB above 0"):
            guard.Guard(app)


def test_the_server_states_the_limit(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lftr.hosts.vllm.request import guard

    monkeypatch.setenv(guard.LIMIT, "0.01")
    answer = client.post("/v1/echo", json={"messages": "x" * 10_000})
    assert answer.status_code == 413
    assert "allowed: 0.01 MB, the server's LFTR_MAX_BODY_MB" in answer.json()["detail"]
    assert client.post("/v1/echo", json={"messages": "x" * 9_000}).status_code == 200


def test_what_was_checked_is_dropped() -> None:
    """While the server answers, the guard holds no second copy of the body."""
    from lftr.hosts.vllm.request.guard import Guard

    body = b"x" * 1000
    before = sys.getrefcount(body)
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return coming.pop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert sys.getrefcount(body) == before

    asyncio.run(Guard(app)({"type": "http", "method": "POST"}, receive, receive))


@pytest.mark.parametrize("url", [True, False])
def test_an_image_as_a_video(client: Any, url: bool) -> None:
    """VLLM's loader would fail, with status 500."""

    def request(address: str) -> Any:
        part = {"type": "video_url", "video_url": {"url": address} if url else address}
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
        return {"messages": [{"role": "user", "content": [image, part]}]}

    answer = client.post("/v1/echo", json=request("data:image/png;base64,AA"))
    assert answer.status_code == 400
    assert "a video_url holds an image" in answer.json()["detail"]
    assert client.post("/v1/echo", json=request("data:video/jpeg;base64,AA")).status_code == 200
