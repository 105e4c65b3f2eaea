"""Load on a server, with and without reduction, in one run.

    python benchmarks/serving.py [--requests 8] [--turns 3] [--doc]
    python benchmarks/serving.py --url http://127.0.0.1:8000 --keep 1/16

Without ``--url``: a LLaVA of LLaVA-1.5-7B's widths with two of the language model's 32 layers and
two of CLIP-L/336's 24, with random weights, since time does not depend on them. vLLM alone,
``lftr serve --keep 1/16`` and the same without weights of slots take turns; and in one process,
what a prefill costs against a prompt that short from the start. With ``--url``: a server of
`lftr serve` that runs already, asked with ``keep=1.0`` and with the given keep. No image is sent
twice.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _measure import median, paired, ratio, save, table
from _real_width import SIDE, real_width_config
from PIL import Image

from lftr.hosts.vllm.server import check_version

COMMAND = "python benchmarks/serving.py"
CONCURRENCY = (1, 8, 32)
DOC = Path(__file__).parent.parent / "docs" / "serving.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NEW, WORDS = 16, 24
KEEP = "1/16"
STOCK = ["-m", "vllm.entrypoints.launchers.api_server.entry", "--model"]
REDUCED = ["-m", "lftr", "serve", "--keep", KEEP]
SERVERS = {
    "vLLM": STOCK,
    f"lftr serve --keep {KEEP}": REDUCED,
    f"lftr serve --keep {KEEP} --weights none": [*REDUCED, "--weights", "none"],
}
"""What is started, by what the table calls it; the model's folder follows."""
CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")


def checkpoint(folder: Path, layers: int = 2, tower_layers: int = 2) -> Path:
    """Write a model without weights: vLLM draws them itself (``--load-format dummy``)."""
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    from lftr import bundled

    tokenizer = AutoTokenizer.from_pretrained(bundled.path())
    template = (bundled.path() / "chat_template.jinja").read_text()
    square = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    token = tokenizer.convert_tokens_to_ids("<image>")
    # the tower's last layer is not used
    config = real_width_config(layers, tower_layers + 1, len(tokenizer), token)
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    return folder


def picture(seed: int) -> Image.Image:
    """Return an image like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE))


def message(seed: int) -> list[dict[str, Any]]:
    """Return a question with an image of its own."""
    out = io.BytesIO()
    picture(seed).save(out, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    words = " ".join(["is", "there", "a", "red", "square?"] * (WORDS // 5))
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": f"{words} {seed}"},
    ]


async def ask(client: Any, model: str, seed: int, keep: Any) -> dict[str, float]:
    """Ask once, streaming; return times in seconds and tokens."""
    extra: dict[str, Any] = {"ignore_eos": True}
    if keep is not None:
        extra["mm_processor_kwargs"] = {"lftr": {"keep": keep}}
    content: Any = message(seed)
    start, first, usage = time.perf_counter(), None, None
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=NEW,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=extra,
    )
    async for chunk in stream:
        if chunk.choices and first is None:
            first = time.perf_counter()
        usage = chunk.usage or usage
    end = time.perf_counter()
    assert first is not None
    assert usage is not None
    return {
        "ttft": first - start,
        "total": end - start,
        "prompt": usage.prompt_tokens,
        "new": usage.completion_tokens,
    }


async def load(url: str, keep: Any, concurrency: int, requests: int, seed: int) -> dict[str, Any]:
    """Keep ``concurrency`` requests under way until ``requests`` are answered."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="-", timeout=1800) as client:
        model = (await client.models.list()).data[0].id
        waiting = asyncio.Semaphore(concurrency)

        async def one(number: int) -> dict[str, float]:
            async with waiting:
                return await ask(client, model, seed + number, keep)

        await one(requests)  # what is slow the first time
        start = time.perf_counter()
        answers = await asyncio.gather(*(one(number) for number in range(requests)))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "answers": answers}


