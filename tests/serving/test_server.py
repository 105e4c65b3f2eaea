"""The server that ``lftr serve`` starts, through the stock OpenAI client and by hand."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lftr
from lftr.values.budget import as_arguments

from . import tiny

NEW = 6
START = 400


@dataclass
class Server:
    """A running server."""

    checkpoint: tiny.Tiny
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    at_start: Counter[str] = field(default_factory=Counter)

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Send a chat request as it is; return status and answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            body,
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def counters(self) -> Counter[str]:
        """lftr's own, as Prometheus reads them."""
        lines = re.findall(r"^(lftr:\w+_total(?:\{.*?\})?) ([\d.e+]+)$", self.get("/metrics"), re.M)
        return Counter({name: int(float(value)) for name, value in lines})

    def memory(self) -> int:
        """Bytes in RAM of the server and the processes that it started."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:  # its session
                    resident = (status.parent / "statm").read_text().split()[1]
                    total += int(resident) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        return total


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    checkpoint = tiny.make("llava", folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lftr", "serve", str(checkpoint.folder), "--keep", "1/4"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "512", "--max-num-seqs", "16", "--block-size", "32"]
    command += ["--enforce-eager", "--served-model-name", "tiny"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    found = Server(checkpoint, process, log, port)
    try:
        _until_healthy(found)
        found.at_start = found.counters()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: this server alone
            process.wait(30)


def _until_healthy(server: Server) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.process.poll() is None:
        try:
            server.get("/health")
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"no server after {START} s:\n{server.log.read_text()[-3000:]}")


def url(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def chat(
    picture: Image.Image | None, text: str, asked: Any = None, **others: Any
) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": url(picture)}})
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": NEW,
        "temperature": 0,
        "ignore_eos": True,
        **others,
    }
    if asked is not None:
        body["mm_processor_kwargs"] = {"lftr": asked}
    return body


def body(**others: Any) -> bytes:
    return json.dumps(chat(tiny.image(30, 24), "t20 t30", **others)).encode()


def told(server: Server, request: dict[str, Any]) -> tuple[str, int]:
    """The answer's text and the prompt's tokens, of the stock OpenAI client."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="-")
    known = {"model", "messages", "max_tokens", "temperature"}
    extra = {key: value for key, value in request.items() if key not in known}
    plain = {key: value for key, value in request.items() if key in known}
    answer = client.chat.completions.create(**plain, extra_body=extra)
    return answer.choices[0].message.content, answer.usage.prompt_tokens


def on_transformers(
    server: Server, picture: Image.Image, method: str, keep: Any, text: str = "t20 t30"
) -> tuple[str, int]:
    checkpoint = server.checkpoint
    inputs = checkpoint.inputs(f"{checkpoint.sign} {text} ", [picture])
    full = inputs["input_ids"].shape[1]
    with (
        torch.inference_mode(),
        lftr.reduce(
            checkpoint.model,
            method,
            **as_arguments(keep),
        ) as reduction,
    ):
        out = checkpoint.model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
    text = checkpoint.processor.tokenizer.decode(out[0, full:])
    return text, full - reduction.report.tokens + reduction.report.kept


def test_counters_before_any_request(server: Server) -> None:
    """They are there, at nothing: what memory was measured with is no request."""
    names = ("requests", "items", "visual_tokens", "kept_tokens", "guided_items", "guided_again")
    wanted = {f'lftr:{name}_total{{method="lftr"}}': 0 for name in names}
    assert server.at_start == wanted | {"lftr:refused_total": 0}


