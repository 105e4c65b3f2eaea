"""Methods that a prompt's text guides: as on transformers, and known by that text in caches."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

import lftr
from lftr.hosts.vllm.request.request_setting import TEXTS, fitting, seen_by
from lftr.values.evidence import fields_from

from . import tiny
from .engines import Answer, Question, Served, Spelled, recorded

# without a text tower, by the models that provide most
PROVIDED = fields_from("features", "projector", "attention", "cls", "frames", "prompt", "language")
BY_DEFAULT = [
    name for name in fitting(PROVIDED) if TEXTS & seen_by(lftr.get_method(name), PROVIDED)
]
VIDEO = [name for name in BY_DEFAULT if ".video." in type(lftr.get_method(name)).__module__]
GUIDED: list[tuple[str, dict[str, Any]]] = [
    ("lftr", {"relevance": "text"}),
    ("lftr", {"relevance": "both", "text_sign": "negative"}),
    ("hiprune", {"text_share": 0.5}),
    *((name, {}) for name in BY_DEFAULT if name not in VIDEO),
]
OTHER = "<s> t40 t41 {} t99 t100 t101"
TRIM = Question(((40, 36),), 5, 0.25, "trim")


def indices(choices: Any) -> list[list[int]]:
    return [one.index.tolist() for one in choices]


def under(served: Served, question: Question, text: str) -> Spelled:
    """The same images under another text."""
    fields = {name: getattr(question, name) for name in Question.__dataclass_fields__}
    return Spelled(**fields, text=text.format(served.tiny.sign))


def check(served: Served, question: Question) -> Answer:
    with recorded() as chosen:
        (answer,) = served.ask(question)
    wanted, decisions = served.on_transformers(question)
    # images are encoded before clips
    assert sorted(indices(chosen)) == sorted(indices(decisions))
    assert answer == wanted
    return answer


def counters() -> dict[str, float]:
    from prometheus_client import REGISTRY

    names = ("guided_items", "guided_again")
    values = {n: REGISTRY.get_sample_value(f"lftr:{n}_total", {"method": "trim"}) for n in names}
    return {name: value or 0 for name, value in values.items()}


@pytest.mark.parametrize(("method", "options"), GUIDED, ids=str)
def test_as_on_transformers(served: Served, method: str, options: dict[str, Any]) -> None:
    if method == "hawk" and served.tiny.name.startswith("qwen3_5"):
        pytest.skip("its first layer has no attention")
    for size, keep in (((40, 36), 0.25), ((20, 64), 7)):
        question = Question((size,), 5, keep, method, options)
        check(served, question)
        check(served, under(served, question, OTHER))


@pytest.mark.parametrize("method", ["trim", *VIDEO])
def test_clips_as_on_transformers(served: Served, method: str) -> None:
    """Alone, beside an image in either order, and two of them."""
    if not served.tiny.takes_clips:
        pytest.skip("takes no videos")
    if served.tiny.name.startswith("qwen3"):
        pytest.skip("transformers takes the time of a clip's first frame for text of the prompt")
    for asked, keep in zip(Served.FILMED, (0.3, 0.25, 0.5, 9), strict=True):
        check(served, Question(asked.sizes, asked.seed, keep, method))


def test_what_asks_nothing_is_encoded_once(served: Served) -> None:
    """Coverage has no share for the text where there is no text tower."""
    question = Question(((40, 36),), 5, 0.25, "coverage")
    check(served, question)
    with recorded() as chosen:
        served.ask(under(served, question, OTHER))
    assert chosen == []


def test_several_images(served: Served) -> None:
    """All text of the prompt guides the choice in each, that between them included."""
    if served.tiny.name == "llava_onevision":
        pytest.skip("transformers encodes images that share a prompt without tiles, vLLM with them")
    check(served, Question(((40, 36), (24, 44), (90, 20)), 7, 0.3, "trim"))


def test_one_image_under_two_texts(served: Served) -> None:
    """In one step and one after the other: encoded once for each text, and once for the same."""
    one = Question(((44, 40),), 77, 0.25, "trim")
    other = under(served, one, OTHER)
    (first, chosen_first), (second, chosen_second) = map(served.on_transformers, (one, other))
    assert indices(chosen_first) != indices(chosen_second)
    before = counters()
    with recorded() as chosen:
        assert served.ask(one, other, one) == [first, second, first]
    assert sorted(indices(chosen)) == sorted(indices(chosen_first + chosen_second))
    with recorded() as chosen:
        assert [*served.ask(other), *served.ask(one)] == [second, first]
    assert chosen == []
    after = counters()
    assert {name: after[name] - before[name] for name in after} == {
        "guided_items": 5,
        "guided_again": 1,
    }


def test_without_the_text_in_the_hash(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above find it if an image is known without its text."""
    from lftr.hosts.vllm.request import processing

    monkeypatch.setattr(processing, "guided_hash", lambda item, *_: item)
    other = under(served, TRIM, OTHER)
    served.forget()
    first, second = served.on_transformers(TRIM), served.on_transformers(other)
    with recorded() as chosen:
        answers = [*served.ask(TRIM), *served.ask(other)]
    assert answers != [first[0], second[0]]
    assert indices(chosen) == indices(first[1])
    monkeypatch.undo()
    served.forget()
    assert [*served.ask(TRIM), *served.ask(other)] == [first[0], second[0]]


