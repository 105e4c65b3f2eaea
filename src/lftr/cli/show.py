"""``lftr show``: a picture of the tokens that stayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..values.errors import raise_unanswered
from . import options


def show(
    image: Annotated[
        str, typer.Argument(help="An image, a video, an animated GIF or a folder of frames.")
    ],
    question: Annotated[
        str, typer.Option("--question", help="The question, for methods that are guided by it.")
    ] = "What is in the image?",
    out: options.Picture = Path("lftr-show.png"),
    model: options.Model = None,
    method: options.MethodNames = None,
    keep: options.Keep = None,
    tokens: options.Tokens = None,
    option: options.Options = None,
    encoder: options.Encoder = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Draw which tokens stayed and, with merging in the encoder or after it, which flowed where.

    Of a clip a sheet of its frames, or a GIF where --out ends so.
    """
    import torch

    from ..drawing import draw_item, processed_part, stack_vertically
    from ..media import Clip
    from .frame_sheet import check_picture, frame_pictures, save, save_frames
    from .loading import load_model
    from .media_args import moves, read_medium
    from .parsing import parse_setting
    from .terminal import print_json, say, show_spinner

    check_picture(out)
    chosen = parse_setting(method, keep, tokens, option, encoder=encoder)
    medium = read_medium(image, frames, fps)
    loaded = load_model(model, device, dtype, chosen.methods, text_tower, moves([medium]))
    inputs, on = loaded.inputs([medium], question), loaded.reduce(chosen, [medium], question)
    with raise_unanswered(), on as reduction, torch.inference_mode(), show_spinner("looking"):
        loaded.model(**inputs, logits_to_keep=1)
    report = reduction.report
    items = [left for item in report.items if (left := report.innermost(item)) is not None]
    if isinstance(medium, Clip):
        save_frames(frame_pictures(items[0], medium, loaded.processor), medium, out)
    else:
        part = processed_part(loaded.processor, medium)
        save(stack_vertically([draw_item(item, part) for item in items]), out)
    if as_json:
        print_json({"picture": str(out), "question": question, "report": report.to_dict()})
        return
    say(str(report), style="dim")
    say(f"picture: {out}")
