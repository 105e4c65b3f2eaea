"""Ways of running an engine: chunks that cut an image, two devices, settings that do not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lftr

from . import tiny
from .engines import Question, Served, Spelled, answers, ask, engine, model_of, recorded

QUESTIONS = (
    Question(((80, 80), (40, 36)), 1, 0.8, "divprune"),
    Question(((80, 60),), 2, 0.9, "visionzip"),
    Question(((64, 80),), 3, 1.0),
    Question(((90, 40),), 4, 0.6, "fastervlm"),
    Question((), 5),
    Question(((60, 70),), 9, 0.7, "trim"),
)
CLIPS = (
    Question(((8, 32, 24), (40, 36)), 6, 0.7, "lftr"),
    Question(((64, 80), (5, 24, 48)), 7, 0.5, "evs"),
    Question(((6, 40, 32),), 8, 1.0),
)

PIPELINE = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}


def questions(checkpoint: tiny.Tiny) -> tuple[Question, ...]:
    return (*QUESTIONS, *CLIPS) if checkpoint.takes_clips else QUESTIONS


def reduced(checkpoint: tiny.Tiny, **options: Any) -> Any:
    return engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, **options)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tiny.Tiny:
    return tiny.make(request.param, tmp_path / request.param)


@pytest.mark.parametrize(
    "checkpoint",
    ["llava", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_vl", "qwen3_5"],
    indirect=True,
)
def test_chunks_that_cut_an_item(checkpoint: tiny.Tiny) -> None:
    """Steps of 16 tokens, so that every image and clip here comes in several."""
    with reduced(checkpoint) as llm:
        whole = ask(llm, checkpoint, *questions(checkpoint))
    with reduced(checkpoint, max_num_batched_tokens=16, max_num_seqs=4) as llm:
        assert llm.llm_engine.vllm_config.scheduler_config.enable_chunked_prefill
        assert ask(llm, checkpoint, *questions(checkpoint)) == whole
        # each image was encoded by itself, since one has more tokens than a step
        assert model_of(llm).most == 16


@pytest.mark.parametrize("checkpoint", ["qwen2_5_vl"], indirect=True)
def test_a_step_encodes_no_more_than_without_reduction(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst of images, of each of which little is kept: steps are cut by all their tokens."""
    from lftr.hosts.vllm.model.reducing import Reducing

    most, steps = 160, []
    encode = Reducing.embed_multimodal

    def recording(model: Any, **inputs: Any) -> Any:
        (medium,) = (one for one in model.family.media if f"lftr_{one.name}" in inputs)
        fields = {name: rows for name, rows in inputs.items() if not name.startswith("lftr_")}
        steps.append(sum(model.inputs_of[medium.name](model, medium, fields).sizes))
        return encode(model, **inputs)

    burst = [Question(((80, 80), (64, 48)), seed, 2 / 64, "uniform") for seed in range(12)]
    with reduced(checkpoint) as llm:
        wanted = ask(llm, checkpoint, *burst)
    monkeypatch.setattr(Reducing, "embed_multimodal", recording)
    stock = "vllm.v1.core.encoder_cache_manager.EncoderCacheManager"
    manager = {"encoder_cache_manager_cls": stock}
    how: dict[str, Any] = {"max_num_batched_tokens": most, "max_num_seqs": 12}
    with reduced(checkpoint, **how) as llm:
        del steps[:]  # of measuring memory
        assert ask(llm, checkpoint, *burst) == wanted
        assert max(steps) <= most
        bounded, steps[:] = list(steps), []
    with reduced(checkpoint, ec_manager_config=manager, **how) as llm:
        del steps[:]
        assert ask(llm, checkpoint, *burst) == wanted
        assert max(steps) > most  # the manager makes the difference
    assert len(bounded) > len(steps)


