"""The vLLM plugin: visual tokens are reduced before the language model, by the same methods.

`register` is what ``vllm.general_plugins`` points at. It adds architectures under names of their
own, ``Lftr...``; a model is served reduced where its configuration asks for one of those, and every
other model is served as if lftr were not installed. ``lftr serve`` writes that configuration.

`request` reads and bounds a request before anything is encoded, `model` chooses among an item's
tokens after the encoder, `families` holds a file for each group of architectures, `server` is
the command line of `lftr serve`, `api` compares the installed vLLM with what the plugin overrides,
`start_check` stops a server that is not reduced, and `encoder_budget` bounds what the encoder does
in a step.
"""

from __future__ import annotations

from .architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "register"]


def register() -> None:
    """Make the reduced architectures known to vLLM; runs in each of its processes."""
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.model_executor.models.registry import ModelRegistry

    from .configuration import Configuration

    for architecture in ARCHITECTURES.values():
        MODELS_CONFIG_MAP[architecture.name] = Configuration
        if architecture.name not in ModelRegistry.models:
            module = f"{__name__}.families.{architecture.module}:{architecture.name}"
            ModelRegistry.register_model(architecture.name, module)
