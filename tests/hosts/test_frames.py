"""Images of a row that follow each other as the frames of one video."""

from __future__ import annotations

from typing import Any

import pytest

import lftr
from lftr.values.errors import ArgumentError

from .support import (
    IMAGES,
    MIXED,
    Image,
    Prompt,
    Row,
    ZooEntry,
    assert_true,
    conversation,
    distance,
    reduced,
    seen,
)
from .test_turns import Chat

CLIP: Row = [3, Image("small"), 2, Image("small", 1), 1, Image("small", 2), 5]
ROWS: list[Row] = [CLIP, [6], [2, Image("small", 3), 3]]


# Molmo 2's patches of an image come in crops that the test does not know how to cut
@pytest.fixture(params=[e for e in IMAGES if e.name != "molmo2"], ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family that is shown images."""
    value: ZooEntry = request.param
    return value


@pytest.fixture
def frames(entry: ZooEntry) -> Prompt:
    if entry.traits.one_image or entry.counts(entry.model(), Image("small"), False) > 40:
        pytest.skip("one image a row")
    if entry.name == "granite4_vision":
        pytest.skip("shows a base view and tiles of every image, which is no frame")
    return Prompt(entry, ROWS)


def test_one_item_that_is_true(frames: Prompt) -> None:
    """The frames are one item for the method, and what is kept of it is the truth."""
    with reduced(frames.model, keep=0.3, frames=lftr.Frames()) as run:
        assert_true(frames, run, frames.generate())
    clip, single = run.method.tokens
    sizes = frames.entry.row_counts(frames.model, CLIP)
    assert clip.count == sum(sizes)
    if single.grid is not None and len(set(sizes)) == 1 and single.grid[0] == 1:
        assert clip.grid == (3, *single.grid[1:])
    assert [item.number for item in run.report.items] == [0, 0]
    assert sum(map(len, run.report.items[0].kept_by_frame)) <= run.report.items[0].kept


described_alone = pytest.mark.parametrize(
    "entry", [entry for entry in IMAGES if entry.traits.reads != "features"], ids=str
)


def described(frames: Prompt, row: Row) -> lftr.VisualTokens:
    """A row's images, with the descriptors of its frames."""
    prompt = Prompt(frames.entry, [row])
    found: lftr.VisualTokens = seen(prompt, "frame_features", frames=lftr.Frames())[0]
    return found


@described_alone
def test_frame_features(frames: Prompt) -> None:
    """Frames have descriptors, and a method sees no more than it asked for."""
    clip = described(frames, CLIP)
    assert clip.frame_features is not None
    assert clip.encoder_features is None


@described_alone
def test_frame_features_are_those_of_the_frame_alone(frames: Prompt) -> None:
    clip = described(frames, CLIP)
    if clip.grid is None or clip.grid[0] != 3 or frames.entry.name == "llava_onevision":
        pytest.skip(f"{frames.entry} describes tiles, several a frame, not frames")
    last = described(frames, [3, Image("small", 2), 5])
    assert distance(clip.frame_features[2:], last.frame_features) < 1e-5


@pytest.mark.parametrize("pixels", ["new", "all"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_second_turn(name: str, pixels: str) -> None:
    """What a cache holds goes on in no new clip, and a clip's frames are placed one by one."""
    from zoo import FAMILIES

    entry = FAMILIES[name]
    with reduced(entry.model(), frames=lftr.Frames()) as run:
        chat = Chat(entry, run, old=Image("small"))
        for seeds in ((1, 2), (3, 4)):
            new = [Image("small", seed) for seed in seeds]
            chat.say(20, new[0], 21, new[1], 22)
            images = chat.images if pixels == "all" else new
            inputs = conversation(entry, chat.model, chat.ids, images)
            chat.answer(inputs, chat.cache)
            assert [item.grid[0] for item in run.report.items if item.grid is not None] == [2]


@pytest.mark.parametrize("clips_of_images", [True, [2]], ids=str)
def test_a_video_is_no_frame(clips_of_images: Any) -> None:
    """Videos of the same grid stay apart, from each other and from images among them."""
    clips, stills = [Image("small", 1), Image("small", 3)], [Image("small", 2), Image("small", 4)]
    prompt = Prompt(MIXED["qwen2_vl"], [[*clips, 2, *stills, 1, clips[0], 3]])
    with reduced(prompt.model, images_as_video=clips_of_images) as run:
        assert_true(prompt, run, prompt.generate())
    items = run.report.items
    assert [item.grid for item in items] == [(1, 2, 3), (1, 2, 3), (2, 2, 3), (1, 2, 3)]
    assert [item.medium for item in items] == ["video"] * 4


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "llava_next"])
def test_a_row_is_a_clip_or_is_none(name: str) -> None:
    """A clip of one frame is a video, and pictures beside it in the batch are none."""
    from zoo import FAMILIES

    one: Row = [2, Image("small", 3), 3]
    prompt = Prompt(FAMILIES[name], [CLIP, one, one, CLIP])
    flags = [True, True, False, False]
    with reduced(prompt.model, keep=0.5, frames=lftr.Frames(rows=flags)) as run:
        assert_true(prompt, run, prompt.generate())
    named = [(item.row, item.medium) for item in run.report.items]
    assert {pair for pair in named if pair[0] in (0, 1)} == {(0, "video"), (1, "video")}
    assert named[-4:] == [(2, "image"), *[(3, "image")] * 3]
    if name != "llava_next":  # whose frames have tiles, which no grid joins
        assert len(named) == 6
        assert run.report.items[0].grid is not None
        assert run.report.items[0].grid[0] == 3


def test_flags_are_one_for_each_row(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [CLIP, [2, Image("small"), 3], CLIP])
    with (
        reduced(prompt.model, keep=0.5, frames=lftr.Frames(rows=[True, False])),
        pytest.raises(ArgumentError, match="one for each row; there is a row 2"),
    ):
        prompt.generate(1)


def test_other_grids_are_other_items() -> None:
    from zoo import FAMILIES

    rows: list[Row] = [[Image("small"), Image("small", 1), 2, Image("wide"), 1, Image("small", 2)]]
    prompt = Prompt(FAMILIES["qwen2_vl"], rows)
    with reduced(prompt.model, keep=0.5, frames=lftr.Frames()) as run:
        assert_true(prompt, run, prompt.generate())
    grids = [item.grids for item in run.report.items]
    assert grids == [((2, 2, 3),), ((1, 4, 8),), ((1, 2, 3),)]
    assert [item.number for item in run.report.items] == [0, 1, 2]
    assert [item.medium for item in run.report.items] == ["video", "image", "image"]
    assert run.report.notes == []


TWO: Row = [3, Image("small"), 2, Image("small", 1), 4, Image("small", 2), 1, Image("small", 3), 5]


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "llava"])
@pytest.mark.parametrize("clips", [[2, 2], [1, 3], [[2, 1, 1], [1]]])
def test_as_many_frames_as_it_is_told(name: str, clips: Any) -> None:
    """Several clips of one prompt, and pictures beside them, each with a budget of its own."""
    from zoo import FAMILIES

    rows: list[Row] = [TWO, [2, Image("small"), 3]] if clips == [[2, 1, 1], [1]] else [TWO]
    prompt = Prompt(FAMILIES[name], rows)
    with reduced(prompt.model, keep=3, images_as_video=clips) as run:
        assert_true(prompt, run, prompt.generate())
    flat = clips if isinstance(clips[0], int) else [*clips[0], *clips[1]]
    frames = [item.grid[0] for item in run.report.items if item.grid is not None]
    assert frames == flat
    assert [item.kept for item in run.report.items] == [3] * len(flat)


