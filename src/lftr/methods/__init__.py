"""Every method by its class; `get_method` finds them by name.

`before` decides before the language model, `video` is made for clips, `inside` decides inside the
language model, `compose` makes methods of other methods, and `encoder` merges tokens while the
vision encoder runs. New files in the first three are imported automatically.
"""

from __future__ import annotations

from typing import Any

from ..values.source import Source as Source
from . import before as before
from . import inside as inside
from . import video as video
from .base import Method
from .before.aim import AIM
from .before.apet import ApET
from .before.cdpruner import CDPruner
from .before.cls_only import ClsOnly
from .before.coverage import Coverage
from .before.dart import Dart
from .before.divprune import DivPrune
from .before.downsample import Downsample
from .before.fastervlm import FasterVLM
from .before.ficoco import FiCoCo
from .before.flowcut import FlowCut
from .before.fold import Fold
from .before.folder import Folder
from .before.fsr import FSR
from .before.globalcom2 import GlobalCom2
from .before.greedy_nms import GreedyNMS
from .before.hawk import HAWK
from .before.hiprune import HiPrune
from .before.holov import HoloV
from .before.id_selection import IDSelection
from .before.interpolate import Interpolate
from .before.lftr import Lftr
from .before.multi_scale_pool import MultiScalePool
from .before.pixel_prune import PixelPrune
from .before.pool import Pool
from .before.prumerge import PruMerge
from .before.prumerge_plus import PruMergePlus
from .before.prunesid import PruneSID
from .before.random import Random
from .before.region_router import RegionRouter
from .before.resprune import ResPrune
from .before.scope import Scope
from .before.score import SCoRe
from .before.scorer import Scorer
from .before.tome import ToMe
from .before.trim import Trim
from .before.two_expert import TwoExpert
from .before.uniform import Uniform
from .before.visionzip import VisionZip
from .before.vispruner import VisPruner
from .before.visual_grouping import VisualGrouping
from .before.vscan import VScan
from .compose import Adaptive, Coordinates, Merge, MergeInside, Mix, PerFrame, PerTile, Then
from .inside.aim import AIMInside
from .inside.autoprune import AutoPrune
from .inside.bypass import Bypass
from .inside.clse import CLSE
from .inside.dart import DartInside
from .inside.dyvte import DyVTE
from .inside.fastv import FastV
from .inside.feather import Feather
from .inside.freeze import Freeze
from .inside.greedyprune import GreedyPrune
from .inside.ivc_prune import IVCPrune
from .inside.priortr import PriorTR
from .inside.pyramiddrop import PyramidDrop
from .inside.sparsevlm import SparseVLM
from .inside.sparsevlm_plus import SparseVLMPlus
from .inside.static_exit import StaticExit
from .inside.transprune import TransPrune
from .inside.v2drop import V2Drop
from .lookup import KINDS, get_method, list_methods
from .video.aim import AIMVideo
from .video.aot import AOT
from .video.dycoke import DyCoke
from .video.evs import EVS
from .video.fastvid import FastVID
from .video.flashvid import FlashVID
from .video.frame_sample import FrameSample
from .video.free_video_llm import FreeVideoLLM
from .video.holitom import HoliTom
from .video.prunevid import PruneVid
from .video.semvid import SemVID
from .video.vcast import VCast
from .video.vidcom2 import VidCom2

__all__ = [
    "AIM",
    "AOT",
    "CLSE",
    "EVS",
    "FSR",
    "HAWK",
    "AIMInside",
    "AIMVideo",
    "Adaptive",
    "ApET",
    "AutoPrune",
    "Bypass",
    "CDPruner",
    "ClsOnly",
    "Coordinates",
    "Coverage",
    "Dart",
    "DartInside",
    "DivPrune",
    "Downsample",
    "DyCoke",
    "DyVTE",
    "FastV",
    "FastVID",
    "FasterVLM",
    "Feather",
    "FiCoCo",
    "FlashVID",
    "FlowCut",
    "Fold",
    "Folder",
    "FrameSample",
    "FreeVideoLLM",
    "Freeze",
    "GlobalCom2",
    "GreedyNMS",
    "GreedyPrune",
    "HiPrune",
    "HoliTom",
    "HoloV",
    "IDSelection",
    "IVCPrune",
    "Interpolate",
    "Lftr",
    "Merge",
    "MergeInside",
    "Method",
    "Mix",
    "MultiScalePool",
    "PerFrame",
    "PerTile",
    "PixelPrune",
    "Pool",
    "PriorTR",
    "PruMerge",
    "PruMergePlus",
    "PruneSID",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "RegionRouter",
    "ResPrune",
    "SCoRe",
    "Scope",
    "Scorer",
    "SemVID",
    "Source",
    "SparseVLM",
    "SparseVLMPlus",
    "StaticExit",
    "Then",
    "ToMe",
    "TransPrune",
    "Trim",
    "TwoExpert",
    "Uniform",
    "V2Drop",
    "VCast",
    "VScan",
    "VidCom2",
    "VisPruner",
    "VisionZip",
    "VisualGrouping",
    "get_method",
    "list_methods",
]


def __getattr__(name: str) -> Any:
    """Return a class that another package registered."""
    if name.startswith("_"):
        raise AttributeError(name)
    list_methods()  # loads the methods of other packages
    classes = {cls.__name__: cls for kind in KINDS.values() for cls in kind.registry.values()}
    if name not in classes:
        raise AttributeError(f"lftr.methods has no {name!r}; it has {', '.join(sorted(classes))}")
    return classes[name]
