"""Ask a server that `lftr serve` started, with the stock OpenAI client (``pip install openai``).

lftr serve --port 8000
python examples/serving/client.py picture.png "What is this?"

A video (`.mp4`) works the same on models that take one. The same question three times: by the
server's own setting, with a quarter of the tokens chosen by another method, and with all of them.
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
from pathlib import Path
from typing import Any

import openai


def main(file: str, question: str, server: str) -> None:
    """Print the answers, and how many tokens each prompt had."""
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="-")
    model = client.models.list().data[0].id
    kind = mimetypes.guess_type(file)[0] or "image/png"
    part = "video_url" if kind.startswith("video/") else "image_url"
    data = base64.b64encode(Path(file).read_bytes()).decode()
    content: Any = [
        {"type": part, part: {"url": f"data:{kind};base64,{data}"}},
        {"type": "text", "text": question},
    ]
    for asked in ({}, {"keep": 0.25, "method": "divprune"}, {"keep": 1.0}):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=32,
            temperature=0,
            extra_body={"mm_processor_kwargs": {"lftr": asked}},
        )
        tokens = answer.usage.prompt_tokens if answer.usage else "?"
        print(f"{answer.choices[0].message.content!r}: {tokens} tokens, asked for {asked}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="a picture or a video")
    parser.add_argument("question")
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8000")
    main(**vars(parser.parse_args()))
