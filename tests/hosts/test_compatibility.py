"""docs/compatibility.md lists what the code hosts and refuses, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lftr.hosts.transformers.families import list_families
from lftr.hosts.transformers.families.refused import REFUSED
from lftr.hosts.vllm import ARCHITECTURES

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table under a heading by their model type: the other cells."""
    part = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in part.splitlines() if row.startswith("| `")]
    found = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    assert len(found) == len(rows), "a type stands in two rows"
    return found


HOSTED, NOT_HOSTED = table("Hosted"), table("Refused")


def test_every_family_and_no_other_is_listed() -> None:
    assert sorted(HOSTED) == list_families()


def test_every_refusal_and_its_reason_is_listed() -> None:
    assert {name: cells[0] for name, cells in NOT_HOSTED.items()} == REFUSED


def test_every_type_of_this_release_is_listed() -> None:
    assert set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) <= {*HOSTED, *NOT_HOSTED}


def test_the_figures_are_those_of_the_tables() -> None:
    said = re.search(r"Of the (\d+) model types .* (\d+) are hosted and (\d+) are refused", PAGE)
    assert said is not None
    figures = [int(figure) for figure in said.groups()]
    assert figures == [len(HOSTED) + len(NOT_HOSTED), len(HOSTED), len(NOT_HOSTED)]


@pytest.mark.parametrize("name", sorted(HOSTED))
def test_videos_are_those_of_the_family(name: str) -> None:
    if HOSTED[name][0].startswith("broken"):
        pytest.skip("broken in the release that the page was written with: nothing is said of it")
    assert HOSTED[name][2] == ("yes" if name in list_families(video=True) else "no")


def test_what_is_served_is_marked() -> None:
    served = sorted(name for name, cells in HOSTED.items() if cells[4] == "yes")
    assert served == sorted(one.model_type for one in ARCHITECTURES.values())
