"""Lets torchvision be imported beside a CPU build of torch, in the processes of these tests alone.

PyPI's torchvision is compiled for torch's CUDA build, so that beside the CPU build its operators
do not load. Its Python code then stops at operators that nobody defined: importing it registers
their shapes. Two empty definitions are all that it asks for; images are resized without them.
`scripts/test-vllm` puts this folder on ``PYTHONPATH``, which the processes that vLLM starts
inherit; python runs it by its name. Nobody's installation is changed.
"""

import importlib.abc
import importlib.machinery
import sys

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
kept = []


class Defining(importlib.abc.MetaPathFinder):
    """Defines the operators when torchvision is about to be imported, and steps aside."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        found = importlib.machinery.PathFinder.find_spec(name)
        if found is not None and torch.version.cuda is None:
            library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                library.define(operator)
            kept.append(library)
        return found


sys.meta_path.insert(0, Defining())
