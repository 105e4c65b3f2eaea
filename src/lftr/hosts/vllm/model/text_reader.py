"""Evidence of the text that guides methods: embeddings of the language model or of a CLIP tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel
from vllm.config import VllmConfig
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.tokenizers import cached_tokenizer_from_config

from .... import bundled
from ....evidence.text import TextTower
from ....values.errors import ArgumentError, LftrError, UnsupportedModelError
from .first_layer import FirstLayer
from .unwrapped import Unwrapped


class TextReader:
    """Turns the text that comes with an item into evidence.

    It belongs where items are encoded: in pipelines the first stage alone has the embeddings.

    Parameters
    ----------
    language_model : nn.Module
        vLLM's language model.
    vllm_config : VllmConfig
        The engine's configuration.
    tower : str, optional
        The CLIP whose text side methods compare with; "bundled" for that of the bundled model.

    Raises
    ------
    ArgumentError
        If the tower cannot be loaded, or its vision side has another shape than the model's.
    UnsupportedModelError
        If there are adapters (LoRA), and the embeddings without them cannot be found.
    """

    def __init__(self, language_model: Any, vllm_config: VllmConfig, tower: str | None) -> None:
        self._embed: Callable[[Tensor], Tensor] = language_model.embed_input_ids
        self._embeddings = Unwrapped(language_model, _embeds)
        count = len(self._embeddings.modules)
        if vllm_config.lora_config is not None and count != 1:
            raise UnsupportedModelError(
                f"{type(language_model).__name__} has {count} modules of input embeddings; "
                "allowed with LoRA: one"
            )
        self._first_layer = FirstLayer(language_model)
        self.device = vllm_config.device_config.device
        self.tower: TextTower | None = None
        if tower is not None:
            config = vllm_config.model_config
            self.tokenizer: Any = cached_tokenizer_from_config(config)
            vision = config.hf_config.vision_config
            self.tower = _load(tower, vision, config.dtype, self.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the language model's input embeddings of ids ``(L,)``.

        What the model does to them (Gemma scales them) is done; what adapters do (LoRA) is not.
        """
        with self._embeddings.restored():
            return self._embed(ids.to(self.device, torch.int64))

    def read(self, fields: frozenset[str], question: Tensor | None) -> dict[str, Tensor]:
        """Return the requested text evidence.

        Parameters
        ----------
        fields : frozenset of str
            Of those that are read from text.
        question : Tensor of int32, shape (L,), optional
            The ids of the text; None if the item came without.

        Raises
        ------
        LftrError
            If evidence is requested without text.
        """
        texts: dict[str, Tensor] = {}
        if fields and question is None:
            raise LftrError("an item came without the text that its method asks for")
        if "text_token_embeds" in fields:
            assert question is not None
            texts["text_token_embeds"] = self.embed(question)
        if "text_embeds" in fields:
            assert question is not None
            assert self.tower is not None
            text = self.tokenizer.decode(question.tolist(), skip_special_tokens=True)
            texts["text_embeds"] = self.tower.embed(text)
        return texts

    def products(self, question: Tensor | None, features: Tensor) -> Tensor:
        """Return the products of a text's queries with tokens, see `FirstLayer.products`.

        Parameters
        ----------
        question : Tensor of int32, shape (L,), optional
            The ids of the text, which `read` has checked for.
        features : Tensor, shape (N, C)
            The visual tokens, as the first layer sees them.
        """
        assert question is not None
        return self._first_layer.products(self.embed(question), features)

    def project(self, encoder_features: Tensor) -> Tensor:
        """Return the encoder's features ``(N, D)`` in the space that CLIP shares with text."""
        assert self.tower is not None
        return self.tower.project(encoder_features)


def _embeds(module: nn.Module) -> bool:
    """Whether a module embeds the ids of the input."""
    return isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)


SHAPE = ("hidden_size", "num_hidden_layers", "image_size", "patch_size")
"""What a CLIP's vision side and the model's encoder have in common, in words of their configs."""


def _load(name: str, vision: Any, dtype: torch.dtype, device: torch.device) -> TextTower:
    """Load the text tower of a CLIP whose vision side has the shape of the encoder ``vision``.

    Equal shapes do not prove that the encoder is this CLIP's; others prove that it is not.
    """
    if name == "bundled":
        model = bundled.load(device, dtype)[0]
        _check_shape(name, model.config.vision_config, vision)
        return bundled.load_text_tower(model)
    try:
        clip = CLIPModel.from_pretrained(name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError.of(
            "text_tower", name, f"the id or folder of a CLIP ({reason})"
        ) from None
    _check_shape(name, clip.config.vision_config, vision)
    return TextTower.from_clip(clip.to(device).eval(), tokenizer)


def _check_shape(name: str, vision: Any, wanted: Any) -> None:
    different = [key for key in SHAPE if getattr(vision, key) != getattr(wanted, key)]
    if different:
        has, needs = (
            ", ".join(f"{key} {getattr(config, key)}" for key in different)
            for config in (vision, wanted)
        )
        raise ArgumentError.of("text_tower", f"{name} ({has})", f"the encoder's own CLIP ({needs})")