@pytest.mark.parametrize("clips", [[2, 3], [5], [[2, 2], [1]], [[2, 1]]])
def test_frames_that_do_not_add_up(llava: ZooEntry, clips: Any) -> None:
    prompt = Prompt(llava, [TWO, [2, Image("small"), 3, Image("small", 1)]])
    with (
        reduced(prompt.model, keep=3, images_as_video=clips),
        pytest.raises(ArgumentError, match=r"frames = .*add up to the \d images of row"),
    ):
        prompt.generate(1)


@pytest.mark.parametrize(
    ("name", "second"), [("qwen2_vl", Image("wide")), ("llava_next", Image("small", 1))]
)
def test_frames_of_two_grids_are_no_clip(name: str, second: Image) -> None:
    from zoo import FAMILIES

    prompt = Prompt(FAMILIES[name], [[Image("small"), 2, second, 1]])
    with (
        reduced(prompt.model, keep=3, frames=lftr.Frames([2])),
        pytest.raises(ArgumentError, match="one grid each, the same"),
    ):
        prompt.generate(1)


@pytest.mark.parametrize(
    ("name", "clips", "noted"),
    [("llava", True, False), ("llava", [1, 1], False), ("llava_next", True, True)],
)
def test_a_note_where_nothing_was_joined(name: str, clips: Any, noted: bool) -> None:
    from zoo import FAMILIES

    prompt = Prompt(FAMILIES[name], [[3, Image("small"), 2, Image("small", 1), 1]])
    with reduced(prompt.model, keep=3, images_as_video=clips) as run:
        prompt.generate(1)
    assert any("joined no images" in note for note in run.report.notes) == noted


