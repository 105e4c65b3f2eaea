"""The clips suite: the same for everyone, apart between splits, fair, and true frame by frame."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lftr import suites
from lftr.errors import ArgumentError
from lftr.suites import digits
from lftr.suites.clips import draw_clip
from lftr.suites.layout import COLOURS
from lftr.suites.render import mask, render_clip
from lftr.suites.tracks import CLIP_SIDE, FRAMES, ROLES, Track, sample_tracks

N = 56
CATEGORIES = suites.CLIP_CATEGORIES


@pytest.fixture(scope="module")
def clips():
    return list(suites.load("clips", split="test", n=N))


@cache
def asked(split, seed, i):
    rng = np.random.default_rng([suites.SPLITS.index(split), seed, i, 2])
    return draw_clip(rng, split, CATEGORIES[i % len(CATEGORIES)])


def drawn(split="test", n=1400, seed=0):
    """Questions alone, without the time that drawing frames takes."""
    return [asked(split, seed, i) for i in range(n)]


def digest(clips):
    told = hashlib.sha256()
    for clip in clips:
        for image in clip.images:
            told.update(image.tobytes())
        told.update(f"{clip.question}{clip.answer}{clip.frames}".encode())
    return told.hexdigest()


# The same for everyone


def test_same_call_same_clips(clips):
    again = suites.load("clips", split="test", n=N + 5)
    assert digest(again[:N]) == digest(clips)
    assert again[-6] == clips[-1]
    assert len(again) == N + 5


def test_drawing_pictures_does_not_change_the_questions(clips):
    for clip, (tracks, question) in zip(clips, drawn(n=N), strict=True):
        assert (clip.objects, clip.question) == (tracks, question.text)


def test_does_not_depend_on_the_process(clips):
    code = (
        "import sys; sys.path.insert(0, 'tests/suites')\n"
        "from test_clips import digest; from lftr import suites\n"
        "print(digest(suites.load('clips', n=14)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.strip() == digest(clips[:14])


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        suites.load("clips", n=3)[3]


@pytest.mark.parametrize("bad", [{"split": "tset"}, {"n": -1}, {"seed": -1}], ids=str)
def test_bad_arguments_name_what_is_allowed(bad):
    (value,) = bad.values()
    with pytest.raises(ArgumentError, match=str(value)):
        suites.load("clips", **bad)


# Splits


def test_digits_come_from_the_split_s_own_pool():
    for split in suites.SPLITS:
        pool = {sample for value in range(10) for sample in digits.samples(split, value)}
        used = {t.looks[0].sample for tracks, _ in drawn(split, 140) for t in tracks} - {None}
        assert used
        assert used <= pool


def test_no_clip_is_in_two_splits_or_seeds():
    found = [
        tracks
        for split in suites.SPLITS
        for seed in (0, 1)
        for tracks, _ in drawn(split, 140, seed)
    ]
    assert len(set(found)) == len(found)


# Fair


def test_categories_take_turns(clips):
    assert [clip.category for clip in clips] == list(CATEGORIES) * (N // len(CATEGORIES))


def test_answers_are_balanced():
    answers = defaultdict(Counter)
    for _, question in drawn():
        answers[question.category][question.answer] += 1
    assert set(answers) == set(CATEGORIES)
    assert set(answers["digit"]) == {str(value) for value in range(10)}
    assert set(answers["change"]) == set(COLOURS)
    for category, found in answers.items():
        if category != "order":  # two-way: see below
            even = found.total() / len(found)
            assert max(abs(n - even) for n in found.values()) < 3.5 * even**0.5, (category, found)
    assert 0.44 < answers["vanishing"]["yes"] / answers["vanishing"].total() < 0.56


def test_neither_place_in_an_order_question_is_the_usual_answer():
    firsts = [q.answer == q.choices[0] for _, q in drawn() if q.category == "order"]
    assert 0.42 < sum(firsts) / len(firsts) < 0.58


def test_a_reader_without_eyes_does_badly():
    """The most frequent training answer to each very question, asked again on the test split."""
    seen: dict[str, Counter] = defaultdict(Counter)
    usual: dict[str, Counter] = defaultdict(Counter)
    for _, question in drawn("train"):
        seen[question.text][question.answer] += 1
        usual[question.category][question.answer] += 1
    right = defaultdict(list)
    for _, question in drawn():
        known = seen[question.text] or usual[question.category]
        right[question.category].append(known.most_common(1)[0][0] == question.answer)
    shares = {category: sum(hits) / len(hits) for category, hits in right.items()}
    assert max(shares.values()) < 0.65
    assert sum(shares.values()) / len(shares) < 0.36


# True


def only(text, tracks):
    """The one object that ``the red circle`` or ``the circle`` can mean."""
    words = text.removeprefix("the ").split()
    fits = [
        track for track in tracks if track.kind == words[-1] and set(words[:-1]) <= {*track.colours}
    ]
    assert len(fits) == 1
    return fits[0]


def solve(question, tracks):
    """Answer from the frames of the objects, knowing nothing of how the question was made."""
    text = question.rstrip("?")
    last = FRAMES - 1
    if found := re.fullmatch(r"Which way did (the .+) move", text):
        begin, *_, end = only(found[1], tracks).looks
        dx, dy = end.x - begin.x, end.y - begin.y
        assert max(abs(dx), abs(dy)) >= 3 * min(abs(dx), abs(dy)) - 1
        assert max(abs(dx), abs(dy)) >= 15
        return ("left", "right")[dx > 0] if abs(dx) > abs(dy) else ("up", "down")[dy > 0]
    if found := re.fullmatch(r"How many times did (the .+) flash", text):
        states = only(found[1], tracks).states
        assert states[0] is None
        assert states[last] is None
        seen = [state is not None for state in states]
        assert not any(a and b for a, b in itertools.pairwise(seen))
        return str(sum(seen))
    if found := re.fullmatch(r"What came first, (the .+) or (the .+)", text):
        one, other = (only(found[i], tracks) for i in (1, 2))
        starts = [next(i for i, s in enumerate(t.states) if s) for t in (one, other)]
        assert starts[0] != starts[1]
        assert min(starts) > 0
        return (one if starts[0] < starts[1] else other).kind
    if text == "Which digit flashed":
        (brief,) = (t for t in tracks if t.kind == "digit" and sum(map(bool, t.states)) == 1)
        return str(next(state.value for state in brief.states if state))
    if found := re.fullmatch(r"What colour did (the .+) become", text):
        states = only(found[1], tracks).states
        assert states[0].colour != states[last].colour
        return states[last].colour
    if text == "What appeared at the end":
        (late,) = (t for t in tracks if not any(t.states[: last - 1]))
        assert late.states[last] is not None
        return late.kind
    found = re.fullmatch(r"Did (the .+) vanish", text)
    return "yes" if only(found[1], tracks).states[last] is None else "no"


def test_every_question_has_exactly_the_given_answer():
    for tracks, question in drawn():
        assert solve(question.text, tracks) == question.answer, (question, tracks)
        assert question.answer in question.choices
        assert all(0 <= i < len(tracks) for i in question.referents)


def test_frames_show_what_the_answer_depends_on():
    for tracks, question in drawn(n=700):
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


def test_objects_keep_apart_and_inside_in_every_frame():
    for tracks, _ in drawn(n=300):
        assert 1 <= len(tracks) <= 5
        for frame in range(FRAMES):
            shown = [track.states[frame] for track in tracks if track.states[frame]]
            for i, one in enumerate(shown):
                assert min(one.box) > 0
                assert max(one.box) < CLIP_SIDE
                for other in shown[:i]:
                    apart = max(abs(one.x - other.x), abs(one.y - other.y))
                    assert apart > (one.size + other.size) / 2


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


# What is drawn


def test_frames_are_what_a_model_expects(clips):
    for clip in clips:
        assert len(clip.images) == FRAMES
        assert {image.size for image in clip.images} == {(CLIP_SIDE, CLIP_SIDE)}
        assert {image.mode for image in clip.images} == {"RGB"}


def test_objects_are_painted_where_they_are_and_nowhere_else(clips):
    """In frames with the same background, pixels differ only where an object does."""
    for clip in clips:
        pixels = np.stack([np.asarray(image, np.float32) for image in clip.images])
        for track in clip.objects:
            for frame, state in enumerate(track.states):
                if state is not None:
                    alpha, left, top = mask(state)
                    window = pixels[frame, top : top + state.size, left : left + state.size]
                    inside = window[alpha > 0.95].mean(0)
                    assert np.abs(inside - COLOURS[state.colour]).max() < 45


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


def test_answers_compare_by_what_they_say(clips):
    assert clips[0].is_correct(f" {clips[0].answer.upper()}. ")
    assert not clips[0].is_correct("a guess")
