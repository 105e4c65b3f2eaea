"""Comparing methods with one another, with the full model and with the controls."""

from __future__ import annotations

from ..asking.answering import Answer, answer_all, answer_batch
from ..asking.data import Data, load_data
from ..asking.items import Item
from ..asking.settings import CONTROLS, Setting, settings_grid, settings_of, with_merges
from ..asking.subject import Subject
from ..scoring.hallucination import Hallucination
from ..scoring.intervals import Bootstrap, Interval
from ..scoring.metrics import METRICS, agreement, get_metric
from .compare import Outcome, compare
from .configuration import configuration
from .embeddings import cosine, embed_all, recall_agreement
from .evaluate import evaluate, try_settings
from .gallery import write_thumbnails
from .runs import Run
from .summary import summarise

__all__ = [
    "CONTROLS",
    "METRICS",
    "Answer",
    "Bootstrap",
    "Data",
    "Hallucination",
    "Interval",
    "Item",
    "Outcome",
    "Run",
    "Setting",
    "Subject",
    "agreement",
    "answer_all",
    "answer_batch",
    "compare",
    "configuration",
    "cosine",
    "embed_all",
    "evaluate",
    "get_metric",
    "load_data",
    "recall_agreement",
    "settings_grid",
    "settings_of",
    "summarise",
    "try_settings",
    "with_merges",
    "write_thumbnails",
]
