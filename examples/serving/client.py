"""Ask a server that `lftr serve` started, with the stock OpenAI client (``pip install openai``).

lftr serve --port 8000
python examples/serving/client.py picture.png "What is this?"

Pictures and clips are read as every verb of lftr reads them: upright, transparency on white, pixels
square. A clip (a video file, an animated picture, a folder of frames), on models that take one, is
sent as eight JPEGs, without their times. The same question three times: by the server's own
setting, with a quarter of the tokens chosen by another method, and with all of them.
"""

from __future__ import annotations

import argparse
import base64
import io
from typing import Any

import openai
from PIL import Image

from lftr.media import is_clip, load_clip, read_image


def main(file: str, question: str, server: str) -> None:
    """Print the answers, and how many tokens each prompt had."""
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="-")
    model = client.models.list().data[0].id
    content: Any = [part_of(file), {"type": "text", "text": question}]
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


def part_of(file: str) -> dict[str, Any]:
    """Return a picture or a clip as a part of a message."""
    if is_clip(file):
        frames = ",".join(written(frame, "JPEG", quality=95) for frame in load_clip(file).frames)
        return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    picture = written(read_image(file), "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}


def written(picture: Image.Image, format: str, **options: Any) -> str:
    """Return a picture's file in base64."""
    content = io.BytesIO()
    picture.save(content, format, **options)
    return base64.b64encode(content.getvalue()).decode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="a picture or a clip")
    parser.add_argument("question")
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8000")
    main(**vars(parser.parse_args()))
