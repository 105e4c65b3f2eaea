"""Bodies that ask for more than a setting, in every spelling that JSON allows."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

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
    config = SimpleNamespace(model_config=SimpleNamespace(allowed_local_media_path=""))
    app.state.vllm_config = config
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


def holding(address: Any, medium: str) -> Any:
    """A request with a good image, and beside it what is asked about."""
    image = {"type": "image_url", "image_url": {"url": data(Image.new("RGB", (4, 4)), "PNG")}}
    part = {"type": f"{medium}_url", f"{medium}_url": address}
    return {"messages": [{"role": "user", "content": [image, part]}]}


def data(picture: Image.Image, kind: str, stated: str = "image/png", **options: Any) -> str:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return f"data:{stated};base64," + base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kind", [None, "PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "AVIF"])
def test_an_image_as_a_video(client: Any, nested: bool, kind: str | None) -> None:
    """By its type or by what it is; vLLM's loader would fail, or find no frames."""
    address = "data:image/png;base64,AA"
    if kind is not None:
        address = data(Image.new("RGB", (40, 48)), kind, "video/mp4")
    asked = holding({"url": address} if nested else address, "video")
    answer = client.post("/v1/echo", json=asked)
    assert answer.status_code == 400
    assert "a video_url holds an image" in answer.json()["detail"]


def test_videos_are_passed_on(client: Any) -> None:
    """Frames, files of three kinds, an animation, and what is none, which vLLM says itself."""
    shot = Image.new("RGB", (40, 48))
    frame = data(shot, "JPEG").partition(",")[2]
    begins = (b"\0\0\0\x18ftypisom", b"RIFF\0\0\0\0AVI ", b"\x1aE\xdf\xa3\0\0\0\0", b"")
    files = [base64.b64encode(begin + bytes(9)).decode() for begin in begins]
    addresses = [f"data:video/jpeg;base64,{frame},{frame}", "https://a.b/c.mp4", "data:video/mp4"]
    addresses += [f"data:video/mp4;base64,{file}" for file in [*files, "A", "%%"]]
    addresses += [data(shot, "GIF", "video/gif", save_all=True, append_images=[shot])]
    for address in addresses:
        request = holding({"url": address}, "video")
        answer = client.post("/v1/echo", json=request)
        assert (answer.status_code, answer.json()) == (200, request)


@pytest.mark.parametrize("medium", ["image", "video"])
def test_files_of_the_server(client: Any, medium: str) -> None:
    """Where no folder is allowed, in every part that names one; else vLLM looks at the path."""
    requests = [
        holding({"url": "file:///etc/hostname"}, medium),
        holding("FILE:/etc/hostname", medium),
        {"input": [{"role": "user", "content": [{f"{medium}_url": "file:///etc/hostname"}]}]},
    ]
    for request in requests:
        answer = client.post("/v1/echo", json=request)
        assert answer.status_code == 400
        assert f"{medium}_url: a file of the server" in answer.json()["detail"]
    client.app.state.vllm_config.model_config.allowed_local_media_path = "/srv"
    for request in requests:
        assert client.post("/v1/echo", json=request).status_code == 200
    said = {"messages": [{"role": "user", "content": "image_url file:///etc/hostname"}]}
    assert client.post("/v1/echo", json=said).status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_images_of_too_many_pixels(client: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As Pillow counts them, also in a frame; sizes at the end of a file and long headers too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    late = {"exif": b"Exif\0\0" + bytes(60_000)} if kind in ("JPEG", "WEBP") else {}
    right, wrong = (
        data(Image.effect_noise((100, side), 90).convert("RGB"), kind, **late)
        for side in (100, 101)
    )
    frames = [f"data:video/jpeg;base64,AA,{one.partition(',')[2]}" for one in (right, wrong)]
    for medium, addresses in (("image", (right, wrong)), ("video", frames)):
        allowed, refused = (
            client.post("/v1/echo", json=holding({"url": address}, medium)) for address in addresses
        )
        assert allowed.status_code == 200
        assert refused.status_code == 400
        wanted = f"{medium}_url: an image of too many pixels; allowed: at most 10,000"
        assert refused.json()["detail"] == wanted


def test_a_thousand_media_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM refuses more than 999 of a request; what nests deeply is looked at without recursion."""
    from lftr.hosts.vllm.request import guard

    looked: list[str] = []
    monkeypatch.setattr(guard, "_too_large", looked.append)
    nested: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}] * 2000
    for _ in range(400):
        nested = [nested]
    guard._check(json.dumps({"messages": nested}).encode(), {})
    assert looked == ["AA"] * 1000
