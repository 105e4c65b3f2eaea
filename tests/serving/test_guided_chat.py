"""Text that guides, on the bundled model: with its text tower, and over the turns of a chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hosts.support import Recording

import lftr
from lftr import bundled, suites

from .engines import recorded

NEW = 4
KEEP = 1 / 16


@dataclass
class Chat:
    """A server with the bundled text tower, and the same model on transformers."""

    llm: Any
    model: Any
    processor: Any
    guidance: lftr.Guidance

    def inputs(self, talk: Sequence[Any], images: Sequence[Any]) -> Any:
        """What transformers' model is given."""
        prompt = self.processor.apply_chat_template(list(talk), add_generation_prompt=True)
        return self.processor(text=[prompt], images=list(images), return_tensors="pt")

    def on_transformers(
        self, talk: Sequence[Any], images: Sequence[Any], setting: dict[str, Any], **how: Any
    ) -> tuple[list[int], list[list[int]], Any]:
        """The answer, what was chosen, and the cache."""
        inputs = self.inputs(talk, images)
        method = Recording(lftr.get_method(setting["method"], **setting.get("options", {})))
        with (
            torch.inference_mode(),
            lftr.reduce(self.model, method, keep=KEEP, guidance=self.guidance),
        ):
            out = self.model.generate(
                **inputs,
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                return_dict_in_generate=True,
                **how,
            )
        answer = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return answer, [one.index.tolist() for one in method.selections], out.past_key_values

    def served(
        self, talk: Sequence[Any], images: Sequence[Any], setting: dict[str, Any]
    ) -> tuple[list[int], list[list[int]]]:
        """The answer, and what was chosen anew."""
        from vllm import SamplingParams

        prompt = self.processor.apply_chat_template(list(talk), add_generation_prompt=True)
        request = {"prompt": prompt, "multi_modal_data": {"image": list(images)}}
        request["mm_processor_kwargs"] = {"lftr": setting}
        greedy = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True)
        with recorded() as chosen:
            (output,) = self.llm.generate([request], greedy, use_tqdm=False)
        return list(output.outputs[0].token_ids), [one.index.tolist() for one in chosen]


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    from vllm import LLM

    model, processor = bundled.load()
    guidance = lftr.Guidance(None, processor, bundled.load_text_tower(model))
    setting = {"method": "coverage", "keep": "1/16", "text_tower": "bundled", "guide": "first"}
    overrides = {"architectures": ["LftrLlavaForConditionalGeneration"], "lftr": setting}
    llm = LLM(
        str(bundled.path()),
        hf_overrides=overrides,
        distributed_executor_backend="uni",
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=16,
        block_size=32,
    )
    yield Chat(llm, model, processor, guidance)
    llm.llm_engine.engine_core.shutdown()


def said(role: str, text: str, images: int = 0) -> dict[str, Any]:
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "setting",
    [
        {"method": "coverage"},
        {"method": "lftr", "options": {"relevance": "text"}},
        {"method": "trim"},
        {"method": "cdpruner"},
        {"method": "dart"},
    ],
    ids=lambda setting: setting["method"],
)
def test_with_the_text_tower(chat: Chat, setting: dict[str, Any]) -> None:
    for example in suites.load("scenes", split="test", n=4):
        talk = [said("user", example.question, 1)]
        answer, chosen, _ = chat.on_transformers(talk, example.images, setting)
        assert chat.served(talk, example.images, setting) == (answer, chosen)


def test_turns(chat: Chat) -> None:
    """First: as with a cache that is carried on; last: as with the whole conversation at once."""
    one, other = suites.load("scenes", split="test", n=6)[4:]
    images = [one.images[0], other.images[0]]
    setting: dict[str, Any] = {"method": "trim"}
    begun = [said("user", one.question, 1)]
    answer, first, cache = chat.on_transformers(begun, images[:1], setting)
    for guide in ("first", "last"):
        found = chat.served(begun, images[:1], {**setting, "guide": guide})
        assert found == (answer, first)
    going = [*begun, said("assistant", chat.processor.decode(answer[:1])), said("user", "yes")]
    answer, nothing_new, _ = chat.on_transformers(going, images[:1], setting, past_key_values=cache)
    assert nothing_new == []
    assert chat.served(going, images[:1], {**setting, "guide": "first"}) == (answer, [])
    whole, last, _ = chat.on_transformers(going, images[:1], setting)
    assert last != first
    assert chat.served(going, images[:1], {**setting, "guide": "last"}) == (whole, last)
    # an image of a later turn is chosen in as that turn stood
    longer = [*going, said("assistant", "no"), said("user", other.question, 1)]
    _, (_, second), _ = chat.on_transformers(longer, images, setting)
    assert chat.served(longer, images, {**setting, "guide": "first"})[1] == [second]
    longest = [*longer, said("assistant", "two"), said("user", "why")]
    assert chat.served(longest, images, {**setting, "guide": "first"})[1] == []


def test_the_server_s_own_method(chat: Chat) -> None:
    """Coverage, guided by the first text, for requests that state nothing."""
    example = suites.load("scenes", split="test", n=7)[6]
    talk = [said("user", example.question, 1)]
    answer, chosen, _ = chat.on_transformers(talk, example.images, {"method": "coverage"})
    assert chat.served(talk, example.images, {}) == (answer, chosen)
