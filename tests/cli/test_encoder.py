"""`--encoder`: merges inside the vision encoder, from the command line."""

from __future__ import annotations

import json

import pytest

import lftr as library
from lftr import EncoderFolder, EncoderToMe
from lftr.lab.evaluation import settings_grid, with_merges
from lftr.methods import get_method
from lftr.methods.encoder.spelling import parse_merge, spell_merge
from lftr.values.errors import ArgumentError

MERGES = {
    "tome": EncoderToMe(),
    "tome:r=8": EncoderToMe(r=8),
    "tome:r=8,proportional=true": EncoderToMe(r=8, proportional=True),
    "folder:keep=1/3,alpha=2": EncoderFolder(keep=1 / 3, alpha=2.0),
    "folder:keep=64": EncoderFolder(keep=64),
}


@pytest.mark.parametrize("text", MERGES)
def test_a_merge_is_spelled_by_name_and_options(text):
    merge = parse_merge(text)
    assert merge == MERGES[text]
    assert type(merge) is type(MERGES[text])
    assert parse_merge(spell_merge(merge)) == merge
    again = library.Preset.from_plain(
        json.loads(
            json.dumps(library.Preset(get_method("lftr"), tokens=4, encoder=merge).to_plain())
        )
    )
    assert again.encoder == merge


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tom", "unknown encoder 'tom'; did you mean 'tome'"),
        ("tome:q=1", "unknown option of encoder 'tome' 'q'"),
        ("tome:r", "--encoder = 'r'; allowed: name=value"),
        ("tome:r=x", "r = 'x'; allowed: a whole number"),
        ("tome:r=-1", "r = -1"),
        ("folder:keep=0", "keep = "),
    ],
)
def test_bad_merges_say_what_is_allowed(text, said, fails, picture):
    with pytest.raises(ArgumentError) as error:
        parse_merge(text)
    assert said in str(error.value)
    assert said in fails("run", picture, "What?", "--encoder", text)


def test_every_row_but_the_controls_has_one_with_the_merge_too():
    rows = with_merges(settings_grid([get_method("lftr")], [1 / 16]), [EncoderToMe(r=8)])
    assert [row.label for row in rows] == [
        "full",
        "tome:r=8",
        "lftr 1/16",
        "lftr + tome:r=8 1/16",
        *(f"{name} 1/16" for name in ("random", "uniform", "pool", "downsample")),
    ]
    assert [row.full for row in rows] == [True] + [False] * 7
    named = [get_method("uniform")]  # asked for, and so as any method
    asked = with_merges(settings_grid(named, [4], ()), [EncoderToMe(r=8)], named)
    labels = ["full", "tome:r=8", "uniform 4", "uniform + tome:r=8 4"]
    assert [row.label for row in asked] == labels
    assert [row.name for row in rows[:4]] == ["full", "tome:r=8", "lftr", "lftr + tome:r=8"]


def test_run_merges_in_the_encoder(reads, picture):
    words = ("run", picture, "What?", "--keep", "1/16", "--max-new-tokens", 1)
    (item,) = reads(*words, "--encoder", "tome:r=40")["report"]["items"]
    assert (item["tokens"], item["encoded"], item["kept"]) == (576, 376, 36)
    (item,) = reads(*words)["report"]["items"]
    assert item["encoded"] is None


def test_a_preset_may_hold_a_merge(reads, fails, picture, tmp_path):
    path = tmp_path / "preset.json"
    library.Preset(get_method("lftr"), tokens=36, encoder=EncoderToMe(r=40)).save(path)
    words = ("run", picture, "What?", "--preset", path, "--max-new-tokens", 1)
    (item,) = reads(*words)["report"]["items"]
    assert (item["encoded"], item["kept"]) == (376, 36)
    assert "--encoder = 'tome'; allowed: no such option" in fails(*words, "--encoder", "tome")


@pytest.mark.slow
def test_eval_holds_the_merge_alone_and_with_the_method(reads, tmp_path):
    told = reads(
        "eval", "--n", 2, "--keep", "1/16", "--encoder", "tome:r=40", "--max-new-tokens", 2,
        "--out", tmp_path / "run",
    )  # fmt: skip
    rows = {row["label"]: row for row in told["settings"]}
    assert rows["tome:r=40"]["tokens"] == 376
    assert rows["lftr + tome:r=40 1/16"]["tokens"] == rows["lftr 1/16"]["tokens"] == 36
    labels = [one["label"] for one in told["config"]["settings"]]
    assert labels == list(rows)


@pytest.mark.slow
def test_bench_measures_merged_rows(reads):
    told = reads(
        "bench", "--against", "full", "--keep", "1/16", "--encoder", "tome:r=40",
        "--rounds", 1, "--decode", 1,
    )  # fmt: skip
    rows = {row["setting"]: row for row in told["rows"]}
    assert rows["tome:r=40"]["kept"] == 376
    assert rows["tome:r=40"]["encoder"] == "tome:r=40"
    assert rows["full"]["encoder"] is None
    assert rows["lftr + tome:r=40 1/16"]["kept"] == 36
