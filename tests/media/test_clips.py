"""Reading clips: the frames that were asked for, the last one always, and nothing else."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lftr.media import is_clip, load_clip, video
from lftr.media.picking import Picking, spread
from lftr.values.errors import ArgumentError, MissingExtraError

from .conftest import numbers_of
from .test_videos import ANGLES

CODECS = {
    "clip.mp4": "mpeg4",
    "clip.mkv": "libx264",
    "clip.webm": "libvpx-vp9",
    "clip.avi": "mpeg4",
    "clip.mpg": "mpeg2video",  # no exact index from here on
    "clip.ts": "libx264",
    "h264.avi": "libx264",
}


@pytest.mark.parametrize("name", CODECS)
def test_frames_are_those_of_their_numbers(movie, name):
    path = movie(name, CODECS[name])
    for count, wanted in ((1, [29]), (3, [0, 15, 29]), (7, [0, 5, 10, 15, 19, 24, 29])):
        clip = load_clip(path, frames=count)
        assert numbers_of(clip.frames) == wanted
        assert clip.times == pytest.approx([number / 10 for number in wanted])
    every = load_clip(path, frames=99)
    assert numbers_of(every.frames) == list(range(30))
    assert {one.size for one in every.frames} == {every.size} == {(64, 48)}
    assert every.fps == pytest.approx(10)


def test_frames_of_each_second_and_the_last_one(movie):
    path = movie()
    assert numbers_of(load_clip(path, fps=2).frames) == [0, 5, 10, 15, 20, 25, 29]
    assert numbers_of(load_clip(path, fps=1000).frames) == list(range(30))
    assert numbers_of(load_clip(path, fps=2, frames=3).frames) == [0, 15, 29]
    assert numbers_of(load_clip(path, fps=0.01).frames) == [0, 29]
    assert len(load_clip(path).frames) == 8


def test_a_clip_whose_frames_come_at_odd_times(movie):
    """What is shown at a moment is the last frame that began before it."""
    path = movie("odd.mkv", "libx264", stamps=[0, 1, 2, 30, 31, 40])
    clip = load_clip(path, fps=1)
    assert numbers_of(clip.frames) == [0, 2, 3, 5]
    assert clip.times == pytest.approx([0, 0.2, 3.0, 4.0])


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(movie, count):
    clip = load_clip(movie(count=count), frames=8)
    assert numbers_of(clip.frames) == list(range(count))
    assert clip.times[0] == 0
    assert clip.fps == pytest.approx(10 if count == 2 else 1)


@pytest.mark.skipif(len(ANGLES) == 1, reason="this release of av writes no rotations")
def test_a_picture_that_the_camera_turned(movie):
    (turned,) = load_clip(movie(set_display_rotation=90), frames=1).frames
    (plain,) = load_clip(movie("plain.mp4"), frames=1).frames
    assert turned.size == (48, 64)
    assert numbers_of([turned.rotate(-90, expand=True)]) == numbers_of([plain]) == [29]


def test_only_what_is_between_a_key_frame_and_a_wanted_one_is_decoded(movie, monkeypatch):
    path = movie(count=210)  # a key frame every seven
    decoded = 0

    class Counting:
        def __init__(self, container):
            self.container = container

        def decode(self, stream):
            nonlocal decoded
            for one in self.container.decode(stream):
                decoded += 1
                yield one

        def __getattr__(self, name):
            return getattr(self.container, name)

    seek_frames = video._seek_frames
    monkeypatch.setattr(video, "_seek_frames", lambda c, *rest: seek_frames(Counting(c), *rest))
    assert numbers_of(load_clip(path, frames=3).frames) == [0, 105, 209]
    assert decoded <= 3 * 10


def test_memory_is_that_of_the_frames_that_are_kept(movie):
    path = movie(count=250)
    tracemalloc.start()
    clip = load_clip(path, frames=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers_of(clip.frames) == [0, 249]
    assert peak < 40 * 64 * 48 * 3


def test_an_animated_gif(gif):
    clip = load_clip(gif(6), frames=3)
    assert numbers_of(clip.frames) == [0, 3, 5]
    assert clip.times == pytest.approx([0, 0.6, 1.0])
    assert numbers_of(load_clip(gif(11), fps=2.5).frames) == [0, 2, 4, 6, 8, 10]
    assert all(one.mode == "RGB" for one in clip.frames)


def test_a_folder_is_read_in_the_order_of_its_numbers(folder):
    path = folder(12)
    clip = load_clip(path, frames=99)
    assert numbers_of(clip.frames) == list(range(12))
    assert clip.times == tuple(map(float, range(12)))
    assert numbers_of(load_clip(path).frames) == [0, 2, 3, 5, 6, 8, 9, 11]
    with pytest.raises(ArgumentError, match=r"fps = 2.*no times"):
        load_clip(path, fps=2)


def test_progress_ends_where_all_is_read(movie, gif, folder):
    for path in (movie(), gif(), folder()):
        seen: list[tuple[int, int]] = []
        load_clip(path, frames=4, step=lambda *told, seen=seen: seen.append(told))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_a_clip(movie, gif, folder, tmp_path):
    assert is_clip(movie())
    assert is_clip(gif())
    assert is_clip(folder())
    Image.new("RGB", (8, 8)).save(tmp_path / "still.gif")
    assert not is_clip(tmp_path / "still.gif")
    assert not is_clip(tmp_path / "absent.png")
    assert is_clip(tmp_path / "absent.mp4")  # by its name


def test_what_cannot_be_read_says_what_can(movie, gif, folder, tmp_path):
    whole = movie().read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "half.gif").write_bytes(gif().read_bytes()[:400])
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    mixed = folder(3, "mixed")
    Image.new("RGB", (8, 8)).save(mixed / "shot1.png")
    broken = folder(3, "broken")
    (broken / "shot2.png").write_bytes(b"\x89PNG")
    for name, said in {
        "absent.mp4": "a path that exists: a video file",
        "empty.mp4": "a file that is not empty",
        "text.mp4": "a video file that FFmpeg can read",
        "half.mp4": "a video file that FFmpeg can read",
        "nothing": "a folder with pictures",
        "half.gif": "whole",
        "still.png": "more than one frame",
        "mixed": "frames of one size, not 64x48 and 8x8",
        "broken": "an image that is whole",
    }.items():
        with pytest.raises(ArgumentError, match=said) as error:
            load_clip(tmp_path / name)
        assert name in str(error.value)


def test_a_file_that_breaks_off_behind_its_index(movie):
    """The index, at the front, promises frames that are not there."""
    path = movie("long.mkv", "libx264", count=120)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    clip = load_clip(path, frames=2)  # a Matroska file says nowhere how long it is
    assert numbers_of(clip.frames)[-1] < 119
    av = pytest.importorskip("av")
    front = path.with_name("front.mp4")
    with (
        av.open(str(movie("plain.mp4", count=120))) as source,
        av.open(str(front), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = front.read_bytes()
    front.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ArgumentError, match=r"a video that is whole|FFmpeg can read"):
        load_clip(front, frames=2)


def test_a_file_without_video(tmp_path):
    av = pytest.importorskip("av", reason="needs lftr[video]")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = np.zeros((1, 1024), np.int16)
        sound = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ArgumentError, match="a file with a video stream; it has audio"):
        load_clip(path)


def test_without_pyav(movie, gif, monkeypatch):
    path = movie()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"'video'"):
        load_clip(path)
    assert len(load_clip(gif()).frames) == 6  # needs none


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"frames": 1.5}, {"frames": True}, {"fps": 0}, {"fps": float("inf")}]
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} = "):
        Picking(**wrong)


@given(count=st.integers(1, 500), most=st.integers(1, 40))
def test_places_are_even_and_end_with_the_last(count, most):
    places = spread(count, most)
    assert len(places) == min(count, most)
    assert places[-1] == count - 1
    assert len(places) == 1 or places[0] == 0
    gaps = {b - a for a, b in itertools.pairwise(places)}
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(
    times=st.lists(st.floats(0, 60), min_size=1, max_size=80).map(lambda some: sorted(set(some))),
    fps=st.floats(0.05, 30),
    frames=st.none() | st.integers(1, 20),
)
def test_picks_rise_and_end_with_the_last(times, fps, frames):
    picked = Picking(frames, fps).of(times)
    assert picked == sorted(set(picked))
    assert picked[-1] == len(times) - 1
    assert frames is None or len(picked) <= frames
