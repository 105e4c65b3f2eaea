"""Checks at the server's start: that the reduced architecture serves, and prepares a request."""

from __future__ import annotations

from typing import Any

from ...values.errors import UnsupportedModelError, reason_of
from .architectures import ARCHITECTURES


class StartCheck:
    """ASGI middleware that stops a server which would answer without reduction.

    The command line asks for a reduced architecture, but a configuration file, an environment
    variable or another release of vLLM could still bring about the stock one, which then answers
    without an error. ASGI calls middleware once before the first request; by then vLLM has loaded
    the model, and its configuration says which class that is.

    Parameters
    ----------
    app : ASGI application
        The server.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass every call on, but for the start of a server that is not reduced."""
        if scope["type"] == "lifespan":
            try:
                model_config = scope["app"].state.vllm_config.model_config
                check(model_config)
                prepare_example(model_config)
            except Exception as error:  # uvicorn would start the server without its lifespan
                await receive()
                message = f"lftr: {reason_of(error)}"
                await send({"type": "lifespan.startup.failed", "message": message})
                return
        await self.app(scope, receive, send)


def check(model_config: Any) -> None:
    """Check what vLLM has made of a model's configuration.

    Parameters
    ----------
    model_config : vllm.config.ModelConfig
        The configuration of the running engine.

    Raises
    ------
    UnsupportedModelError
        If the architecture is not a reduced one, or does not generate text.
    """
    allowed = [one.name for one in ARCHITECTURES.values()]
    if model_config.architecture not in allowed:
        raise UnsupportedModelError(
            f"vLLM serves this model as {model_config.architecture}, without reduction; allowed: "
            f"{', '.join(allowed)}, which `lftr serve` asks for"
        )
    if model_config.runner_type != "generate":
        raise UnsupportedModelError(
            f"runner = {model_config.runner_type!r}; allowed: 'generate', since lftr reduces what "
            "generates text"
        )


def prepare_example(model_config: Any) -> None:
    """Prepare a request as vLLM does, which compares the order of vLLM's calls.

    vLLM does the same at its start, but a server goes on where that fails.

    Parameters
    ----------
    model_config : vllm.config.ModelConfig
        The configuration of the running engine.

    Raises
    ------
    UnsupportedModelError
        If this release of vLLM prepares requests in another way than the plugin knows.
    """
    from vllm.multimodal import MULTIMODAL_REGISTRY

    processor = MULTIMODAL_REGISTRY.create_processor(model_config)
    limits = processor.info.allowed_mm_limits
    medium = next((name for name, most in limits.items() if most > 0), None)
    if medium is not None:  # images come first, and are the cheapest
        processor.get_dummy_mm_inputs({medium: 1})
