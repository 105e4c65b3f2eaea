"""Every method states where it comes from, as data; pages are written from that."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

import lftr
from lftr.methods import Source
from lftr.methods.lookup import KINDS
from lftr.values.errors import ArgumentError

ROOT = Path(__file__).parents[2]
STATING = [
    *(c for kind in KINDS.values() for c in kind.registry.values()),
    lftr.EncoderToMe,
    lftr.EncoderFolder,
]


@pytest.mark.parametrize(
    "cls", [c for c in STATING if c.__module__.startswith("lftr.")], ids=lambda c: c.__name__
)
def test_every_method_states_its_source(cls):
    assert isinstance(cls.source, Source)
    assert cls.source.arxiv or cls.source.note
    assert "Source:" not in (inspect.getdoc(cls) or "")


def test_a_source_prints_itself():
    source = Source(
        "TRIM",
        arxiv="2409.10994",
        venue="COLING 2025",
        section="3",
        code="https://example.org/trim",
        function="reduce",
        note="a part",
    )
    assert str(source) == "TRIM (COLING 2025, arXiv 2409.10994)"
    assert source.markdown() == (
        "[TRIM](https://arxiv.org/abs/2409.10994) (COLING 2025), section 3, "
        "[code](https://example.org/trim), `reduce`; a part"
    )
    assert str(Source("ours", note="no paper")) == "ours"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"arxiv": "24091.0994"}, "arxiv"),
        ({"arxiv": "2413.10994"}, "arxiv"),
        ({"arxiv": "2409.10994", "code": "example.org"}, "code"),
        ({}, "note"),
    ],
)
def test_what_is_no_source_is_refused(wrong, field):
    with pytest.raises(ArgumentError, match=field):
        Source("wrong", **wrong)


def test_the_catalogue_is_written_from_the_sources(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import methods_doc

    assert (ROOT / "docs" / "methods.md").read_text() == "\n".join(methods_doc.catalogue())