@pytest.mark.parametrize("checkpoint", ["llava", "qwen3_vl", "gemma3"], indirect=True)
def test_texts_beside_adapters(checkpoint: tiny.Tiny) -> None:
    """Their wrapper of the embeddings takes no more ids than a step has tokens."""
    long = "<s>" + " t9 t30" * 60 + checkpoint.sign + " t20"
    asked: list[Question] = [
        Spelled(((40, 36),), 3, 0.3, name, text=long) for name in ("trim", "hawk")
    ]
    if checkpoint.takes_clips:
        asked.append(Question(((4, 32, 24),), 4, 0.3, "uniform"))
    how = {"enable_lora": True, "max_lora_rank": 8, "max_num_batched_tokens": 64, "max_num_seqs": 4}
    with reduced(checkpoint, **how) as llm:
        served = Served(checkpoint, llm, {})
        for question in asked:
            assert served.ask(question) == [served.on_transformers(question)[0]]
        ids = torch.arange(10, 170)  # more than a step has
        wanted = checkpoint.model.get_input_embeddings()(ids)  # Gemma scales them
        assert torch.allclose(model_of(llm).texts.embed(ids), wanted)


def write_adapter(checkpoint: tiny.Tiny, folder: Path) -> None:
    """Write an adapter of the language model's queries, and add it to the model's own weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, module in checkpoint.model.named_modules():
        if "language_model" in name and name.endswith("q_proj"):
            rows, columns = module.weight.shape
            down = 0.3 * torch.randn(8, columns, generator=generator)
            up = 0.3 * torch.randn(rows, 8, generator=generator)
            weights[f"base_model.model.{name}.lora_A.weight"] = down
            weights[f"base_model.model.{name}.lora_B.weight"] = up
            module.weight.data += up @ down
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, str(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_5_vl"], indirect=True)
def test_answers_of_adapters(checkpoint: tiny.Tiny, tmp_path: Path) -> None:
    """Guided or not, as on transformers with the adapter's weights added; then without it."""
    from vllm.lora.request import LoRARequest

    asked = (Question(((40, 36),), 3, 0.3, "trim"), Question(((60, 70),), 4, 0.2, "pool"))
    with reduced(checkpoint, enable_lora=True, max_lora_rank=8) as llm:
        served = Served(checkpoint, llm, {})
        plain = [served.on_transformers(one)[0] for one in asked]
        layered = Question(((40, 36),), 3, 0.3, "hawk")
        kept = [one.index.tolist() for one in served.on_transformers(layered)[1]]
        write_adapter(checkpoint, tmp_path / "adapter")
        wanted = [served.on_transformers(one)[0] for one in asked]
        assert wanted != plain
        adapter = LoRARequest("adapter", 1, str(tmp_path / "adapter"))
        requests = [one.request(checkpoint) for one in asked]
        assert answers(llm, requests, lora_request=adapter) == wanted
        with recorded() as chosen:  # an image is encoded for all adapters, so by the model's own
            answers(llm, [layered.request(checkpoint)], lora_request=adapter)
        assert [one.index.tolist() for one in chosen] == kept
        assert served.ask(*asked) == plain


@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_5_vl"], indirect=True)
def test_the_cache_in_shared_memory(checkpoint: tiny.Tiny) -> None:
    """The engine has no items then, its worker has them: guided or not, new and known."""
    asked = (*questions(checkpoint)[:4], Question(((60, 70),), 9, 0.7, "trim"))
    asked = (*asked, Spelled(((60, 70),), 9, 0.7, "trim", text=f"<s> t9 {checkpoint.sign} t20"))
    with reduced(checkpoint) as llm:
        wanted = ask(llm, checkpoint, *asked)
    how = {"mm_processor_cache_type": "shm", "distributed_executor_backend": "mp"}
    with reduced(checkpoint, **how) as llm:
        assert ask(llm, checkpoint, *asked) == wanted
        assert ask(llm, checkpoint, *asked) == wanted
        llm.reset_prefix_cache()
        assert ask(llm, checkpoint, *asked) == wanted


@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_5_vl"], indirect=True)
def test_a_draft_of_ngrams(checkpoint: tiny.Tiny) -> None:
    """Its guesses repeat the prompt's ids; where slots have weights, answers are the same."""
    draft = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}
    draft |= {"prompt_lookup_min": 1}
    asked = (*questions(checkpoint), Question(((64, 64),), 3, 0.1, "pool"))
    with reduced(checkpoint) as llm:
        wanted = ask(llm, checkpoint, *asked)
    # in a process of its own: once numba is imported, vLLM's CPU build starts no second engine
    how = {"distributed_executor_backend": "mp", "disable_log_stats": False}
    with reduced(checkpoint, speculative_config=draft, **how) as llm:
        assert ask(llm, checkpoint, *asked) == wanted
        metrics = {one.name: one for one in llm.get_metrics()}
        assert metrics["vllm:spec_decode_num_draft_tokens"].value > 0


