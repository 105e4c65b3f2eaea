"""One question, answered with all visual tokens and with those that a method keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...drawing import draw_item, processed_part, stack_vertically
from ...media import read_image
from ...methods import get_method
from ...values.budget import parse_keep
from ...values.errors import ArgumentError
from ..asking.answering import Answer, answer_batch
from ..asking.items import Question
from ..asking.settings import Setting, full_model

_ANSWER_TOKENS = 32
_SIDE = 480  # pixels


@dataclass(frozen=True)
class Comparison:
    """Both answers, and the tokens that stayed.

    Attributes
    ----------
    image, kept : PIL.Image.Image
        The image as the processor crops it, and the tokens that stayed.
    full, reduced : Answer
        Answers with all tokens and with the kept ones.
    """

    image: Image.Image
    kept: Image.Image
    full: Answer
    reduced: Answer

    @property
    def verdict(self) -> str:
        """A sentence that says whether both answers are the same."""
        same = self.full.text == self.reduced.text
        return "Both answers are the same." if same else "The answers differ."

    @property
    def table(self) -> str:
        """Tokens and times of both, as Markdown."""
        heads = ["", "all", "some"]
        tokens = ["visual tokens", str(self.full.kept), str(self.reduced.kept)]
        times = zip(_times(self.full), _times(self.reduced), strict=True)
        rows = [[name, f"{full:.1f}", f"{some:.1f}"] for (name, full), (_, some) in times]
        lines = [heads, ["---", "---:", "---:"], tokens, *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _times(answer: Answer) -> list[tuple[str, float]]:
    ms = answer.ms
    return [
        ("vision encoder, ms", ms.encode),
        ("method, ms", ms.method),
        ("language model and bookkeeping, ms", ms.total - ms.encode - ms.method),
        ("all, ms", ms.total),
    ]


def compare_answers(
    model: Any,
    processor: Any,
    text_tower: Any,
    image: str | Path | Image.Image | None,
    question: str,
    method: str,
    keep: str,
) -> Comparison:
    """Ask a question with all visual tokens and with those that a method keeps.

    Parameters
    ----------
    image : path or PIL.Image.Image
        Read by `lftr.media.read_image`.
    keep : str
        As the command line spells it: ``1/16``, ``0.25``, ``64``.

    Raises
    ------
    ArgumentError
        If there is no question or no image that can be read, or the method or the budget is not
        allowed.
    """
    if image is None:
        raise ArgumentError.of("image", None, "an image, uploaded or picked")
    if not question.strip():
        raise ArgumentError.of("question", question, "a text")
    picture = read_image(image)
    settings = [full_model(), Setting(method, get_method(method), parse_keep(keep.strip()))]
    answers = answer_batch(
        model,
        processor,
        [Question([picture], question.strip())],
        settings,
        text_tower=text_tower,
        max_new_tokens=_ANSWER_TOKENS,
    )
    (full,), (reduced,) = (outcome for _, outcome in answers)
    part = processed_part(processor, picture)
    kept = stack_vertically([draw_item(item, part, _SIDE) for item in reduced.items])
    whole = part.resize((round(kept.height * part.width / part.height), kept.height))
    return Comparison(whole, kept, full, reduced)
