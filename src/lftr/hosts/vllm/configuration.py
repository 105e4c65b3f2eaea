"""What vLLM asks of an architecture before anything is started: checks and configuration.

Every process of vLLM loads this file, for other models too. So it imports as it is called.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

ROWS = (1, 1, 1)
"""As the ``mrope_section`` of a whole model, a sign for vLLM to pass rows of positions. The
language model's own configuration does not get it, so its rotary embedding stays as it is."""

MANAGER = f"{__package__}.encoder_budget.FullTokens"


class Configuration(VerifyAndUpdateConfig):
    """The hooks of the reduced architectures, which vLLM calls once for each configuration.

    Those of the stock architecture run first.
    """

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Ask for rows of positions where kept tokens of one dimension keep theirs."""
        _stock(model_config.hf_config).verify_and_update_model_config(model_config)
        if _keeps_positions(model_config.hf_config) and _counts(model_config.hf_config):
            model_config.hf_config.mrope_section = list(ROWS)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Check that every part of vLLM gets the positions of kept tokens, and their weights.

        Before, that vLLM has the functions that this server uses. The scheduler counts items with
        all their tokens, unless another manager of encoder outputs is named.
        """
        from . import api
        from .start_options import relied_on

        config = vllm_config.model_config.hf_config
        uses = relied_on(config)
        api.check(uses)
        _mark_graphs(vllm_config.model_config, sorted(uses))
        if vllm_config.ec_manager_config.encoder_cache_manager_cls is None:
            vllm_config.ec_manager_config.encoder_cache_manager_cls = MANAGER
        _stock(config).verify_and_update_config(vllm_config)
        from .model import positions, slot_weights

        if _keeps_positions(config) or _weighs(config):
            otherwise = "; or positions = 'compact' and weights = 'none'"
            positions.check(vllm_config, otherwise if _counts(config) else "")
        if _weighs(config):
            slot_weights.check(vllm_config)


def _mark_graphs(model_config: Any, uses: list[str]) -> None:
    """Let vLLM's cache of compiled graphs tell this start from the stock model and other starts.

    It knows a graph of a language model by the configuration of that alone.

    Raises
    ------
    UnsupportedModelError
        If the mark makes no difference to what it knows graphs by.
    """
    from ...values.errors import UnsupportedModelError

    text = model_config.hf_text_config
    text.lftr_uses = []
    unmarked = model_config.compute_hash()
    text.lftr_uses = uses
    if model_config.compute_hash() == unmarked:
        raise UnsupportedModelError(
            "vLLM's ModelConfig.compute_hash does not depend on hf_text_config, so this server "
            "could take a compiled graph of another one from the disk; this release is not one "
            "that lftr's plugin knows"
        )


def _stock(config: Any) -> type[VerifyAndUpdateConfig]:
    """Return the hooks of the architecture that is reduced; by default they do nothing."""
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .architectures import architecture_of

    stock: type[VerifyAndUpdateConfig] = MODELS_CONFIG_MAP.get(
        architecture_of(config).stock, VerifyAndUpdateConfig
    )
    return stock


def _keeps_positions(config: Any) -> bool:
    from .start_options import StartOptions

    return StartOptions.of(config).positions == "original"


def _weighs(config: Any) -> bool:
    from .start_options import StartOptions

    return StartOptions.of(config).weights > 0


def _counts(config: Any) -> bool:
    from .architectures import architecture_of

    return architecture_of(config).counted_positions
