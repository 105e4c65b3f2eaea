"""Every served family: stock where all is kept, as reduced on transformers where it is not."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lftr

from . import tiny
from .engines import Question, Served, model_of, recorded

# one for each kind of evidence: encoder features, CLS attention or attention received (deep and in
# the middle layer), keys and a merge, values, features alone, frame features, none
METHODS = ["lftr", "fastervlm", "hiprune", "visionzip", "flowcut", "divprune", "uniform"]
# in time and space, between frames, by frames, by segments, pooled, whole frames
CLIP_METHODS = ["lftr", "evs", "vidcom2", "fastvid", "visionzip", "frame-sample"]
PICTURE = Question(((40, 36),), 11)


@pytest.fixture
def filmed(served: Served) -> Served:
    """A family that takes clips."""
    if not served.tiny.takes_clips:
        pytest.skip("takes no videos")
    return served


def test_the_reduced_architecture_runs(served: Served) -> None:
    """A plugin that fails to load is only logged, and the stock model runs."""
    model = model_of(served.llm)
    assert type(model).__name__ == f"Lftr{served.tiny.stock}"
    assert not model.supports_tower_connector_lora  # it would count what is kept as encoded


def test_keeping_all_is_stock(served: Served) -> None:
    asked = [Question(q.sizes, q.seed, keep=1.0) for q in served.stock]
    assert served.ask(*asked) == list(served.stock.values())


@pytest.mark.parametrize("method", METHODS)
def test_as_on_transformers(served: Served, method: str) -> None:
    for size, keep in (((40, 36), 0.25), ((20, 64), 7), ((90, 20), 0.5)):
        question = Question((size,), 5, keep, method)
        with recorded() as chosen:
            (answer,) = served.ask(question)
        wanted, decisions = served.on_transformers(question)
        assert [one.index.tolist() for one in chosen] == [one.index.tolist() for one in decisions]
        assert answer == wanted


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_clips_as_on_transformers(filmed: Served, method: str) -> None:
    """Alone, beside an image in either order, and two of them."""
    for given, keep in zip(Served.FILMED, (0.3, 0.25, 0.5, 9), strict=True):
        question = Question(given.sizes, given.seed, keep, method)
        with recorded() as chosen:
            (answer,) = filmed.ask(question)
        wanted, decisions = filmed.on_transformers(question)
        found = sorted(one.index.tolist() for one in chosen)  # images are encoded before clips
        assert found == sorted(one.index.tolist() for one in decisions)
        assert answer == wanted


def test_clips_of_a_step_are_encoded_together(filmed: Served) -> None:
    """In one pass of the encoder, with a setting each, with the answers of each alone."""
    asked = [
        Question(((4, 32, 24),), 80, 0.3, "lftr"),
        Question(((4, 32, 24),), 81, 7, "visionzip"),
        Question(((4, 32, 24),), 82, 1.0),
    ]
    passes: list[int] = []
    attention = model_of(filmed.llm).encoder.attention
    hook = attention.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        together = filmed.ask(*asked)
    finally:
        hook.remove()
    assert len(passes) == 1
    filmed.forget()
    assert [filmed.ask(one)[0] for one in asked] == together


def test_videos_are_refused_where_none_are_reduced(served: Served) -> None:
    if served.tiny.takes_clips:
        pytest.skip("takes videos")
    with pytest.raises(lftr.ArgumentError, match=r"videos of \w+ are not reduced on vLLM"):
        served.ask(Question(((4, 32, 24),), 9, 0.5))
    assert served.ask(PICTURE) == served.ask(PICTURE)


def test_a_file_in_a_chat(filmed: Served, tmp_path: Path) -> None:
    """As a client sends one: the file in the message, the setting beside it."""
    cv2 = pytest.importorskip("cv2")
    shots, _ = tiny.clip(8, 64, 48)
    file = tmp_path / "clip.mp4"
    out = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 4, (64, 48))
    for shot in shots:
        out.write(shot)
    out.release()
    data = base64.b64encode(file.read_bytes()).decode()
    part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
    talk = [{"role": "user", "content": [part, {"type": "text", "text": "t20 t30"}]}]

    def length(**budget: float) -> int:
        asked = {"lftr": budget}
        (answer,) = filmed.llm.chat(talk, mm_processor_kwargs=asked, use_tqdm=False)
        return len(answer.prompt_token_ids)

    whole, one, nine = length(keep=1.0), length(tokens=1), length(tokens=9)
    assert nine - one == 8
    assert whole > nine


def test_the_cls_output(served: Served) -> None:
    """LFTR compared with the CLS output, where there is one; else refused by name."""
    question = Question(((40, 36),), 6, 0.25, "lftr", {"descriptor": "cls"})
    if "frame_features" not in model_of(served.llm).provided:
        with pytest.raises(ValueError, match=r"needs frame_features.*those that can: .*divprune"):
            served.ask(question)
        return
    assert served.ask(question) == [served.on_transformers(question)[0]]


def test_two_images(served: Served) -> None:
    """Each has its own count; a second prompt's images change nothing."""
    if served.tiny.name == "llava_onevision":
        pytest.skip("transformers encodes images that share a prompt without tiles, vLLM with them")
    question = Question(((40, 36), (24, 44), (90, 20)), 7, 0.3, "divprune")
    wanted, _ = served.on_transformers(question)
    other = Question(((60, 30), (24, 24), (30, 90)), 8, 0.2, "lftr")
    assert served.ask(question, other)[0] == wanted