@pytest.mark.parametrize("checkpoint", ["qwen2_5_vl"], indirect=True)
def test_texts_without_a_processor_cache(checkpoint: tiny.Tiny) -> None:
    with reduced(checkpoint, mm_processor_cache_gb=0) as llm:
        served = Served(checkpoint, llm, {})
        for seed in (3, 4):  # other text, and the same image under it
            text = f"<s> t{seed} {checkpoint.sign} t2{seed} t3{seed}"
            question = Spelled(((40, 36),), 3, 0.3, "trim", text=text)
            assert served.ask(question, question) == [served.on_transformers(question)[0]] * 2


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_a_request_composes(checkpoint: tiny.Tiny) -> None:
    with reduced(checkpoint) as llm:
        served = Served(checkpoint, llm, {})
        for method in ("Mix(divprune, uniform, share=1/4)", "Then(fastervlm, Merge(divprune))"):
            question = Question(((40, 36),), 3, 0.4, method)
            assert served.ask(question) == [served.on_transformers(question)[0]]


def raises(*_: Any) -> Any:
    raise ZeroDivisionError("a method's own mistake")


def miscounts(method: lftr.Method, items: Any, counts: Any) -> Any:
    return lftr.get_method("uniform").select_all(items, [count - 1 for count in counts])


