"""What the suite of clips has to itself: what happens, and that it is true frame by frame."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from lftr import suites
from lftr.lab.suites.layout import COLOURS
from lftr.lab.suites.render import mask, render_clip
from lftr.lab.suites.tracks import CLIP_SIDE, FRAMES, ROLES, Track, sample_tracks

from .support import CLIPS


@pytest.fixture(scope="module")
def clips():
    return list(CLIPS.load(CLIPS.n))


@pytest.mark.slow
def test_answers_are_balanced():
    answers = defaultdict(Counter)
    for _, question in CLIPS.drawn():
        answers[question.category][question.answer] += 1
    assert set(answers) == set(suites.CLIP_CATEGORIES)
    assert set(answers["digit"]) == {str(value) for value in range(10)}
    assert set(answers["change"]) == set(COLOURS)
    for category, found in answers.items():
        if category != "order":  # two-way: see below
            even = found.total() / len(found)
            assert max(abs(n - even) for n in found.values()) < 3.5 * even**0.5, (category, found)
    assert 0.44 < answers["vanishing"]["yes"] / answers["vanishing"].total() < 0.56


def test_neither_place_in_an_order_question_is_the_usual_answer():
    firsts = [q.answer == q.choices[0] for _, q in CLIPS.drawn() if q.category == "order"]
    assert 0.42 < sum(firsts) / len(firsts) < 0.58


def test_frames_show_what_the_answer_depends_on():
    for tracks, question in CLIPS.drawn(n=700):
        frames, track = question.frames, tracks[question.referents[0]]
        assert frames
        assert list(frames) == sorted({*frames})
        assert set(frames) <= set(range(FRAMES))
        if question.category in ("flashes", "digit", "late"):
            assert frames == track.shown
        if question.category == "late":
            assert frames[0] >= FRAMES - 2
        if question.category == "digit":
            assert len(frames) == 1
        if question.category == "change":
            assert {track.states[f].colour for f in frames} == {question.answer}
        if question.category == "vanishing":
            assert all((track.states[f] is None) == (question.answer == "yes") for f in frames)
        if question.category == "motion":
            places = [(track.states[f].x, track.states[f].y) for f in frames]
            assert len(set(places)) == len(places) >= 3
        if question.category == "order":
            assert set(frames) == {tracks[i].shown[0] for i in question.referents}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("frames", [4, 5, 8, 13])
def test_every_role_fits_a_clip_of_any_length(role, frames):
    rng = np.random.default_rng(0)
    for _ in range(20):
        for track in sample_tracks(rng, "test", [role], frames):
            assert len(track.states) == frames
            assert track.shown


def test_what_a_track_tells():
    look = suites.SceneObject("star", "red", 20, 30, 10)
    blue = replace(look, colour="blue", x=40)
    track = Track((None, look, None, blue, None))
    assert track.shown == (1, 3)
    assert track.runs == ((1,), (3,))
    assert track.flashes == (1, 3)
    assert track.colours == ("red", "blue")
    assert track.box == (15, 25, 45, 35)
    assert Track((None, look, look, None)).flashes == ()
    assert Track((None, look)).flashes == ()


def test_a_flash_is_in_one_frame_only(clips):
    """Its place looks the same in the frames around it, up to sensor noise."""
    some = [clip for clip in clips if clip.category == "digit"]
    assert some
    for clip in some:
        (frame,) = clip.frames
        state = clip.objects[clip.referents[0]].states[frame]
        alpha, left, top = mask(state)
        ink = np.stack([np.asarray(image, np.float32) for image in clip.images])[
            :, top : top + state.size, left : left + state.size
        ][:, alpha > 0.95]
        away = np.abs(ink - np.asarray(COLOURS[state.colour])).max(-1).mean(-1)
        assert away[frame] == away.min()
        assert np.sort(away)[1] > away[frame] + 5


def test_a_late_event_is_in_the_last_frames(clips):
    for clip in clips:
        if clip.category == "late":
            state = clip.objects[clip.referents[0]].states[-1]
            left, top, right, bottom = (round(edge) for edge in state.box)
            frames = np.stack([np.asarray(image, np.float32) for image in clip.images])
            place = frames[:, top:bottom, left:right].mean((1, 2))
            steps = np.abs(np.diff(place, axis=0)).max(-1)
            assert steps[min(clip.frames) - 1] > 3


def test_some_clips_cut_to_another_background():
    cuts = 0
    for seed in range(60):
        frames = render_clip((), FRAMES, CLIP_SIDE, np.random.default_rng(seed)).astype(float)
        steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
        assert (steps > 6).sum() <= 1
        cuts += int((steps > 6).any())
    assert 2 <= cuts <= 20