def figures_of(concurrency: int, turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what one server did at one concurrency, in all turns."""
    answers = [answer for turn in turns for answer in turn["answers"]]
    seconds = sum(turn["seconds"] for turn in turns)
    return {
        "concurrency": concurrency,
        "requests": len(answers),
        "seconds": [turn["seconds"] for turn in turns],
        "requests_per_second": len(answers) / seconds,
        "ttft_ms": [1e3 * value for value in _quartiles([a["ttft"] for a in answers])],
        "prompt_tokens": statistics.mean(a["prompt"] for a in answers),
        "new_tokens_per_second": sum(a["new"] for a in answers) / seconds,
    }


def compare(
    sides: Sequence[tuple[str, Any]], concurrencies: Sequence[int], requests: int, turns: int
) -> list[list[dict[str, Any]]]:
    """Load servers in turns, so that a slow moment of the machine hits all alike.

    Parameters
    ----------
    sides : sequence of (str, keep)
        Address of each server, and what its requests ask for.
    concurrencies : sequence of int
        How many requests are under way at a time.
    requests : int
        At least, in each turn.
    turns : int
        How often each takes its turn, at each concurrency.

    Returns
    -------
    list of list of dict
        For each side the figures of each concurrency.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in sides]
    seed = 0
    for concurrency in concurrencies:
        number = max(requests, concurrency)
        seen: list[list[dict[str, Any]]] = [[] for _ in sides]
        for _ in range(turns):
            for (url, keep), turn in zip(sides, seen, strict=True):
                turn.append(asyncio.run(load(url, keep, concurrency, number, seed)))
                seed += number + 1
        for side, turn in zip(found, seen, strict=True):
            side.append(figures_of(concurrency, turn))
            print(json.dumps(side[-1]), file=sys.stderr, flush=True)
    return found