def overshoots(method: lftr.Method, items: Any, counts: Any) -> Any:
    """Anchors beyond the item's last token; on a GPU such an index ends the process."""
    return [lftr.Selection(torch.arange(1000, 1000 + count)) for count in counts]


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
@pytest.mark.parametrize(
    ("mistake", "word"),
    [
        (raises, "a method's own mistake"),
        (miscounts, "it kept [14]"),
        (overshoots, "it took token 1014 of an item of 36"),
    ],
)
def test_a_method_that_fails(
    checkpoint: tiny.Tiny, mistake: Any, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that raises is gone, with everyone's requests; it says so and goes on."""
    from prometheus_client import REGISTRY

    from lftr.hosts.vllm import metrics
    from lftr.hosts.vllm.model import reducing

    said: list[str] = []

    def note(message: str, *of: Any) -> None:
        said.append(f"{message % of}: {sys.exc_info()[1]}")

    def failed() -> float:
        return REGISTRY.get_sample_value("lftr:failed_items_total", {"method": "divprune"}) or 0

    monkeypatch.setattr(reducing, "_failures", metrics.Failures())
    monkeypatch.setattr(metrics.logger, "exception", note)
    with reduced(checkpoint) as llm:
        before = failed()
        even = ask(llm, checkpoint, Question(keep=0.4, method="uniform"))
        monkeypatch.setattr(type(lftr.get_method("divprune")), "select_all", mistake)
        for seed in (1, 0):
            found = ask(llm, checkpoint, Question(seed=seed, keep=0.4, method="divprune"))
        assert found == even
        assert failed() - before == 2
    (line,) = said  # of two: a client could otherwise fill the log
    assert line.startswith('lftr: {"keep":0.4,"method":"divprune","options":{}} failed on 1 items')
    assert word in line


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_evidence_that_cannot_be_read(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the encoder, after it, and of the text: as if the method had failed."""
    from prometheus_client import REGISTRY

    from lftr.evidence.attention_recorder import AttentionRecorder
    from lftr.hosts.vllm import metrics
    from lftr.hosts.vllm.model import evidence_reader, reducing, text_reader

    said: list[str] = []
    monkeypatch.setattr(reducing, "_failures", metrics.Failures())
    monkeypatch.setattr(metrics.logger, "exception", lambda _, *of: said.append(of[0]))
    read: tuple[tuple[type, str, str], ...] = (
        (AttentionRecorder, "record", "fastervlm"),
        (evidence_reader.EvidenceReader, "patches", "divprune"),
        (text_reader.TextReader, "read", "trim"),
    )
    with reduced(checkpoint) as llm:
        even = ask(llm, checkpoint, Question(keep=0.4, method="uniform"))
        for owner, name, method in read:
            label = {"method": method}
            before = REGISTRY.get_sample_value("lftr:failed_items_total", label) or 0
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, raises)
                assert ask(llm, checkpoint, Question(keep=0.4, method=method)) == even
            assert REGISTRY.get_sample_value("lftr:failed_items_total", label) == before + 1
            assert f'"method":"{method}"' in said.pop()
            other = Question(seed=1, keep=0.4, method=method)
            served = Served(checkpoint, llm, {})
            assert served.ask(other) == [served.on_transformers(other)[0]]
        assert said == []


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_a_server_that_can_read_nothing_does_not_start(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a release of vLLM whose encoder passes its queries and keys by other names."""
    from lftr.hosts.vllm.model import evidence_reader, text_reader

    reading = ((evidence_reader.EvidenceReader, "_tap"), (text_reader.TextReader, "read"))
    with engine(checkpoint, f"Lftr{checkpoint.stock}", {"method": "Mix(trim, fastervlm)"}) as llm:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        runner.profile_run()  # at the start, but for eager mode on CPUs
        for owner, name in reading:
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, raises)
                with pytest.raises(ZeroDivisionError):
                    runner.profile_run()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_memory_that_runs_out_is_no_failure_of_a_method(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lftr.hosts.vllm.model import reducing
    from lftr.hosts.vllm.request.request_setting import RequestSetting

    def out_of_memory(*_: Any) -> Any:
        raise error

    setting = RequestSetting(lftr.get_method("divprune"), 1)
    with pytest.raises(type(error)):  # as evidence is read
        reducing._chosen(setting, out_of_memory, [], [])
    monkeypatch.setattr(type(setting.method), "select_all", out_of_memory)
    with pytest.raises(type(error)):
        reducing._chosen(setting, list, [], [])


@pytest.mark.parametrize("checkpoint", ["llava", "gemma3"], indirect=True)
def test_weights_as_transformers_saves_them(checkpoint: tiny.Tiny) -> None:
    """vLLM knows the tower's weights by their names on hubs alone."""
    with reduced(checkpoint) as llm:
        wanted = ask(llm, checkpoint, *QUESTIONS)
    checkpoint.model.save_pretrained(checkpoint.folder)
    with reduced(checkpoint) as llm:
        assert ask(llm, checkpoint, *QUESTIONS) == wanted


@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_vl"], indirect=True)
def test_what_was_encoded_elsewhere_is_refused(checkpoint: tiny.Tiny) -> None:
    width = tiny.WIDTH
    embeds: Any = torch.zeros(1, 36, width)
    if checkpoint.name in tiny.GRIDDED:
        grid = torch.tensor([[1, 12, 12]])
        embeds = {"image_embeds": torch.zeros(36, width), "image_grid_thw": grid}
    prompt = Question().prompt(checkpoint.sign, checkpoint.film)
    with reduced(checkpoint, enable_mm_embeds=True) as llm:
        request = {"prompt": prompt, "multi_modal_data": {"image": embeds}}
        with pytest.raises(ValueError, match="image_embeds were given; allowed: images"):
            llm.generate([request], use_tqdm=False)


@pytest.mark.parametrize("checkpoint", ["qwen2_vl"], indirect=True)
def test_places_without_items_are_refused(checkpoint: tiny.Tiny) -> None:
    """M-RoPE could not tell such a place from one of an item's."""
    question = Question(keep=0.5)
    with reduced(checkpoint) as llm:
        answer = ask(llm, checkpoint, question)
        for place, message in (
            (" <|video_pad|> t9", "1 video placeholders without videos"),
            (" <|image_pad|> t9", "without"),  # vLLM's own check may come first
        ):
            request = question.request(checkpoint)
            request["prompt"] += place
            with pytest.raises(ValueError, match=message):
                llm.generate([request], use_tqdm=False)
        for prompt, images, message in (
            ("<s> t9 <|image_pad|>", 1, "ends in image tokens"),
            ("<s> t9 <|image_pad|><|image_pad|> t9", 2, "two items follow each other"),
        ):
            media = {"image": question.images * images}
            request = {"prompt": prompt, "multi_modal_data": media}
            with pytest.raises(ValueError, match=message):
                llm.generate([request], use_tqdm=False)
        assert ask(llm, checkpoint, question) == answer


@pytest.mark.parametrize("checkpoint", ["llava", "gemma3", "qwen2_5_vl", "qwen3_vl"], indirect=True)
def test_positions_of_what_is_gone_have_room(checkpoint: tiny.Tiny) -> None:
    """A short prompt of many reduced items has positions beyond the model's length, with an end.

    Each of these takes 63 positions (36 on LLaVA) and one token.
    """
    longest = checkpoint.model.config.text_config.max_position_embeddings
    limits = {"limit_mm_per_prompt": {"image": 200}, "max_model_len": longest}
    with reduced(checkpoint, **limits) as llm:
        many = Question(((504, 8),) * (3 * longest // 80), keep=1, method="uniform")
        (answer,) = ask(llm, checkpoint, many)
        assert answer.prompt < tiny.LENGTH
        wanted, _ = Served(checkpoint, llm, {}).on_transformers(many)
        assert answer == wanted
        more = Question(((504, 8),) * (3 * longest // 40), keep=1, method="uniform")
        with pytest.raises(ValueError, match=r"reaches to position \d+; allowed: "):
            ask(llm, checkpoint, more)
        assert ask(llm, checkpoint, many) == [answer]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compile_mm_encoder", True),
        ("cudagraph_mm_encoder", True),
        ("video_pruning_rate", 0.5),
        ("enable_prompt_embeds", True),
    ],
)
def test_what_would_not_be_read_is_refused(name: str, value: Any) -> None:
    from lftr.hosts.vllm.model.reducing import Reducing

    def config(**changed: Any) -> Any:
        compiled = {"compile_mm_encoder": False, "cudagraph_mm_encoder": False}
        own = {key: changed.get(key, value) for key, value in compiled.items()}
        media = SimpleNamespace(video_pruning_rate=changed.get("video_pruning_rate"))
        embeds = changed.get("enable_prompt_embeds", False)
        return SimpleNamespace(
            compilation_config=SimpleNamespace(**own),
            model_config=SimpleNamespace(multimodal_config=media, enable_prompt_embeds=embeds),
        )

    Reducing._check(None, config())
    with pytest.raises(lftr.LftrError, match=f"{name} = {value}"):
        Reducing._check(None, config(**{name: value}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpoint", ["llava", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_vl"], indirect=True
)
def test_two_devices(checkpoint: tiny.Tiny) -> None:
    """Heads are divided among two processes, each with its own engine core."""
    asked = (*questions(checkpoint), Question(((40, 36),), 3, 0.3, "hawk"))
    with reduced(checkpoint) as llm:
        alone = ask(llm, checkpoint, *asked)
    how = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    with reduced(checkpoint, **how) as llm:
        assert ask(llm, checkpoint, *asked) == alone


@pytest.mark.parametrize("checkpoint", ["llava_siglip"], indirect=True)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "fastv"}, "inside the language model"),
        ({"method": "lftr", "options": {"descriptor": "cls"}}, "needs frame_features"),
        ({"keep": 0}, "keep = 0"),
        ({"guide": "all"}, "guide = 'all'; allowed: 'last' or 'first'"),
        ({"guide": "first"}, "guide = 'first'; allowed: 'last'"),
        ({"text_tower": "some/clip"}, "text_tower = 'some/clip'; allowed: none with"),
        ({"text_tower": 1}, "text_tower = 1"),
        ({"preset": "nowhere.json"}, "nowhere.json"),
    ],
    ids=str,
)
def test_a_server_does_not_start(checkpoint: tiny.Tiny, setting: Any, message: str) -> None:
    with (
        pytest.raises(ValueError, match=message) as caught,
        engine(checkpoint, f"Lftr{checkpoint.stock}", setting),
    ):
        pass
    if "method" in setting:
        assert "those that can: " in str(caught.value)