def test_answers_and_usage(server: Server) -> None:
    """As on transformers, by the server's setting and by requests' own; usage shows the saving."""
    before = server.counters()
    for seed, (method, keep, asked) in enumerate(
        [
            ("lftr", 0.25, None),
            ("lftr", 1 / 16, {"keep": "1/16"}),
            ("visionzip", 0.5, {"keep": 0.5, "method": "visionzip"}),
            ("divprune", 5, {"tokens": 5, "method": "divprune"}),
            ("lftr", 1.0, {"keep": 1.0}),
        ]
    ):
        picture = tiny.image(40, 36, seed)
        found = told(server, chat(picture, "t20 t30", asked))
        assert found == on_transformers(server, picture, method, keep)
    two = chat(tiny.image(40, 36, 7), "t20", {"tokens": 4})
    two["messages"][0]["content"] *= 2
    server.post(json.dumps(two).encode())
    spent = server.counters() - before
    assert spent['lftr:requests_total{method="lftr"}'] == 4
    assert spent['lftr:items_total{method="lftr"}'] == 5
    assert spent['lftr:visual_tokens_total{method="lftr"}'] == 5 * 36
    assert spent['lftr:kept_tokens_total{method="lftr"}'] == 9 + 3 + 36 + 4 + 4
    assert spent['lftr:kept_tokens_total{method="divprune"}'] == 5
    assert spent["lftr:refused_total"] == 0


def test_the_text_guides(server: Server) -> None:
    """One image under two texts, and again; each answer is that of transformers."""
    before, picture = server.counters(), tiny.image(40, 36, 9)
    asked = {"method": "trim", "keep": 0.25}
    for text in ("t20 t30", "t99 t100 t101", "t20 t30"):
        found = told(server, chat(picture, text, asked))
        assert found == on_transformers(server, picture, "trim", 0.25, text)
    spent = server.counters() - before
    assert spent['lftr:guided_items_total{method="trim"}'] == 3
    assert spent['lftr:guided_again_total{method="trim"}'] == 1


