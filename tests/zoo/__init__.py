"""Tiny random-weight models of the real architectures, and inputs as their processors make them.

    entry = zoo.FAMILIES["llava_next"]
    model = entry.model()                                     # shared; `entry.build()` is new
    rows = [[3, Image("wide"), 4, Image("small"), 5], [6], [2, Image("square"), 3]]
    model.generate(**entry.inputs(model, rows), max_new_tokens=4)

NOTES.md says what each family does that a host must know.
"""

from __future__ import annotations

from .base import (
    ABILITIES,
    KINDS,
    RELEASE,
    TEXT,
    Fault,
    Image,
    Row,
    Segment,
    Side,
    Traits,
    VideoEntry,
    ZooEntry,
)
from .codes import Apertus1p5, Chameleon, Emu3, Fuyu
from .crops_and_queries import Aria, DeepseekOcr2, GotOcr2, Idefics2, Ovis2, PerceptionLM
from .encoders import Blip2, InstructBlip, InstructBlipVideo, Mllama
from .gemma import Gemma3, Gemma4, Gemma4Shared, PaliGemma
from .gemma_kin import DiffusionGemma, Gemma3n, Gemma4Unified
from .grids import KimiK25, Mistral3
from .llava import Llava, LlavaNext, LlavaNextVideo, LlavaOnevision, VideoLlava, VipLlava
from .minicpm import MiniCPMV46, MiniCPMV47
from .patches import (
    Exaone45,
    HyperClovaXVision2,
    MiniMaxM3VL,
    MiniMaxM3VLSparse,
    MuseGlimmer,
    NemotronHOmni,
    VideoLlama3,
)
from .qwen import (
    Glm4v,
    Glm4vMoe,
    Glm46V,
    Qwen2_5VL,
    Qwen2VL,
    Qwen3_5,
    Qwen3_5Moe,
    Qwen3VL,
    Qwen3VLMoe,
)
from .recent import RECENT
from .runs import Inkling, LightOnOcr
from .square import DeepseekVL, DeepseekVLHybrid, FastVlm, Janus
from .tiles import AyaVision, Cohere2Vision, Idefics3, InternVL, Llama4, SmolVLM
from .video import Videos
from .views import Granite4Vision, Lfm2Vl, QianfanOcr, Step3p7

FAMILIES: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        Llava(),
        VipLlava(),
        LlavaNext(),
        LlavaNextVideo(),
        VideoLlava(),
        LlavaOnevision(),
        Qwen2VL(),
        Qwen2_5VL(),
        Qwen3VL(),
        Qwen3VLMoe(),
        Qwen3_5(),
        Qwen3_5Moe(),
        Glm4v(),
        Glm4vMoe(),
        Glm46V(),
        InternVL(),
        Idefics3(),
        SmolVLM(),
        Gemma3(),
        Gemma4(),
        Gemma4Shared(),
        PaliGemma(),
        Mistral3(),
        AyaVision(),
        Cohere2Vision(),
        KimiK25(),
        Llama4(),
        Blip2(),
        InstructBlip(),
        InstructBlipVideo(),
        Mllama(),
        Exaone45(),
        HyperClovaXVision2(),
        MiniMaxM3VL(),
        MuseGlimmer(),
        NemotronHOmni(),
        VideoLlama3(),
        MiniCPMV46(),
        MiniCPMV47(),
        Gemma3n(),
        Gemma4Unified(),
        LightOnOcr(),
        Inkling(),
        QianfanOcr(),
        Step3p7(),
        Granite4Vision(),
        Lfm2Vl(),
        *RECENT,
        DeepseekVL(),
        DeepseekVLHybrid(),
        Janus(),
        FastVlm(),
        GotOcr2(),
        Ovis2(),
        PerceptionLM(),
        DeepseekOcr2(),
        Aria(),
        Idefics2(),
        Chameleon(),
        Emu3(),
        Apertus1p5(),
        Fuyu(),
    )
    if entry.model_class is not None  # older releases of transformers lack some
}
try:
    from .omni import Dots3Note, MuseSpark
except ImportError:  # before transformers 5.23
    pass
else:
    FAMILIES |= {entry.name: entry for entry in (Dots3Note(), MuseSpark())}
try:
    from .crops import MiniCPMOcr, Molmo2
except ImportError:  # before transformers 5.21
    pass
else:
    FAMILIES |= {entry.name: entry for entry in (MiniCPMOcr(), Molmo2())}

SPARSE = MiniMaxM3VLSparse()
"""Wrong in plain transformers where a row is padded on its left, so no family of the matrix."""

# Families that older releases of transformers may not have.
try:
    from . import mrope
except ImportError:
    pass
else:
    FAMILIES |= {
        entry.name: entry
        for entry in (
            mrope.CohereCompass(),
            mrope.Cosmos3Edge(),
            mrope.Cosmos3Omni(),
            mrope.Ernie4_5VLMoe(),
            mrope.PaddleOCRVL(),
            mrope.GlmOcr(),
            mrope.HunYuanVL(),
            mrope.Qwen2_5OmniThinker(),
            mrope.Qwen3OmniThinker(),
        )
    }
try:
    from . import indexed
except ImportError:
    pass
else:
    FAMILIES |= {entry.name: entry for entry in (indexed.Glm5Next(), indexed.Qwen4Exp())}
try:
    from .hy_v4 import HYV4VL
except ImportError:
    pass
else:
    FAMILIES |= {entry.name: entry for entry in (HYV4VL(),)}

UNUSABLE: dict[str, Fault] = {
    "llama4": Fault(
        "Llama4ForConditionalGeneration.forward reads image_outputs of an output that has none, so "
        "every call raises",
        since=(5, 24),
        fixed=(5, 25),
    ),
    "minicpmv4_6": Fault("the tower takes all images for one size", fixed=(5, 19)),
    "minimax_m3_vl": Fault("the tower lets images see one another", fixed=(5, 23)),
}
"""What plain transformers of some releases gives no right answer to: several images, or any."""
BROKEN: dict[str, ZooEntry] = {
    name: FAMILIES.pop(name) for name, fault in UNUSABLE.items() if fault.on() and name in FAMILIES
}
"""Those families under the release at hand; `test_zoo` notices when they work again."""

DIFFUSION = DiffusionGemma()
"""Denoises blocks of text; tests of its own."""

CLIPS = [e for e in FAMILIES.values() if isinstance(e, VideoEntry) and e.takes_clips]
VIDEOS = {str(e): Videos(e) for e in CLIPS}
"""The families that take clips, shown clips alone."""
MIXED = {str(e): Videos(e, mixed=True) for e in CLIPS if e.mixes}
"""The same, shown images and clips."""

__all__ = [
    "ABILITIES",
    "BROKEN",
    "DIFFUSION",
    "FAMILIES",
    "KINDS",
    "MIXED",
    "RELEASE",
    "SPARSE",
    "TEXT",
    "UNUSABLE",
    "VIDEOS",
    "Fault",
    "Image",
    "Row",
    "Segment",
    "Side",
    "Traits",
    "VideoEntry",
    "Videos",
    "ZooEntry",
]