@pytest.mark.parametrize(
    "checkpoint", ["llava", "llava_onevision", "idefics3", "gemma3"], indirect=True
)
def test_renumbered_positions(checkpoint: tiny.Tiny) -> None:
    """With ``positions="compact"``, as on transformers."""
    setting = Served.SETTING | {"positions": "compact"}
    with engine(checkpoint, f"Lftr{checkpoint.stock}", setting) as llm:
        served = Served(checkpoint, llm, {}, "compact")
        assert not llm.llm_engine.vllm_config.model_config.uses_mrope
        for question in questions(checkpoint):
            if question.method and len(question.sizes) == 1:
                assert served.ask(question) == [served.on_transformers(question)[0]]


@pytest.mark.parametrize("checkpoint", ["llava", "llava_onevision", "idefics3"], indirect=True)
def test_items_side_by_side_and_last(checkpoint: tiny.Tiny) -> None:
    """Positions of one dimension need no text around an item."""
    sizes = ((40, 36),) if checkpoint.name == "llava_onevision" else ((40, 36), (40, 36))
    media = Question(sizes, 3).images
    prompt = "<s> t9 " + checkpoint.sign * len(sizes)
    with reduced(checkpoint) as llm:
        served = Served(checkpoint, llm, {})
        for text in (prompt, prompt + " t20"):
            question = Spelled(sizes, 3, 0.3, "divprune", text=text)
            assert len(question.images) == len(media)
            assert served.ask(question) == [served.on_transformers(question)[0]]


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        ("original", PIPELINE, "pipeline_parallel_size = 2.*'compact'"),
        ("first", {}, "positions = 'first'; allowed: 'original' or 'compact'"),
    ],
)
def test_positions_that_are_refused_at_start(
    checkpoint: tiny.Tiny, positions: str, options: Any, message: str
) -> None:
    setting = {"keep": 0.5, "positions": positions}
    with (
        pytest.raises((lftr.LftrError, ValueError), match=message),
        engine(checkpoint, f"Lftr{checkpoint.stock}", setting, **options),
    ):
        pass


