"""What vLLM asks of an architecture before anything is started: checks and configuration.

Every process of vLLM loads this file, for other models too. So it imports as it is called.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

ROWS = (1, 1, 1)
"""As the ``mrope_section`` of a whole model, a sign for vLLM to pass rows of positions. The
language model's own configuration does not get it, so its rotary embedding stays as it is."""


class Configuration(VerifyAndUpdateConfig):
    """The hooks of the reduced architectures, which vLLM calls once for each configuration."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Ask for rows of positions where kept tokens of one dimension keep theirs."""
        if _keeps_positions(model_config.hf_config) and _counts(model_config.hf_config):
            model_config.hf_config.mrope_section = list(ROWS)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Check that every part of vLLM gets the positions of kept tokens, and their weights.

        Before, that vLLM has the functions that this server uses.
        """
        from . import api
        from .start_options import relied_on

        config = vllm_config.model_config.hf_config
        api.check(relied_on(config))
        from .model import positions, slot_weights

        if _keeps_positions(config) or _weighs(config):
            otherwise = "; or positions = 'compact' and weights = 'none'"
            positions.check(vllm_config, otherwise if _counts(config) else "")
        if _weighs(config):
            slot_weights.check(vllm_config)


def _keeps_positions(config: Any) -> bool:
    from .start_options import StartOptions

    return StartOptions.of(config).positions == "original"


def _weighs(config: Any) -> bool:
    from .start_options import StartOptions

    return StartOptions.of(config).weights > 0


def _counts(config: Any) -> bool:
    from .architectures import architecture_of

    return architecture_of(config).counted_positions
