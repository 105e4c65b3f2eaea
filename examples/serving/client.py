"""Ask a server that `lftr serve` started, with the stock OpenAI client (``pip install openai``).

lftr serve --port 8000
python examples/serving/client.py picture.png "What is this?"

The same question three times: by the server's own setting, with a quarter of the image's tokens
chosen by another method, and with all of them.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import openai


def main(picture: str, question: str, server: str = "http://127.0.0.1:8000") -> None:
    """Print the answers, and how many tokens each prompt had."""
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="-")
    model = client.models.list().data[0].id
    image = base64.b64encode(Path(picture).read_bytes()).decode()
    content: Any = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
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
    main(*sys.argv[1:])
