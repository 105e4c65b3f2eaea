"""What can be refused before a model is loaded is; what goes wrong later is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lftr import bundled
from lftr.lab.cli.run_folder import LEFT_OUT
from lftr.lab.tuning.workload import load_workload
from lftr.methods.encoder.spelling import parse_merge
from lftr.presets import Preset
from lftr.values.budget import parse_keep
from lftr.values.errors import ArgumentError

DATA = Path(__file__).parents[1] / "media/data"
QUICK = ("--max-new-tokens", 1, "--device", "cpu")


@pytest.fixture
def unloaded(monkeypatch):
    """No model may be loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(bundled, "load", load)


def test_budgets_that_no_model_takes(unloaded, fails, picture, tmp_path):
    Preset(bundled_method(), 0.5).save(tmp_path / "preset.json")
    broken = json.loads((tmp_path / "preset.json").read_text()) | {"keep": 0}
    (tmp_path / "preset.json").write_text(json.dumps(broken))
    for keep in ("0", "-1", "1.5", "101%", "0%", "nan", "x%", "half"):
        assert "keep = " in fails("run", picture, "What?", "--keep", keep)
        assert "keep = " in fails("show", picture, "--keep", keep)
        assert "keep = " in fails("run", picture, "What?", "--method", "fastv", "--keep", keep)
    assert "keep = 0" in fails("run", picture, "What?", "--preset", tmp_path / "preset.json")


def bundled_method():
    from lftr.methods import get_method

    return get_method("uniform")


def test_verify_refuses_wrong_words_at_once(unloaded, fails, tmp_path):
    absent = tmp_path / "absent.png"
    assert f"image = '{absent}'; allowed: a file that exists" in fails("verify", absent)
    assert "encodes the image again" in fails("verify", "--method", "downsample")
    assert "keep = " in fails("verify", "--keep", "0")


@pytest.mark.parametrize("name", ["./absent", "../absent", "/absent/model", "~/absent", "a/b/c"])
def test_a_path_without_a_model(unloaded, fails, picture, name):
    said = f"--model = '{name}'; allowed: a Hugging Face id, or a folder that exists"
    for words in (("run", picture, "?"), ("show", picture), ("verify",), ("tune",), ("eval",)):
        assert said in fails(*words, "--model", name)


def test_a_file_is_no_model(unloaded, fails, picture):
    assert "a folder that exists" in fails("verify", "--model", picture)


def test_percent_is_a_ratio(reads, picture):
    assert parse_keep("6.25%") == parse_keep("1/16") == 0.0625
    assert parse_keep(" 100 % ") == 1.0
    assert parse_keep("7%") == 0.07
    assert parse_merge("folder:keep=25%").keep == 0.25
    told = reads("run", picture, "What?", "--keep", "6.25%", "--method", "uniform", *QUICK)
    assert told["report"]["kept"] == 36


def test_pictures_that_could_not_be_written(unloaded, fails, picture, tmp_path):
    for name in ("kept", "kept.txt", "kept.mp4", "kept.xbm", "absent/kept.png", "."):
        assert "--out = " in fails("show", picture, "--out", tmp_path / name)


def test_files_that_no_decoder_reads_are_one_line(unloaded, fails, tmp_path):
    said = fails("run", DATA / "bomb20000.png", "What?")
    assert "bomb20000.png'; allowed: " in said
    assert "MAX_IMAGE_PIXELS" in said
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64))
    assert "allowed" in fails("run", "x" * 5000, "What?")
    (tmp_path / "00001.MTS").write_bytes(b"no video")
    assert "a video file that FFmpeg can read" in fails("run", tmp_path / "00001.MTS", "What?")


def test_a_question_that_holds_the_placeholder_is_one_line(fails, picture):
    said = fails("run", picture, "<image>\nWhat?", *QUICK)
    assert "allowed: a text without '<image>'" in said


def test_a_model_that_fails_is_one_line(fails, picture, monkeypatch):
    from transformers import LlavaForConditionalGeneration

    def fall_over(*_, **__):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", fall_over)
    for words in (("run", picture, "What?", *QUICK), ("show", picture)):
        assert "failed at it (IndexError: index out of range in self)" in fails(*words)


def test_a_clip_of_one_frame_is_a_video(reads, lftr, tmp_path):
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (80, 80), (9, 90, 9)).save(tmp_path / "frames" / "1.png")
    (item,) = reads("run", tmp_path / "frames", "What?", *QUICK)["report"]["items"]
    assert item["medium"] == "video"
    assert "video of 100" in lftr("run", tmp_path / "frames", "What?", *QUICK).stdout
    (item,) = reads("show", tmp_path / "frames", "--out", tmp_path / "a.png")["report"]["items"]
    assert item["medium"] == "video"