def test_beside_others(served: Served) -> None:
    """Guided or not, and keeping all, in one batch as alone."""
    asked = [
        TRIM,
        Question(((40, 36),), 5, 0.25, "divprune"),
        under(served, TRIM, OTHER),
        Question(((40, 36),), 5, 1.0, "trim"),
        Question(((40, 36),), 5, 0.25, "lftr", {"relevance": "text"}),
        Question((), 4, 0.25, "trim"),
    ]
    served.forget()
    together = served.ask_together(*asked)
    assert together[-1] == served.stock[Served.TEXT]  # text alone
    assert together[3] == served.ask(Question(((40, 36),), 5, 1.0))[0]


def test_ids_of_a_prompt(served: Served) -> None:
    """A prompt of ids is guided as the same text is."""
    request = TRIM.request(served.tiny)
    (wanted,) = served.ask(TRIM)
    tokenizer = served.tiny.processor.tokenizer
    ids = tokenizer(request.pop("prompt"), add_special_tokens=False)["input_ids"]
    served.forget()
    with recorded() as chosen:
        (answer,) = served.ask_as({"prompt_token_ids": ids, **request})
    assert answer == wanted
    assert indices(chosen) == indices(served.on_transformers(TRIM)[1])


def test_what_is_refused(served: Served) -> None:
    """No text, too much of it, and places that a client typed; the next request is answered."""
    from vllm.exceptions import VLLMValidationError

    (wanted,) = served.ask(TRIM)
    # these models' marks count as text, also on transformers
    marked = served.tiny.name in ("internvl", "gemma3", *tiny.TAGGED)
    for text, error, message in (
        ("<s>{}", lftr.LftrError, None if marked else "the prompt has no text"),
        ("<s> t9 {}" + " t7" * tiny.LENGTH, VLLMValidationError, "maximum context length"),
    ):
        if message is None:
            continue
        request = under(served, TRIM, text).request(served.tiny)
        with pytest.raises(error, match=message):
            served.ask_as(request)
        assert served.ask(TRIM) == [wanted]
    new = Question(((28, 44),), 6, 0.25, "trim")
    before = counters()["guided_again"]
    with pytest.raises(VLLMValidationError):
        served.ask_as(under(served, new, "<s> t9 {}" + " t7" * tiny.LENGTH).request(served.tiny))
    served.ask(new)
    assert counters()["guided_again"] == before  # it had been encoded under no other text
    typed = under(served, TRIM, "<s> t9 {0} t20 {0} t30").request(served.tiny)
    with contextlib.suppress(ValueError):  # on the Qwen-VL models
        served.ask_as(typed)
    served.forget()
    assert served.ask(TRIM) == [wanted]
    request = TRIM.request(served.tiny)
    request["mm_processor_kwargs"]["lftr_questions"] = {"image": [[1]]}  # not a client's to state
    assert served.ask_as(request) == [wanted]


def test_a_first_layer_without_attention(served: Served) -> None:
    if not served.tiny.name.startswith("qwen3_5"):
        pytest.skip("its first layer has attention")
    layered = Question(((40, 36),), 5, 0.25, "hawk")
    with pytest.raises(lftr.LftrError, match=r"needs text_products, which .* this model's first"):
        served.ask(layered)
    with pytest.raises(lftr.LftrError, match="text_products"):
        served.on_transformers(layered)


def test_embeddings_of_a_prompt_are_refused(served: Served) -> None:
    from vllm.exceptions import VLLMValidationError  # vLLM 0.33's

    request = TRIM.request(served.tiny)
    del request["prompt"]
    with pytest.raises((ValueError, VLLMValidationError), match=r"enable.prompt.embeds"):
        served.ask_as({"prompt_embeds": torch.zeros(9, tiny.WIDTH), **request})
