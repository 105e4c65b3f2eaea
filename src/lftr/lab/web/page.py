"""The page: its elements, and what its button does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

from ...methods import list_methods
from ...values.errors import LftrError, MissingExtraError, raise_unanswered
from ..suites import Example
from .comparison import Comparison

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError.of(error.name or "gradio", "demo") from None

KEEPS = ("1/2", "1/4", "1/8", "1/16", "1/32")
Ask = Callable[[str | None, str, str, str], Comparison]


def build(ask: Ask, scenes: Sequence[Example], method: str = "lftr") -> gr.Blocks:
    """Return the page, without serving it.

    Parameters
    ----------
    ask : callable
        Takes an image's path, a question, a method and a budget; returns both answers.
    scenes : sequence of Example
        Scenes to pick from; the first is shown at the start.
    method : str
        The method that is selected at the start, as `get_method` takes it; it is on the menu beside
        those that `list_methods` returns.
    """
    with gr.Blocks(title="lftr", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# lftr\nOne question, answered from all visual tokens and from some of them. The "
            "small model inside the package knows scenes like these and some sixty words; it "
            "shows how methods behave, not how other models would."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    scenes[0].image,
                    type="filepath",  # as it was uploaded: gradio would lose depth and alpha
                    image_mode=None,
                    format="png",  # as it is, not compressed on its way to the page and back
                    sources=["upload", "clipboard"],
                    label="Image",
                    height=300,
                    elem_id="image",
                )
                gr.Markdown("Or a scene of the bundled suite:")
                image.preprocess = partial(_path_of, image.preprocess)
                picked = gr.Gallery(
                    [scene.image for scene in scenes],
                    show_label=False,
                    columns=3,
                    height=240,
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="scenes",
                )
                question = gr.Textbox(scenes[0].question, label="Question", elem_id="question")
                with gr.Row():
                    names = list(dict.fromkeys([*list_methods("before"), method]))
                    name = gr.Dropdown(names, value=method, label="Method", min_width=140)
                    keep = gr.Dropdown(
                        list(KEEPS),
                        value="1/16",
                        label="Keep",
                        allow_custom_value=True,
                        min_width=140,
                    )
                button = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column(scale=3, min_width=300):
                with gr.Row():
                    with gr.Column(min_width=140):
                        gr.Markdown("What the model is shown")
                        kept_picture = _picture("What the model is shown", "shown")
                        full = gr.Textbox(label="Answer from all tokens", elem_id="full")
                    with gr.Column(min_width=140):
                        gr.Markdown("The tokens that stayed")
                        kept = _picture("Tokens that stayed", "kept")
                        reduced = gr.Textbox(label="Answer from some", elem_id="reduced")
                verdict = gr.Markdown(elem_id="verdict")
                table = gr.Markdown(elem_id="table")

        def pick(event: gr.SelectData) -> tuple[Image.Image, str]:
            return scenes[event.index].image, scenes[event.index].question

        picked.select(pick, None, [image, question])
        gr.on(
            [button.click, question.submit],
            partial(_answer, ask),
            [image, question, name, keep],
            [kept_picture, kept, full, reduced, verdict, table],
            concurrency_limit=1,  # a model is reduced by one thread at a time
        )
    return page


def _path_of(otherwise: Callable[[Any], str | None], upload: Any) -> str | None:
    """Return the path of an upload.

    Gradio's own function opens the file, and raises a traceback if Pillow cannot read it.
    """
    path: str | None = getattr(upload, "path", None)
    return otherwise(upload) if path is None else path


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, show_label=False, interactive=False, buttons=[], format="png", elem_id=name
    )


def _answer(
    ask: Ask, image: str | None, question: str, method: str, keep: str
) -> tuple[Image.Image, Image.Image, str, str, str, str]:
    try:
        with raise_unanswered():
            comparison = ask(image, question, method, keep)
    except LftrError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return (
        comparison.image,
        comparison.kept,
        comparison.full.text,
        comparison.reduced.text,
        f"**{comparison.verdict}**",
        comparison.table,
    )