def test_the_client_of_the_examples(server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    tiny.image(40, 36, 3).save(picture)
    script = Path(__file__).parents[2] / "examples/serving/client.py"
    words = [str(picture), "t20 t30", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [int(n) for n in re.findall(r": (\d+) tokens", done.stdout)] == [11, 11, 38]


def test_what_the_log_says(server: Server) -> None:
    server.post(body())
    log = server.log.read_text()
    assert "LlavaForConditionalGeneration as LftrLlavaForConditionalGeneration" in log
    assert "positions as in the full prompt; weights of slots 1" in log
    assert "images: lftr keep=0.25, unless" in log
    assert re.search(r"INFO.*lftr: Llava\w+ is served as LftrLlava\w+, lftr keep=0.25", log)
    assert re.search(r"INFO.*lftr: \d+ items, \d+ of their \d+ tokens kept", log)
    assert re.search(r"the method took \d+\.\d\d ms per item", log)


HUGE = base64.b64encode(b"P6 20000 9000 255\n")  # what an image says of itself


def wrong(seed: int) -> tuple[bytes, int, str]:
    """A request, the status that it deserves, and a word of the message."""
    deep = b"[" * 3000 + b"]" * 3000
    plain = body(asked={"keep": "X"})
    greedy = body(mm_processor_kwargs={"size": {"shortest_edge": 90_000}})
    choices: list[tuple[bytes, int, str]] = [
        (body(asked={"keep": "1e999999999"}), 400, "keep"),
        (body(asked={"keep": "9" * 20_000}), 400, "holds more than"),
        (body(asked={"keep": float("nan")}), 400, "keep"),
        (body(asked={"keep": float("-inf")}), 400, "keep"),
        (body(asked={"keep": -1}), 400, "keep"),
        (body(asked={"keep": 2.5}), 400, "keep"),
        (body(asked={"keep": {"total": 5}}), 400, "keep"),
        (plain.replace(b'"X"', b"9" * 4000), 400, "holds more than"),
        (plain.replace(b'"X"', deep), 400, ""),
        (body(asked=[["keep", 1]]), 400, "object"),
        (body(asked={"method": "downsample"}), 400, "those that can"),
        (body(asked={"method": "no such"}), 400, "unknown method"),
        (body(asked={"method": "trim", "guide": "all"}), 400, "guide"),
        (body(asked={"method": "trim", "guide": "first"}), 400, "chat template does not mark"),
        (body(asked={"method": "mix", "options": {"methods": ["lftr"] * 90}}), 400, "holds more"),
        (body(asked={"method": "lftr", "options": {"diversity": 7}}), 400, "diversity"),
        (body(asked={"method": "random", "options": {"seed": 2**64}}), 400, "numbers from"),
        (body(asked={"method": "scope", "options": {"alpha": 1e10}}), 400, "numbers from"),
        *(
            (body(asked={"method": name, "options": {"rounds": 10**6}}), 400, "rounds")
            for name in ("visual-grouping", "lftr", "coverage", "ficoco")
        ),
        (greedy, 400, "mm_processor_kwargs.size: not on this server"),
        (greedy.replace(b"mm_processor", b"\\u006dm_processor"), 400, "not on this server"),
        (greedy.decode().encode("utf-16"), 400, "not on this server"),
        (body(media_io_kwargs={"video": {"num_frames": 10**6}}), 400, "media_io_kwargs: not"),
        (body()[:-40], 400, ""),
        (body().replace(b"base64,", b"base64,!!"), 400, ""),
        (body().replace(b"data:image/png;base64,", b"file:///"), 400, "a file of the server"),
        (body().replace(b'"image_url"', b'"video_url"'), 400, "holds an image"),
        (re.sub(rb'base64,[^"]*', b"base64," + HUGE, body()), 400, "too many pixels"),
    ]
    return choices[seed % len(choices)]


def test_wrong_requests_are_answered(server: Server) -> None:
    """Each with status 400 and a message of one line, one after the other."""
    before, ours = server.counters(), 0
    for seed in range(31):
        sent, status, word = wrong(seed)
        ours += bool(word)
        code, answer = server.post(sent)
        assert (code, word in json.dumps(answer)) == (status, True), (sent[-300:], answer)
        assert len(json.dumps(answer)) < 2500
    assert (server.counters() - before)["lftr:refused_total"] == ours


def test_what_vllm_refuses_leaves_its_record(server: Server) -> None:
    """A request that it refuses after rendering, with or without lftr, as docs/serving.md says."""
    picture = tiny.image(30, 24, 101)
    good = json.dumps(chat(picture, "t20")).encode()
    refused = chat(picture, "t20", logprobs=True, top_logprobs=10_000)
    assert server.post(json.dumps(refused).encode())[0] == 400
    assert [server.post(good)[0] for _ in range(2)] == [500, 200]


@pytest.mark.parametrize("requests", [1000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_a_mixed_load(server: Server, requests: int) -> None:
    """Right and wrong requests of all kinds, eight at a time: right answers, and flat memory.

    Right ones are known, with the answers that they had alone, or new, and then asked again.
    """
    kinds = [(None, 1.0), (0.25, None), (1 / 9, "divprune"), (7, "visionzip"), (1.0, "uniform")]
    kinds += [(0.25, "trim")]

    def right(seed: int) -> bytes:
        keep, method = kinds[seed % len(kinds)]
        picture = None if keep is None else tiny.image(24 + 6 * (seed % 4), 30, seed)
        asked = {} if keep is None else as_arguments(keep)
        asked |= {"method": method} if isinstance(method, str) else {}
        return json.dumps(chat(picture, f"t20 t{30 + seed % 60}", asked or None)).encode()

    def answered(request: bytes) -> tuple[str, int]:
        code, answer = server.post(request)
        assert code == 200
        return _essence(answer)

    known = [(request, answered(request)) for request in map(right, range(12))]

    def one(seed: int) -> None:
        number = int(np.random.default_rng(seed).integers(0, 60))
        if number < 24:
            request, wanted = known[number % len(known)]
            assert answered(request) == wanted
        elif number < 30:
            new = right(100 + seed)
            assert answered(new) == answered(new)
        else:
            sent, status, _ = wrong(number)
            assert server.post(sent)[0] == status

    def load(seeds: range) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, seeds))

    load(range(requests // 2))
    before = server.memory()
    load(range(requests // 2, requests))
    grown = server.memory() - before
    assert server.process.poll() is None
    assert grown < 64 * 2**20, f"{grown / 2**20:.0f} MiB more after {requests // 2} requests"


def _essence(answer: dict[str, Any]) -> tuple[str, int]:
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]
