"""The plugin itself: what it makes of a task's messages and generation arguments."""

from __future__ import annotations

import types

import pytest
import torch

import lftr
from lftr import suites
from lftr.lab.scoring.metrics import anls
from lftr.lab.scoring.vqa import CONTRACTIONS, vqa_normalise
from lftr.prompting import batch_inputs
from lftr.values.errors import ArgumentError, LftrError, UnsupportedModelError

from .conftest import MISSING

pytest.importorskip("lmms_eval", reason=MISSING)
metrics = pytest.importorskip("lmms_eval.api.metrics")
vqa_eval_metric = pytest.importorskip("lmms_eval.tasks._task_utils.vqa_eval_metric")
get_model = pytest.importorskip("lmms_eval.models").get_model

GREEDY = {"max_new_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def model():
    return get_model("lftr_hf").create_from_arg_string("pretrained=bundled,keep=0.0625")


@pytest.fixture(scope="module")
def examples():
    return list(suites.load("scenes", split="validation", n=3))


def ask(model, *asked):
    """Put conversations to the model as lmms-eval does; each with what it generates with."""
    contents = [content for content, _ in asked]
    model.task_dict["t"] = {"test": list(range(len(asked)))}

    def messages(document):
        return [{"role": "user", "content": contents[document]}]

    requests = [
        types.SimpleNamespace(args=("context", messages, kwargs, number, "t", "test"))
        for number, (_, kwargs) in enumerate(asked)
    ]
    return model.generate_until(requests)


def content(example, images=1):
    parts = [{"type": "image", "url": example.image}] * images
    return [*parts, {"type": "text", "text": example.question}]


def own(model, examples, **kwargs):
    inputs = batch_inputs(model.processor, [([e.image], e.question) for e in examples])
    with lftr.reduce(model.model, "lftr", keep=1 / 16), torch.inference_mode():
        ids = model.model.generate(**inputs, do_sample=False, max_new_tokens=4, **kwargs)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = model.processor.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def test_answers_come_back_in_order_whatever_they_generate_with(model, examples):
    alone = [own(model, [example])[0] for example in examples]
    more = GREEDY | {"num_beams": 2, "do_sample": False}
    asked = [(content(e), k) for e, k in zip(examples, [GREEDY, more, GREEDY], strict=True)]
    answers = ask(model, *asked)
    assert answers == [alone[0], own(model, [examples[1]], num_beams=2)[0], alone[2]]


@pytest.mark.parametrize("batch", [1, 2])
def test_texts_without_images_and_several_images_go_through(model, examples, monkeypatch, batch):
    monkeypatch.setattr(model, "batch_size", batch)
    plain = [{"type": "text", "text": "Is it red?"}]
    answers = ask(model, (plain, GREEDY), (content(examples[0], images=2), GREEDY))
    assert all(answers)


def test_a_processor_without_a_chat_template(model, examples, monkeypatch):
    monkeypatch.setattr(model.processor, "chat_template", None)
    assert ask(model, (content(examples[0]), GREEDY)) == own(model, examples[:1])


def test_a_system_prompt_stands_in_front(model, examples, monkeypatch):
    seen = []
    whole = model.processor.apply_chat_template

    def note(conversations, **kwargs):
        seen.extend(conversations)
        return whole([one[1:] for one in conversations], **kwargs)

    monkeypatch.setattr(model.processor, "apply_chat_template", note)
    monkeypatch.setattr(model, "system_prompt", "Be brief.")
    ask(model, (content(examples[0]), GREEDY))
    assert seen[0][0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert seen[0][1]["content"][0] == {"type": "image", "image": examples[0].image}


def test_a_text_ends_at_its_stops(model, examples):
    (answer,) = ask(model, (content(examples[0]), GREEDY))
    stops = GREEDY | {"until": [answer[1:]]}
    assert ask(model, (content(examples[0]), stops)) == [answer[:1]]


@pytest.mark.parametrize(("word", "exponent"), [("none", 0.0), ("0.5", 0.5), (None, 1.0)])
def test_weights(model, examples, monkeypatch, word, exponent):
    from lftr.hosts.transformers import reduction

    seen = []
    with_weights = reduction.with_weights

    def noted(*plan):
        seen.append(with_weights(*plan).weights)
        return with_weights(*plan)

    monkeypatch.setattr(reduction, "with_weights", noted)
    monkeypatch.setattr(model, "weights", word)
    ask(model, (content(examples[0]), GREEDY))
    assert seen == [exponent]
    words = f"pretrained=bundled,weights={word or 'size'}"
    assert get_model("lftr_hf").create_from_arg_string(words).weights is not None
    with pytest.raises(ArgumentError, match="weights = 'half'"):
        get_model("lftr_hf").create_from_arg_string("pretrained=bundled,weights=half")


def test_text_guided_methods_are_given_the_question(examples, monkeypatch):
    guided = get_model("lftr_hf").create_from_arg_string("method=trim,tokens=36")
    asked, whole = [], lftr.TextTower.embed

    def note(tower, text):
        asked.append(text)
        return whole(tower, text)

    monkeypatch.setattr(lftr.TextTower, "embed", note)
    assert all(ask(guided, (content(examples[0]), GREEDY)))
    assert asked == [examples[0].question]


def test_videos_and_other_kinds_of_task_are_refused(model):
    video = [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "?"}]
    with pytest.raises(UnsupportedModelError, match="task = 't'; allowed: tasks of images"):
        ask(model, (video, GREEDY))
    for verb in ("loglikelihood", "generate_until_multi_round"):
        with pytest.raises(LftrError, match="allowed: 'generate_until'"):
            getattr(model, verb)([])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("keep=0", "keep = 0"),
        ("method=lfrt", "did you mean 'lftr'"),
        ("method=random,sed=3", "did you mean 'seed'"),
        ("batch_size=auto", "batch_size = 'auto'"),
        ("dtype=int3", "dtype = 'int3'"),
    ],
)
def test_bad_arguments_say_what_is_allowed(arguments, said):
    with pytest.raises(ArgumentError, match=said):
        get_model("lftr_hf").create_from_arg_string(arguments)


def test_scores_are_those_of_lmms_eval():
    """Where both follow the VQA server and the ANLS paper; possessives they treat apart."""
    theirs = vqa_eval_metric.EvalAIAnswerProcessor()
    for wrong in CONTRACTIONS:
        assert theirs(wrong) == vqa_normalise(wrong) or "'s" in wrong
    said = "The two dogs.|red/blue|1,000|1.5 m.|a cat and an owl|dont|(left)|top-left|New\nYork|no!"
    for text in said.split("|"):
        assert theirs(text) == vqa_normalise(text), text
    for answer, answers in [("helo", ["hello"]), ("he", ["hello"]), ("Hel", ["hello", "help"])]:
        assert anls(answer, answers) == pytest.approx(metrics.anls(answers, [answer])["anls"])