@pytest.mark.parametrize("checkpoint", ["qwen2_vl"], indirect=True)
def test_m_rope_has_no_renumbered_positions(checkpoint: tiny.Tiny) -> None:
    with (
        pytest.raises(ValueError, match="positions = 'compact'; allowed: 'original'"),
        engine(checkpoint, f"Lftr{checkpoint.stock}", {"positions": "compact"}),
    ):
        pass


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_angles_that_cannot_be_added(checkpoint: tiny.Tiny) -> None:
    """Rotary embeddings that depend on the longest prompt, so that a longer one changes them."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    text = {"text_config": {"rope_parameters": rope}}
    with (
        pytest.raises(lftr.LftrError, match=r"DynamicNTK.*allowed: positions = 'compact'"),
        engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, overrides=text),
    ):
        pass


def test_room_beyond_angles_that_are_scaled() -> None:
    """A table of four times the longest prompt has no room yet for an answer at its end."""
    pytest.importorskip("vllm")
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    from lftr.hosts.vllm.model import gaps

    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    with set_current_vllm_config(VllmConfig()):
        decoder = torch.nn.ModuleDict(
            {"rotary_emb": get_rope(32, 64, rope_parameters=rope, dtype=torch.float32)}
        )
    holder = torch.nn.ModuleDict({"layer": decoder})
    before = decoder["rotary_emb"].cos_sin_cache.clone()
    assert len(before) == 4 * 64
    gaps.give_room(holder, 500)
    after = decoder["rotary_emb"].cos_sin_cache
    assert len(after) >= 500
    assert after[: len(before)].equal(before)


def test_what_is_not_told_of_positions_is_refused() -> None:
    """Later stages of a pipeline, and models that draft."""
    from lftr import LftrError
    from lftr.hosts.vllm.model import positions

    class Given:
        def __init__(self, stages: int, method: str | None) -> None:
            parallel = {"pipeline_parallel_size": stages}
            self.parallel_config = type("Parallel", (), parallel)()
            speculative = None if method is None else type("Speculative", (), {"method": method})()
            self.speculative_config = speculative

    positions.check(Given(1, None))
    positions.check(Given(1, "ngram"))
    with pytest.raises(LftrError, match="pipeline_parallel_size = 2"):
        positions.check(Given(2, None))
    with pytest.raises(LftrError, match="eagle"):
        positions.check(Given(1, "eagle"))
