"""Comparing methods with one another, with the full model and with the controls."""

from __future__ import annotations

from .answering import Answer, answer_all, answer_batch
from .compare import Outcome, compare
from .configuration import configuration
from .data import Data, load_data
from .embeddings import cosine, embed_all, recall_agreement
from .evaluate import evaluate, try_settings
from .gallery import write_thumbnails
from .hallucination import Hallucination
from .intervals import Bootstrap, Interval
from .items import Item
from .runs import Run
from .scoring import METRICS, agreement, get_metric
from .settings import CONTROLS, Setting, settings_grid, settings_of, with_merges
from .subject import Subject
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
