"""``lftr run``: ask a model about images, from a fraction of their tokens."""

from __future__ import annotations

import os.path
import time
from typing import Annotated

import torch
import typer

from ..errors import ArgumentError
from ..prompting import inputs_of, read_image
from ..reduce import reduce
from . import options
from .loading import load_model
from .parsing import parse_device, parse_dtype, parse_method
from .terminal import print_json, stdout, working


def run(
    words: Annotated[
        list[str],
        typer.Argument(metavar='IMAGE... "question"', help="Image files, then the question."),
    ],
    model: options.Model = None,
    method: options.MethodName = "lftr",
    keep: options.Keep = "1/16",
    option: options.Options = None,
    positions: options.Positions = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer.")] = 64,
    as_json: options.Json = False,
) -> None:
    """Ask a question about one or more images; prints the answer and what was dropped."""
    *paths, question = words
    if not paths or os.path.isfile(question):
        raise ArgumentError.of("IMAGE", question, 'one or more image files, then a "question"')
    chosen = parse_method(method, option or [])
    images = [read_image(path) for path in paths]
    loaded = load_model(
        model, parse_device(device), parse_dtype(dtype), text_tower, options.needs_tower(chosen)
    )
    inputs = inputs_of(loaded.processor, images, question)
    inputs = inputs.to(loaded.model.device, dtype=loaded.model.dtype)
    on = reduce(
        loaded.model,
        chosen,
        keep=keep,
        positions=positions,
        text=question,
        processor=loaded.processor,
        text_tower=loaded.text_tower,
    )
    with on as reduction, torch.inference_mode(), working("answering"):
        start = time.perf_counter()
        ids = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        seconds = time.perf_counter() - start
    new = ids[:, inputs["input_ids"].shape[1] :]
    answer = loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip()
    if as_json:
        print_json(
            {
                "answer": answer,
                "model": loaded.name,
                "question": question,
                "images": paths,
                "seconds": seconds,
                "report": reduction.report.to_dict(),
            }
        )
        return
    console = stdout()
    console.print(answer, markup=False, highlight=False, soft_wrap=True)
    console.print(str(reduction.report), markup=False, style="dim", soft_wrap=True)
