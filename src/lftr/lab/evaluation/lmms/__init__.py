"""The plugin for lmms-eval, which finds the model ``lftr_hf`` by this package's entry point.

``lmms-eval --model lftr_hf --model_args pretrained=...,method=lftr,keep=0.0625 --tasks pope``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the model to register; the entry point in the group ``lmms_eval.models``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("lftr_hf", chat_class_path="lftr.lab.evaluation.lmms.model.LftrHf")
