"""Clips on the command line: asked about, drawn, evaluated, tuned."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lftr import suites
from lftr.lab.cli.run_folder import LEFT_OUT
from lftr.lab.evaluation import load_data
from lftr.lab.tuning.workload import load_workload
from lftr.media import Picking

QUICK = ("--max-new-tokens", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def example():
    """A clip of the suite, eight frames."""
    return suites.load("clips", split="test", n=1)[0]


@pytest.fixture
def gif(tmp_path, example):
    path = tmp_path / "clip.gif"
    first, *rest = example.images
    first.save(path, save_all=True, append_images=rest, duration=500)
    return path


@pytest.fixture
def frames(tmp_path, example):
    path = tmp_path / "frames"
    path.mkdir()
    for number, frame in enumerate(example.images):
        frame.save(path / f"{number}.png")
    return path


@pytest.fixture
def movie(tmp_path, example):
    av = pytest.importorskip("av", reason="needs lftr[video]")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height = example.images[0].size
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(example.images):
            picture = av.VideoFrame.from_image(frame)
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def test_run_asks_the_bundled_model_of_clips(reads, frames, movie, gif, example):
    for path in (frames, movie, gif):
        told = reads("run", path, example.question, "--keep", "1/16", *QUICK)
        assert told["model"] == "bundled-clips"
        (item,) = told["report"]["items"]
        assert item["grids"] == [[8, 10, 10]]
        assert (item["tokens"], item["kept"]) == (800, 50)


def test_how_many_frames_are_read(reads, movie):
    (item,) = reads("run", movie, "What?", "--frames", 3, *QUICK)["report"]["items"]
    assert item["grids"] == [[3, 10, 10]]
    (item,) = reads("run", movie, "What?", "--fps", 1, *QUICK)["report"]["items"]
    assert item["grids"] == [[5, 10, 10]]  # at 0, 1, 2 and 3 seconds, and the last at 3.5


@pytest.mark.slow
def test_show_draws_every_frame(reads, gif, tmp_path):
    sheet, moving = tmp_path / "sheet.png", tmp_path / "moving.gif"
    told = reads("show", gif, "--keep", "1/4", "--out", sheet)
    assert sum(item["kept"] for item in told["report"]["items"]) == 200
    picture = Image.open(sheet)
    assert picture.width > 3 * 240
    assert picture.height > 1.5 * 240
    reads("show", gif, "--keep", "1/4", "--method", "pool", "--out", moving)
    with Image.open(moving) as drawn:
        assert drawn.n_frames == 8
        assert drawn.info["duration"] == 500
        assert drawn.width >= 240


def test_bad_input_says_what_is_allowed(fails, gif, frames, picture, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "nothing").mkdir()
    ask = ("What?", *QUICK)
    assert "a path that exists" in fails("run", tmp_path / "absent.mp4", *ask)
    assert "a file that is not empty" in fails("run", tmp_path / "empty.mp4", *ask)
    assert "a folder with pictures" in fails("run", tmp_path / "nothing", *ask)
    assert "video = " in fails("run", tmp_path / "text.mp4", *ask)
    assert "no times" in fails("run", frames, *ask, "--fps", 2)
    assert "fps = 0.0; allowed: a number above 0" in fails("run", gif, *ask, "--fps", 0)
    assert "--frames = 3; allowed: none with a still" in fails("run", picture, *ask, "--frames", 3)
    assert "one clip or one picture" in fails("run", gif, gif, *ask)
    assert "one clip or one picture" in fails("run", gif, picture, *ask)


@pytest.fixture
def lines(tmp_path, gif, frames):
    path = tmp_path / "clips.jsonl"
    rows = [
        {"video": "clip.gif", "question": "Which way did the heart move?", "answers": ["down"]},
        {"video": "frames", "question": "What came first?", "answers": ["heart"]},
        {"video": "absent.mp4", "question": "?", "answers": ["a"]},
        {"video": "clips.jsonl", "question": "?", "answers": ["a"]},
        {"question": "?", "answers": ["a"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_lines_may_name_videos(lines):
    data = load_data(str(lines), picking=Picking(frames=3))
    assert [item.moves for item in data.items] == [True, True]
    assert [len(item.images[0].frames) for item in data.items] == [3, 3]
    assert [problem.where for problem in data.problems] == [
        f"clips.jsonl line {number}" for number in (3, 4, 5)
    ]
    said = " ".join(map(str, data.problems))
    assert "absent.mp4'; allowed: a path that exists" in said
    assert "an animated GIF" in said
    assert "no 'image', 'images', 'video' or 'videos'" in said
    other = load_data(str(lines), picking=Picking(frames=4))
    assert other.describe()["digest"] != data.describe()["digest"]  # other frames, other answers


def test_a_folder_of_clips_is_a_workload(tmp_path, gif, example):
    Image.new("RGB", (32, 32)).save(tmp_path / "still.gif")
    workload = load_workload(tmp_path, ["What?"], picking=Picking(frames=2))
    moving, still = (item for item in workload.items)
    assert (moving.id, moving.moves) == ("clip.gif:1", True)
    assert len(moving.images[0].frames) == 2
    assert (still.id, still.moves) == ("still.gif:1", False)


@pytest.mark.slow
def test_eval_takes_clips(lftr, lines, fails, picture, tmp_path):
    words = ["eval", "--data", lines, "--keep", "1/16", "--frames", 4, *QUICK]
    result = lftr(*words, "--out", tmp_path / "run", "--json")
    assert result.exit_code == LEFT_OUT
    told = json.loads(result.stdout)
    assert {row["tokens"] for row in told["settings"]} == {400, 25}
    assert sum(path.suffix == ".png" for path in (tmp_path / "run" / "images").iterdir()) == 2
    with lines.open("a") as file:
        file.write(json.dumps({"image": str(picture), "question": "?", "answers": ["a"]}) + "\n")
    assert "pictures and clips together" in fails(*words)


@pytest.mark.slow
def test_the_suite_of_clips_is_evaluated_and_timed(reads, tmp_path):
    told = reads(
        "eval", "--suite", "clips", "--n", 2, "--keep", "1/16", "--out", tmp_path / "run", *QUICK
    )
    assert {row["tokens"] for row in told["settings"]} == {800, 50}
    assert told["config"]["model"] == "bundled-clips"
    told = reads("bench", "--suite", "clips", "--keep", "1/16", "--rounds", 1, "--decode", 1)
    assert [(row["tokens"], row["kept"]) for row in told["rows"]] == [(800, 50)]


@pytest.mark.slow
def test_the_demo_shows_clips(reads, tmp_path):
    told = reads("demo", "--suite", "clips", "--questions", 1, "--out", tmp_path)
    assert {row["tokens"] for row in told["rows"]} == {800, 200, 100, 50}
    assert Image.open(told["picture"]).width > 4 * 288
