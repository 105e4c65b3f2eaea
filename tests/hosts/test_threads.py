"""Threads: two models at once are two models alone; one model belongs to one reducing thread."""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import zoo
from torch import nn
from transformers import TextIteratorStreamer, TextStreamer

import lftr
from lftr.evidence.attention import attention_modules
from lftr.hosts.transformers.encoder import encode
from lftr.hosts.transformers.families import family_of
from lftr.hosts.transformers.hooks import hooks_of
from lftr.values.errors import MissingEvidenceError

from .support import FAMILIES, NEW, SQUARE, WIDE, Asking, Prompt, ZooEntry, fresh, interleaved


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each function returns, or raises, when all run at once."""
    results: list[Any] = [None] * len(works)
    ready = threading.Barrier(len(works))

    def run(index: int) -> None:
        ready.wait()
        try:
            with torch.no_grad():
                results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def answers(prompt: Prompt, method: str, keep: float) -> list[list[int]]:
    with lftr.reduce(prompt.model, method, keep=keep):
        return [prompt.generate(NEW).sequences.tolist() for _ in range(3)]


@pytest.mark.parametrize("method", ["random", "lftr", "vispruner"])
def test_two_models(llava: ZooEntry, method: str) -> None:
    first = Prompt(llava)
    second = Prompt(llava, model=llava.build(seed=1))
    third = Prompt(FAMILIES["qwen2_5_vl"])
    works = [
        lambda: answers(first, method, 0.4),
        lambda: answers(second, method, 0.2),
        lambda: answers(third, "lftr", 0.3),
    ]
    assert together(*works) == [work() for work in works]


def test_one_model_from_two_threads(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with lftr.reduce(prompt.model, "random", keep=0.4) as reduction:
        (error,) = together(lambda: lftr.reduce(prompt.model, "random", keep=0.2))
        assert isinstance(error, lftr.LftrError)
        assert "another thread" in str(error)
        prompt.generate(1)
        assert reduction.report.kept == 45
    (freed,) = together(lambda: answers(prompt, "random", 0.4))
    assert freed == answers(prompt, "random", 0.4)


@pytest.mark.parametrize("kind", ["model", "module"])
def test_a_reduction_that_is_on_from_two_threads(llava: ZooEntry, kind: str) -> None:
    """Another thread's block would take it off under the first when it ends."""
    if kind == "model":
        reduction: Any = lftr.reduce(Prompt(llava).model, "random", keep=0.4)
    else:
        reduction = lftr.reduce_module(nn.Linear(4, 6), "uniform", tokens=3)

    def enter() -> str:
        with reduction:
            return "entered"

    for _ in range(2):  # laid on by `reduce`, then by a block of its own
        with reduction:
            (error,) = together(enter)
            assert isinstance(error, lftr.LftrError)
            assert "attached by another thread" in str(error)
            assert reduction.on
        assert not reduction.on
    assert together(enter) == ["entered"]
    assert not reduction.on


def test_a_module_is_copied_while_it_is_reduced() -> None:
    module = nn.Linear(4, 6)
    with lftr.reduce_module(module, "uniform", tokens=3):
        copied = copy.deepcopy(module)
        assert torch.equal(copied(states := torch.randn(2, 9, 4)), module(states))