def test_a_picture_is_the_same_to_the_model_however_it_lies(reads, tmp_path):
    """A phone held upright writes its picture lying, and which way up it is."""
    rng = np.random.default_rng(3)
    upright = Image.fromarray(rng.integers(0, 256, (90, 60, 3), dtype=np.uint8))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    positions = [
        reads("run", tmp_path / name, "What?", *QUICK)["report"]["items"]
        for name in ("upright.png", "lying.png")
    ]
    assert positions[0] == positions[1]


def test_one_bad_line_is_named_and_the_rest_is_answered(lftr, tmp_path):
    Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "base.png")
    rows = [
        {"image": "base.png", "question": question, "answers": ["no"], "id": str(number)}
        for number, question in enumerate(["Red?", "<image>\nRed?", "How many?"])
    ]
    rows.append({"image": str(DATA / "bomb20000.png"), "question": "?", "answers": ["no"]})
    rows.append({"image": "x" * 5000, "question": "?", "answers": ["no"]})
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["eval", "--data", tmp_path / "bad.jsonl", "--keep", "1/16", "--method", "uniform"]
    for _ in range(2):
        result = lftr(*words, "--out", tmp_path / "run", "--json", *QUICK)
        assert result.exit_code == LEFT_OUT
        told = json.loads(result.stdout)
        assert told["questions"] == 2
        named = [problem.partition(":")[0] for problem in told["problems"]]
        assert named == ["bad.jsonl line 4", "bad.jsonl line 5", "1 (bad.jsonl line 2)"]
        assert "left out: 1 (bad.jsonl line 2): question = " in result.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_word(tmp_path, encoding):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.txt").write_text("What is it?\r\nWhose?\n", encoding=encoding)
    assert [item.question for item in load_workload(tmp_path).items] == ["What is it?", "Whose?"]
    line = json.dumps({"image": "a.png", "question": "What is it?"})
    (tmp_path / "lines.jsonl").write_text(f"{line}\n", encoding=encoding)
    (item,) = load_workload(tmp_path / "lines.jsonl").items
    assert item.question == "What is it?"
    Preset(bundled_method(), 0.5).save(tmp_path / "plain.json")
    plain = (tmp_path / "plain.json").read_text()
    (tmp_path / "preset.json").write_text(plain, encoding=encoding)
    assert Preset.load(tmp_path / "preset.json").keep == 0.5


def test_text_that_is_none_is_named(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfeW")  # half a letter of UTF-16
    with pytest.raises(ArgumentError, match=r"prompts.txt"):
        load_workload(tmp_path)
    (tmp_path / "lines.jsonl").write_bytes(b"\xff\xfeW")
    with pytest.raises(ArgumentError, match="a file that can be read"):
        load_workload(tmp_path / "lines.jsonl")


def test_a_folder_names_what_it_cannot_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.avif").write_bytes(b"no picture")
    (tmp_path / "c.jp2").write_bytes(b"no picture")
    (tmp_path / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64))
    (tmp_path / "e.svg").write_text("<svg/>")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "notes.txt").write_text("no picture, and nobody takes it for one")
    workload = load_workload(tmp_path, ["What?"])
    assert [item.image for item in workload.items] == [str(tmp_path / "a.png")]
    assert [problem.where for problem in workload.problems] == [
        "b.avif",
        "c.jp2",
        "d.HEIC",
        "e.svg",
    ]
    Image.new("RGB", (8, 8)).save(tmp_path / "f.jp2")
    assert len(load_workload(tmp_path, ["What?"]).items) == 2  # what Pillow reads is read


def test_a_folder_names_the_folders_within(tmp_path):
    """Whether their pictures are frames of a clip is not guessed; what shows nothing is no loss."""
    for name in ("a.png", "album/b.png", "deep/er/c.jpg", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "lftr-eval").mkdir()
    (tmp_path / "lftr-eval/answers.jsonl").touch()
    workload = load_workload(tmp_path, ["What?"])
    assert [item.image for item in workload.items] == [str(tmp_path / "a.png")]
    assert [problem.where for problem in workload.problems] == ["album", "deep"]
    assert all("a workload of its own" in problem.reason for problem in workload.problems)


def test_a_folder_of_folders_says_so(tmp_path):
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "clip/1.png")
    with pytest.raises(ArgumentError, match=r"at least one image and question \(clip: .*folder"):
        load_workload(tmp_path, ["What?"])
