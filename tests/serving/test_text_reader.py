"""What turns text into evidence on vLLM: which CLIP it takes, and on which stage of a pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig

import lftr

SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "image_size": 24, "patch_size": 4}


@pytest.mark.parametrize("name", SHAPE)
def test_a_clip_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also where the widths are equal, so that it would project the encoder's features."""
    from lftr.hosts.vllm.model import text_reader

    encoder = CLIPVisionConfig(**SHAPE)
    other = CLIPVisionConfig(**SHAPE | {name: 2 * SHAPE[name]})
    clip = SimpleNamespace(config=SimpleNamespace(vision_config=other))
    monkeypatch.setattr(text_reader.CLIPModel, "from_pretrained", lambda *_, **__: clip)
    monkeypatch.setattr(text_reader.AutoTokenizer, "from_pretrained", lambda *_: None)
    message = rf"a/clip \({name} {2 * SHAPE[name]}\)'; allowed: .*\({name} {SHAPE[name]}\)"
    with pytest.raises(lftr.ArgumentError, match=message):
        text_reader._load("a/clip", encoder, torch.float32, torch.device("cpu"))


def test_the_bundled_tower_is_the_bundled_model_s() -> None:
    from lftr.hosts.vllm.model import text_reader

    encoder = CLIPVisionConfig(**SHAPE)
    with pytest.raises(lftr.ArgumentError, match=r"bundled \(.*allowed: the encoder's own CLIP"):
        text_reader._load("bundled", encoder, torch.float32, torch.device("cpu"))


def test_a_stage_without_embeddings_reads_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters the embeddings are looked for, on the first stage alone."""
    from vllm.model_executor.models.interfaces import SupportsMultiModal

    from lftr.hosts.vllm.model import reducing

    class Stage(nn.Module, SupportsMultiModal):
        def __init__(self, *, vllm_config: Any, prefix: str) -> None:
            nn.Module.__init__(self)
            self.config = vllm_config.model_config.hf_config

        def embed_input_ids(self, ids: Any) -> Any:
            raise NotImplementedError

        def get_language_model(self) -> Any:
            return self

    class Reduced(reducing.Reducing, Stage):
        pass

    config = LlavaConfig(architectures=["LlavaForConditionalGeneration"])
    config.lftr = {"positions": "compact", "weights": "none", "text_tower": "bundled"}
    parts = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=config,
            enable_prompt_embeds=False,
            multimodal_config=SimpleNamespace(mm_encoder_tp_mode="weights", video_pruning_rate=0),
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
        compilation_config=SimpleNamespace(compile_mm_encoder=False, cudagraph_mm_encoder=False),
        lora_config=SimpleNamespace(),
    )
    first = SimpleNamespace(is_first_rank=False)
    monkeypatch.setattr(reducing, "get_pp_group", lambda: first)
    assert not hasattr(Reduced(vllm_config=parts), "texts")
    first.is_first_rank = True
    with pytest.raises(lftr.UnsupportedModelError, match="0 modules of input embeddings"):
        Reduced(vllm_config=parts)


def test_a_first_layer_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without attention, and one that takes no positions."""
    from lftr.hosts.vllm.model import first_layer

    class Known(nn.Module):
        def forward(self, positions: Any, hidden_states: Any, residual: Any) -> Any:
            return hidden_states

    class Unknown(nn.Module):
        def forward(self, states: Any) -> Any:
            return states

    monkeypatch.setattr(first_layer, "Attention", nn.Identity)
    for kind, place, taken in (
        (Known, 1, "positions, hidden_states, residual"),
        (Unknown, 0, "states"),
    ):
        layers = nn.ModuleList([kind(), kind()])
        layers[place].self_attn = nn.Sequential(nn.Identity())
        reader = first_layer.FirstLayer(nn.ModuleDict({"layers": layers}))
        message = rf"{kind.__name__} takes \({taken}\); text_products are read from"
        with pytest.raises(lftr.UnsupportedModelError, match=message):
            reader.products(torch.ones(2, 4), torch.ones(3, 4))
