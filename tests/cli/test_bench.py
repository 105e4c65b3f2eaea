"""`lftr bench`: what it measures, says, and refuses."""

from __future__ import annotations

import pytest

from lftr.lab.profiling import CONVENTIONS

QUICK = ("--rounds", 1, "--decode", 1)


@pytest.mark.slow
def test_measures_every_setting_on_every_call_against_the_full_model(reads):
    told = reads(
        "bench", "--against", "full", "--method", "lftr", "--method", "pool", "--keep", "1/16",
        "--batch", 1, "--batch", 2, *QUICK,
    )  # fmt: skip
    rows = told["rows"]
    assert [(row["setting"], row["batch"], row["tokens"], row["kept"]) for row in rows] == [
        ("full", 1, 576, 576),
        ("lftr 1/16", 1, 576, 36),
        ("pool 1/16", 1, 576, 36),
        ("full", 2, 1152, 1152),
        ("lftr 1/16", 2, 1152, 72),
        ("pool 1/16", 2, 1152, 72),
    ]
    parts = {"encoder", "method", "host", "prefill", "total", "decode"}
    for row in rows:
        assert set(row["ms"]) == parts
        assert set(row["flops"]) == set(CONVENTIONS)
        assert row["limit_ms"]["median"] > 0
        assert row["over_limit"]["median"] > 0
        assert set(row["full_over_this"]) == {"prefill", "after_encoder", "total", "decode"}
    assert rows[0]["full_over_this"]["total"]["median"] == 1
    assert told["peak"] == "tensors alive, by their storages"
    assert told["rounds"] == 1


def test_without_the_full_model_there_are_no_ratios(lftr, reads):
    told = reads("bench", "--tokens", 64, *QUICK)
    assert [row["setting"] for row in told["rows"]] == ["lftr 64"]
    assert told["rows"][0]["full_over_this"] is None
    assert told["rows"][0]["limit_ms"] is None


def test_prints_tables_that_name_conventions_and_sources(lftr):
    out = lftr("bench", "--against", "full", "--keep", "1/16", *QUICK).stdout
    for said in ("GFLOPs fastv", "GFLOPs gated", "GFLOPs true", "4nd²+2n²d+2ndm", "KV MiB"):
        assert said in out
    assert "tensors alive" in out
    assert "over limit" in out
    assert "576 → 36" in out


@pytest.mark.slow
def test_pictures_and_resolutions_of_one_s_own(reads, picture):
    told = reads("bench", "--image", picture, "--tokens", 8, *QUICK)
    assert told["rows"][0]["call"] == "288x192, batch 1"
    told = reads("bench", "--resolution", "100x50", "--resolution", "64X64", "--tokens", 8, *QUICK)
    assert [row["call"] for row in told["rows"]] == ["100x50, batch 1", "64x64, batch 1"]


def test_text_guided_methods_measure_with_the_text_tower(reads):
    told = reads("bench", "--method", "trim", "--tokens", 8, *QUICK)
    assert told["rows"][0]["kept"] == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resolution", "big"], "--resolution = 'big'; allowed: width x height"),
        (["--resolution", "0x9"], "--resolution = '0x9'; allowed: width x height"),
        (["--against", "lftr"], "--against = 'lftr'; allowed: full"),
        (["--keep", "2.5"], "keep = "),
        (["--method", "lfter"], "did you mean 'lftr'"),
        (["--method", "lftr", "--method", "pool", "--option", "a=1"], "method.name=value"),
        (["--image", "absent.png"], "image = 'absent.png'"),
    ],
    ids=["resolution", "no pixels", "against", "keep", "method", "option", "image"],
)
def test_bad_input_says_what_is_allowed(fails, words, said):
    assert said in fails("bench", *words)


def test_wrong_usage_exits_with_2(lftr):
    assert lftr("bench", "--batch", 0).exit_code == 2
    assert lftr("bench", "--rounds", 0).exit_code == 2