def test_generate_in_another_thread(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    with lftr.reduce(prompt.model, "lftr", keep=0.4):
        expected = prompt.generate().sequences
        (found,) = together(lambda: prompt.generate().sequences)
        left, right = together(prompt.generate, prompt.generate)
    for output in (found, left, right):
        assert not isinstance(output, Exception), traceback.format_exception(output)
    for sequences in (found, left.sequences, right.sequences):
        assert torch.equal(sequences, expected)


def test_layers_in_two_threads(llava: ZooEntry) -> None:
    """Each thread's forward goes down its own rows."""
    prompt, other = Prompt(llava), Prompt(llava, [SQUARE])
    with lftr.reduce(prompt.model, "fastv"):
        expected = [prompt.generate().sequences, other.generate().sequences]
        for _ in range(5):
            found = together(prompt.generate, other.generate, prompt.generate)
            for output in found:
                assert not isinstance(output, Exception), traceback.format_exception(output)
            assert torch.equal(found[0].sequences, expected[0])
            assert torch.equal(found[1].sequences, expected[1])
            assert torch.equal(found[2].sequences, expected[0])


class Digits:
    """A tokenizer that writes ids as numbers."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"{int(i)} " for i in ids)


def test_text_iterator_streamer(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    streamer = TextIteratorStreamer(Digits(), skip_prompt=True, timeout=30)
    with lftr.reduce(prompt.model, "random", keep=0.4):
        expected = prompt.generate().sequences[0, -NEW:].tolist()

        def work() -> None:
            with torch.no_grad():
                prompt.generate(streamer=streamer)

        thread = threading.Thread(target=work)
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert list(map(int, text.split())) == expected


def test_text_streamer(llava: ZooEntry, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.generate(streamer=TextStreamer(Digits(), skip_prompt=True))
    assert list(map(int, capsys.readouterr().out.split())) == output.sequences[0, -NEW:].tolist()


def test_threads_of_copies(llava: ZooEntry) -> None:
    """A copy of a model that is being reduced is not reduced, and can be elsewhere."""
    prompt = Prompt(llava, model=fresh(llava))
    plain = prompt.generate().sequences
    copied = Prompt(llava, model=fresh(llava))
    with lftr.reduce(prompt.model, "random", keep=0.2):
        (found,) = together(lambda: copied.generate().sequences)
    assert torch.equal(found, plain)


def test_a_thread_with_the_number_of_a_dead_one_owns_nothing(llava: ZooEntry) -> None:
    """The system gives numbers of threads anew; who reduces is the thread, not its number."""
    prompt = Prompt(llava)
    dead = threading.Thread(target=lambda: lftr.reduce(prompt.model, "random", keep=0.4))
    dead.start()
    dead.join()
    done, waiting = threading.Event(), []
    try:
        for _ in range(50):
            waiting.append(threading.Thread(target=done.wait))
            waiting[-1].start()
            if waiting[-1].ident == dead.ident:
                break
        else:
            pytest.skip("this system gave the number to no later thread")
        with lftr.reduce(prompt.model, "random", keep=0.2) as reduction:
            prompt.generate(1)
        assert reduction.report.kept > 0
    finally:
        done.set()
        for thread in waiting:
            thread.join()
        hooks = hooks_of(prompt.model)
        assert hooks is not None
        for left in list(hooks.stack):
            left.remove()


@pytest.mark.parametrize("field", ["attention_received", "keys", "encoder_features"])
def test_a_call_within_an_encoding(entry: ZooEntry, field: str) -> None:
    """What is read off the encoder is the thread's own, whoever encodes meanwhile."""
    prompt, other = Prompt(entry, [WIDE]), Prompt(entry, [SQUARE])
    family = family_of(prompt.model)
    tower = family.module(prompt.model, family.tower)
    inside = [*attention_modules(tower), tower][0]
    part = next(p for p in inside.modules() if isinstance(p, (nn.Linear, nn.Conv2d)))
    method = ByThread(field)
    try:
        reduction = lftr.reduce(prompt.model, method, keep=0.4)
    except MissingEvidenceError as missing:
        pytest.skip(str(missing))
    with reduction:
        plain = other.generate(1).logits[0]
        logits, seen = prompt.generate(1).logits[0], method.seen[threading.get_ident()]
        with interleaved(part, lambda: other.generate(1).logits[0]) as others:
            found = prompt.generate(1).logits[0]
    assert others
    assert all(isinstance(one, torch.Tensor) and torch.equal(one, plain) for one in others)
    assert torch.equal(found, logits)
    assert len(method.seen) > 1
    for before, after in zip(seen, method.seen[threading.get_ident()], strict=True):
        assert torch.equal(getattr(before, field), getattr(after, field))


class ByThread(Asking):
    """Keeps what it was shown last in each thread."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.seen: dict[int, list[lftr.VisualTokens]] = {}

    def select_all(
        self, items: Sequence[lftr.VisualTokens], counts: Sequence[int]
    ) -> list[lftr.Selection]:
        self.seen[threading.get_ident()] = list(items)
        return super().select_all(items, counts)


def test_a_hook_that_is_removed_while_another_thread_is_about_to_call_it() -> None:
    """torch then calls it without keyword arguments."""
    module, reached, removed = nn.Linear(1, 1), threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        reached.set()
        removed.wait(30)

    module.register_forward_pre_hook(wait)
    seen: list[torch.Tensor] = []
    handle = encode._first_input(module, seen)
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(module(torch.ones(1, 1)))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    reached.wait(30)
    handle.remove()
    removed.set()
    thread.join()
    assert isinstance(results[0], torch.Tensor), results[0]
    assert not seen


@pytest.mark.parametrize("method", ["uniform", "lftr", "visionzip"])
def test_two_threads_ask_one_reduced_model(method: str) -> None:
    """Each gets its own answer: what is read off the encoder belongs to the thread that encodes."""
    entry = zoo.FAMILIES["llava"]
    model = entry.model()
    prompts = [entry.inputs(model, [[3, zoo.Image("wide", seed), 5]]) for seed in (1, 2)]
    with lftr.reduce(model, method, tokens=4):
        wanted = [_scores(model, prompt) for prompt in prompts]

        def ask(which: int) -> list[torch.Tensor]:
            return [_scores(model, prompts[which]) for _ in range(12)]

        for found, expected in zip(
            together(*(partial(ask, i) for i in (0, 1))), wanted, strict=True
        ):
            assert not isinstance(found, Exception), traceback.format_exception(found)
            assert all(torch.equal(scores, expected) for scores in found)


def _scores(model: Any, prompt: dict[str, Any]) -> torch.Tensor:
    output = model.generate(
        **prompt, max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return output.logits[0]