def test_no_note_where_one_image_stands_beside_a_video() -> None:
    prompt = Prompt(MIXED["qwen2_vl"], [[3, Image("small"), 2, Image("small", 1), 1]])
    with reduced(prompt.model, keep=0.5, frames=lftr.Frames()) as run:
        prompt.generate(1)
    assert [item.medium for item in run.report.items] == ["image", "video"]
    assert run.report.notes == []


def test_what_stands_between_frames_is_no_question(llava: ZooEntry) -> None:
    """Numbers and times of frames are the clip's, however many frames there are."""

    def words(row: Row, **options: Any) -> int:
        return len(seen(Prompt(llava, [row]), "text_token_embeds", **options)[0].text_token_embeds)

    assert words(CLIP, frames=lftr.Frames()) == words([3, Image("small"), 5])
    assert words(CLIP) == words([3, Image("small"), 5]) + 3


def test_budget_is_for_the_clip(llava: ZooEntry) -> None:
    prompt = Prompt(llava, ROWS)
    with reduced(prompt.model, keep=7, frames=lftr.Frames()) as run:
        prompt.generate(1)
    assert [item.kept for item in run.report.items] == [7, 7]
    with reduced(prompt.model, keep=200, frames=lftr.Frames()) as run:
        prompt.generate(1)
    noted = [note for note in run.report.notes if note.startswith("tokens=200 is more than")]
    assert ["a video of 108" in noted[0], "an image of 36" in noted[1]] == [True, True]
    assert run.report.items[0].to_dict()["medium"] == "video"
    with reduced(prompt.model, "downsample", 9, frames=lftr.Frames()) as run:
        prompt.generate(1)
    assert [len(frame) for frame in run.report.items[0].kept_by_frame] == [3, 3, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": True}, "frames = True; allowed: a lftr.Frames"),
        ({"frames": lftr.Frames(), "images_as_video": [2]}, "one of frames and images_as_video"),
        ({"images_as_video": 1}, "True, False"),
        ({"images_as_video": [2, 0]}, "at least 1"),
        ({"images_as_video": [[2], 1]}, "for each row"),
        ({"images_as_video": True, "encoder": lftr.EncoderToMe(r=2)}, "merged tokens"),
    ],
)
def test_refused(llava: ZooEntry, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        lftr.reduce(llava.model(), "random", keep=0.5, **options)


@pytest.mark.parametrize(
    ("older", "frames"),
    [
        (False, None),
        (None, None),
        ([False, False], None),
        (True, lftr.Frames()),
        ([True, False], lftr.Frames(rows=(True, False))),
        ([8, 8, 1], lftr.Frames(counts=((8, 8, 1),))),
        ([[8, 1], [4]], lftr.Frames(counts=[[8, 1], [4]])),
        (lftr.Frames([2]), lftr.Frames([2])),
    ],
)
def test_images_as_video_of_earlier_releases(llava: ZooEntry, older: Any, frames: Any) -> None:
    with lftr.reduce(llava.model(), "random", keep=0.5, images_as_video=older) as reduction:
        assert reduction.host.plan.frames == frames


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"counts": 2}, "counts = 2"),
        ({"counts": [2, True]}, "counts = "),
        ({"counts": [[2], "a"]}, "counts = "),
        ({"counts": [2, 0]}, "at least 1"),
        ({"rows": True}, "rows = True"),
        ({"rows": [1]}, r"rows = \[1\]"),
        ({"rows": [True], "counts": [2]}, "beside counts"),
    ],
)
def test_frames_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        lftr.Frames(**options)