def test_placeholders_are_tokens(served: Served) -> None:
    """Sizes and ratios at random: as many of the prompt as of the model, and as asked."""
    generator = np.random.default_rng(0)
    questions, counts = [], []
    for seed in range(24):
        size = tuple(int(n) for n in generator.integers(9, 120, 2))
        if served.tiny.takes_clips and seed % 3 == 0:
            size = (int(generator.integers(2, 9)), *size)
        keep = [float(generator.uniform(0.001, 1)), int(generator.integers(1, 80))][seed % 2]
        method = METHODS[seed % len(METHODS)]
        questions.append(Question((size,), seed, keep, method))
        full, total = questions[-1].inputs(served.tiny)["input_ids"].shape[1], served.tokens(size)
        counts.append(full - total + lftr.values.budget.resolve(keep, total))
    assert [answer.prompt for answer in served.ask(*questions)] == counts


def test_whole_items_are_planned_for(served: Served) -> None:
    """A request may keep all, whatever the server's own setting makes of an example."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = served.llm.llm_engine.vllm_config.model_config
    info = MULTIMODAL_REGISTRY.create_processor(config).info
    sizes = {"image": (40, 36)}
    if served.tiny.takes_clips:
        sizes["video"] = (8, 40, 36)
    most = info.get_mm_max_tokens_per_item(tiny.LENGTH, dict.fromkeys(sizes, 1))
    for medium, size in sizes.items():
        assert most[medium] >= served.tokens(size)


def test_devices_agree(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first one's choice, before a choice is put into its places."""
    from lftr.hosts.vllm.model import reducing

    even: list[torch.Tensor] = []

    class Two:
        world_size, is_first_rank = 2, True

        def broadcast(self, rows: torch.Tensor, src: int) -> torch.Tensor:
            """Return what a first device sent that chose evenly: tokens, places and weights."""
            assert src == 0
            even.append(rows)
            if rows.dim() == 2:
                return torch.zeros_like(rows)
            return torch.ones_like(rows) if rows.is_floating_point() else torch.arange(len(rows))

    model = model_of(served.llm)
    placed: list[list[int]] = []

    def note(features: Any, anchors: Any, given: Any) -> Any:
        placed.extend(index.tolist() for index in anchors)
        assert not any(rows.any() for rows in features)
        return type(model).placed(model, features, anchors, given)

    monkeypatch.setattr(reducing, "get_tp_group", Two)
    monkeypatch.setattr(model, "placed", note, raising=False)
    served.ask(Question(((40, 36),), 77, 5, "divprune"))
    assert placed == [list(range(5))]
    assert [rows.dim() for rows in even] == [2, 1, 1]  # as many from every method on every device


def test_together_as_alone(served: Served) -> None:
    """Ratios and methods of their own in one batch, sizes alike and unlike."""
    sizes = [(40, 36), (40, 36), (40, 36), (24, 60), (24, 60), (100, 30)]
    asked = [
        Question((size,), 20 + i, keep, METHODS[i % 4])
        for i, (size, keep) in enumerate(zip(sizes, (0.25, 0.25, 1.0, 3, 0.5, 0.1), strict=True))
    ]
    asked.append(Question((), 30))
    if served.tiny.takes_clips:
        asked += [Question(((6, 32, 24),), 31 + i, 0.3, m) for i, m in enumerate(CLIP_METHODS[:3])]
        asked.append(Question(((40, 36), (3, 32, 24)), 35, 0.2, "lftr"))
    served.ask_together(*asked)


def test_what_was_cached(served: Served) -> None:
    """The ratio is part of what an image is known by; the same question hits the prefix cache."""
    first, second = Question(((80, 80),), 40, 0.9, "lftr"), Question(((80, 80),), 40, 0.6, "lftr")
    one, two = served.ask(first)[0], served.ask(second)[0]
    assert one.prompt > two.prompt
    again = served.ask(first, second)
    assert again == [one, two]
    assert again[0].cached >= 32  # a block, which ends in the image


def test_text_alone(served: Served) -> None:
    assert served.ask(Served.TEXT) == [served.stock[Served.TEXT]]


BAD = [
    ({"keep": 0}, "keep = 0"),
    ({"keep": 1.01}, "keep = 1.01"),
    ({"keep": float("nan")}, "keep = nan"),
    ({"keep": "1e999999999"}, "keep = '1e999999999'"),
    ({"keep": True}, "keep = True"),
    ({"keep": "auto"}, "keep = 'auto'"),
    ({"method": "fastv"}, "inside the language model"),
    ({"method": "downsample"}, "a second time"),
    ({"method": "divprun"}, "did you mean 'divprune'"),
    ({"kep": 1}, "unknown key"),
    ("1/4", "an object with"),
]


def test_bad_requests_are_refused(served: Served) -> None:
    before = served.ask(PICTURE)
    for given, message in BAD:
        request = PICTURE.request(served.tiny) | {"mm_processor_kwargs": {"lftr": given}}
        with pytest.raises(ValueError, match=message):
            served.llm.generate([request], use_tqdm=False)
    assert served.ask(PICTURE) == before


def test_a_clip_without_frames_is_refused(filmed: Served) -> None:
    """VLLM's loader returns one for a GIF of a single frame, and for files that it cannot read."""
    film = Served.FILMED[0]
    before = filmed.ask(film)
    request = film.request(filmed.tiny)
    for one in request["multi_modal_data"]["video"]:
        frames, facts = one if isinstance(one, tuple) else (one, None)
        empty = frames[:0] if facts is None else (frames[:0], facts)
        request["multi_modal_data"]["video"] = [empty]
        with pytest.raises(lftr.ArgumentError, match="no frame could be read"):
            filmed.llm.generate([request], use_tqdm=False)
    assert filmed.ask(film) == before