@contextlib.contextmanager
def server(command: Sequence[str], options: Sequence[str], log: Path) -> Iterator[str]:
    """Run a server; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command, *where, *options], stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(log.read_text()[-3000:])
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            time.sleep(1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def prefill(folder: Path, rounds: int, dtype: str) -> dict[str, Any]:
    """Time one new token of the reduced prompt, its image encoded already, and of a short one."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        hf_overrides={
            "architectures": ["LftrLlavaForConditionalGeneration"],
            "lftr": {"keep": KEEP},
        },
        distributed_executor_backend="uni",
        dtype=dtype,
        **_engine(),
    )
    one = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    image, text = picture(0), "is there a red square? " * (WORDS // 5)
    ids = llm.get_tokenizer()(f"<image> {text}")["input_ids"]
    token = llm.get_tokenizer().convert_tokens_to_ids("<image>")
    spare = ids[-1]

    def shown(keep: Any) -> Any:
        request = {"prompt_token_ids": ids, "multi_modal_data": {"image": image}}
        asked = {"mm_processor_kwargs": {"lftr": {"keep": keep}}}
        return llm.generate([{**request, **asked}], one, use_tqdm=False)[0]

    count = len(shown(KEEP).prompt_token_ids)
    short = [spare if n == token else n for n in ids] + [spare] * (count - len(ids))
    assert len(short) == count
    times = paired(
        [
            lambda: shown(KEEP),
            lambda: llm.generate([{"prompt_token_ids": short}], one, use_tqdm=False),
            lambda: shown(1.0),
        ],
        rounds,
    )
    names = ("reduced", "short", "full")
    figures: dict[str, Any] = {n: median(values) for n, values in zip(names, times, strict=True)}
    figures["reduced_over_short"] = ratio(times[0], times[1])
    figures["full_over_reduced"] = ratio(times[2], times[0])
    return {**figures, "prompt": count, "full_prompt": len(shown(1.0).prompt_token_ids)}


def _engine() -> dict[str, Any]:
    return {
        "load_format": "dummy",
        "max_model_len": 1024,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 2048,
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }


def _options(dtype: str) -> list[str]:
    return [
        *("--load-format", "dummy", "--max-model-len", "1024", "--max-num-seqs", "32"),
        *("--max-num-batched-tokens", "2048", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--dtype", dtype),
    ]


def _quartiles(values: Sequence[float]) -> list[float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything: the servers in turns, then the prefill in this process."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder, options = checkpoint(Path(name) / "model"), _options(arguments.dtype)
        logs = [Path(name) / f"log-{number}" for number in range(len(SERVERS))]
        sides = [
            (running.enter_context(server([*command, str(folder)], options, log)), None)
            for command, log in zip(SERVERS.values(), logs, strict=True)
        ]
        loads = compare(sides, arguments.concurrency, arguments.requests, arguments.turns)
        servers = [
            {"served_by": label, "loads": load, **_logged(log.read_text())}
            for label, load, log in zip(SERVERS, loads, logs, strict=True)
        ]
        running.pop_all().close()  # the prefill is timed with no server beside it
        return {"servers": servers, "prefill": prefill(folder, arguments.rounds, arguments.dtype)}


def _logged(log: str) -> dict[str, Any]:
    """Return what a server's log says: tokens that its cache holds, and lftr's last line."""
    said = [line.partition("lftr: ")[2] for line in log.splitlines() if "ms per item" in line]
    tokens = CACHE.search(log)
    assert tokens is not None
    return {"cache_tokens": int(tokens[1].replace(",", "")), "method": said[-1] if said else None}


def report(content: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    figures, on = content["figures"], content["machine"]
    head = ["concurrency", "served by", "prompt tokens", "TTFT ms (quartiles)", "requests/s",
            "new tokens/s", "throughput"]  # fmt: skip
    servers, rows = figures["servers"], []
    for plain, *others in zip(*(one["loads"] for one in servers), strict=True):
        for served, one in zip(servers, (plain, *others), strict=True):
            middle, low, high = one["ttft_ms"]
            pairs = zip(plain["seconds"], one["seconds"], strict=True)
            gain = statistics.median(before / after for before, after in pairs)
            rows.append(
                [
                    str(one["concurrency"]),
                    served["served_by"],
                    f"{one['prompt_tokens']:.0f}",
                    f"{middle:.0f} ({low:.0f}-{high:.0f})",
                    f"{one['requests_per_second']:.2f}",
                    f"{one['new_tokens_per_second']:.1f}",
                    f"{gain:.1f}x",
                ]
            )
    found = figures["prefill"]
    middle, low, high = found["reduced_over_short"]
    gain, least, most = found["full_over_reduced"]
    said = [
        f"- {one['served_by']}: the cache of the same size holds {one['cache_tokens']:,} tokens"
        + (f"; the log says: {one['method']}" if one["method"] else "")
        for one in servers
    ]
    return "\n".join(
        [
            f"`{content['command']}`, {on['cpu']}, {on['cores']} cores, torch {on['torch']}, vLLM "
            f"{figures['vllm']}, transformers {on['transformers']}:",
            "",
            table(head, rows),
            "",
            *said,
            "",
            f"Prefill with the image encoded already, {found['prompt']} tokens of "
            f"{found['full_prompt']}: {found['reduced'][0]:.0f} ms; a prompt of {found['prompt']} "
            f"text tokens {found['short'][0]:.0f} ms, ratio {middle:.2f} ({low:.2f}-{high:.2f}); "
            f"the full prompt {found['full'][0]:.0f} ms, {gain:.1f}x ({least:.1f}-{most:.1f}) as "
            "long.",
        ]
    )


def write(content: dict[str, Any]) -> None:
    """Put the figures into the page."""
    page = DOC.read_text()
    before, _, rest = page.partition(BEGIN)
    DOC.write_text(f"{before}{BEGIN}\n{report(content)}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server of lftr serve that runs already")
    parser.add_argument("--keep", default=KEEP, help="of the requests to that server")
    parser.add_argument("--requests", type=int, default=8, help="at least, for each concurrency")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--doc", action="store_true", help="write the last results into the page")
    arguments = parser.parse_args()
    if arguments.doc:
        write(json.loads((Path(__file__).parent / "results" / "serving.json").read_text()))
        return
    if arguments.url:
        asked = [(arguments.url, 1.0), (arguments.url, arguments.keep)]
        compare(asked, arguments.concurrency, arguments.requests, arguments.turns)
        return
    figures = measure(arguments)
    command = (
        f"{COMMAND} --requests {arguments.requests} --turns {arguments.turns} "
        f"--rounds {arguments.rounds} --dtype {arguments.dtype} "
        f"--concurrency {' '.join(map(str, arguments.concurrency))}"
    )
    path = save("serving", command, figures | {"vllm": check_version()[1]})
    print(report(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
