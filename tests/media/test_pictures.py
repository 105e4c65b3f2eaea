"""Every kind of picture that Pillow writes, compared with what a viewer shows of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms

from lftr.media import is_clip, load_clip, look_at_image, read_image
from lftr.media.viewing import as_viewed
from lftr.values.errors import ArgumentError, MissingExtraError

from . import reference
from .reference import LOSSY, MODES, ORIENTED, WIDE, Drawn, middles

DATA = Path(__file__).parent / "data"
Image.init()
WRITABLE = [name for name in MODES if name in {*Image.SAVE, *Image.SAVE_ALL}]
quietly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
LAB_OFF = 2  # levels: LittleCMS rounds on the way


@st.composite
def drawings(draw, format: str) -> Drawn:
    """Draw a picture that a format can hold."""
    mode = draw(st.sampled_from(MODES[format]))
    shape: tuple[int, ...] = (draw(st.integers(1, 3)), draw(st.integers(2, 4)))
    if mode in reference.CHANNELS:
        shape = (*shape, reference.CHANNELS[mode])
    if mode == "F":
        cells = draw(arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    else:
        most = int(WIDE.get(mode, 255))
        cells = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, most)))
        if mode == "I":  # else it could be a picture of 8 bits
            cells[0, 0] = most
        if mode == "LAB":  # colours that sRGB has
            cells[..., 1:] = cells[..., 1:] // 16 + 120
            cells[..., 0] = cells[..., 0].clip(60, 200)
    palette = draw(arrays.arrays(np.uint8, (256, 3))) if mode == "P" else np.zeros((256, 3), "u1")
    key = None
    if format == "PNG" and mode in ("L", "RGB", "P") and draw(st.booleans()):
        first = cells.reshape(-1, *cells.shape[2:])[0]
        key = {"L": int, "RGB": lambda c: tuple(map(int, c)), "P": lambda c: bytes(range(256))}[
            mode
        ](first)
    orientation = draw(st.integers(1, 8)) if format in ORIENTED else 1
    srgb = mode == "RGB" and format in ORIENTED and draw(st.booleans())
    return Drawn(mode, cells, orientation, key, palette, srgb)


def check(shown: Image.Image, drawn: Drawn, off: float) -> None:
    """Compare a picture with what a viewer shows."""
    wanted = drawn.seen()
    rows, columns = wanted.shape[:2]
    assert (shown.mode, shown.size) == ("RGB", (columns * reference.SIDE, rows * reference.SIDE))
    np.testing.assert_allclose(middles(shown, wanted.shape), wanted, atol=off)


def off_of(drawn: Drawn, format: str) -> float:
    return LAB_OFF if drawn.mode == "LAB" else LOSSY.get(format, 1.6)


@pytest.mark.parametrize("format", WRITABLE)
@quietly
@given(data=st.data())
def test_pictures_are_read_as_viewers_show_them(tmp_path_factory, format, data):
    drawn = data.draw(drawings(format))
    path = tmp_path_factory.getbasetemp() / f"drawn.{format.lower()}"
    drawn.save(path, format)
    off = off_of(drawn, format)
    shown = read_image(path)
    check(shown, drawn, off)
    look_at_image(path)
    assert not is_clip(path)
    with Image.open(path) as opened:  # a caller's own, opened and no more
        assert np.array_equal(np.asarray(read_image(opened)), np.asarray(shown))
    with Image.open(path) as opened:  # or copied, which loses the file but not what it said
        # but for a TIFF that lies on its side, which Pillow scrambles, and 16 bits of PGM, which
        # without the format could be 8
        if (format, drawn.mode) != ("PPM", "I;16") and (format != "TIFF" or drawn.orientation < 5):
            check(read_image(opened.copy()), drawn, off)
    assert read_image(shown) is shown


@pytest.mark.parametrize("format", WRITABLE)
@quietly
@given(data=st.data())
def test_a_picture_that_breaks_off_is_refused_or_whole(tmp_path_factory, format, data):
    drawn = data.draw(drawings(format))
    content = io.BytesIO()
    drawn.save(content, format)
    whole = content.getvalue()
    path = tmp_path_factory.getbasetemp() / f"cut.{format.lower()}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    said = ""
    try:
        shown = read_image(path)
    except ArgumentError as error:
        said = str(error)
    if said:
        assert str(path)[:60] in said  # long paths are cut
        assert "\n" not in said
    else:
        check(shown, drawn, off_of(drawn, format))  # nothing of the picture was cut off


def test_jpeg_2000_that_lacks_its_last_bytes(tmp_path):
    """Pillow decodes what there is, a little off."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    path, content = tmp_path / "cut.jp2", io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG2000")
    path.write_bytes(content.getvalue())
    read_image(path)
    for cut in range(1, 40):
        path.write_bytes(content.getvalue()[:-cut])
        with pytest.raises(ArgumentError, match="breaks off"):
            read_image(path)


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "YCbCr", "RGBX", "I;16B", "I;16L"])
def test_modes_that_no_file_has(mode):
    plain = Image.new("RGBA", (8, 8), (200, 100, 50, 255))
    if mode.startswith("I;16"):
        shown = read_image(Image.frombytes(mode, (1, 1), b"\x80\x80"))
        assert shown.getpixel((0, 0)) == (128, 128, 128)
        return
    middle = {"La": "LA", "RGBa": "RGBA", "PA": "P", "HSV": "RGB"}.get(mode, "RGB")
    image = plain.convert(middle).convert(mode)
    wanted = plain.convert("L").convert("RGB") if mode == "La" else plain.convert("RGB")
    off = np.abs(np.asarray(read_image(image), int) - np.asarray(wanted, int)).max()
    assert off <= (8 if mode in ("PA", "HSV") else 2)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-0.1, 0.5, 1.2], [0, 128, 255]),  # resampling overshoots
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([0.0, 1e6, 2e6], [0, 128, 255]),
        ([-1000.0, 0.0, 1000.0], [0, 128, 255]),
        ([float("nan"), 0.5, float("inf")], [0, 128, 255]),
    ],
)
def test_floats_keep_their_range(values, wanted):
    image = Image.fromarray(np.array([values], np.float32))
    shown = [read_image(image).getpixel((x, 0))[0] for x in range(3)]
    assert shown == pytest.approx(wanted, abs=1)


def test_the_samples_of_the_field():
    """Files as they came in: what was black, white, or lying on its side."""
    turned = read_image(DATA / "exif6.jpg")
    assert turned.size == (200, 300)
    deep = np.asarray(read_image(DATA / "gray16.png"))
    assert 120 < deep.mean() < 135
    assert len(np.unique(deep)) == 256
    clear = np.asarray(read_image(DATA / "rgba_black_on_clear.png"))
    assert (clear[0, 0] == 255).all()
    assert clear.min() == 0
    assert read_image(DATA / "mpo_small.jpg").size == (300, 200)
    assert not is_clip(DATA / "mpo_small.jpg")
    with pytest.raises(ArgumentError, match="more than one frame"):
        load_clip(DATA / "mpo_small.jpg")
    with pytest.raises(ArgumentError, match=r"bomb20000.*allowed: .*MAX_IMAGE_PIXELS"):
        read_image(DATA / "bomb20000.png")
    with pytest.raises(ArgumentError, match="MAX_IMAGE_PIXELS"):
        look_at_image(DATA / "bomb20000.png")


def tiff(bits: int, values: np.ndarray, photometric: int, samples: int = 1) -> bytes:
    """Write what Pillow does not: grey TIFF of so many bits, also with white at 0."""
    height, width = values.shape
    data = values.tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 134)]
    tags += [(277, 1), (278, height), (279, len(data)), (339, samples)]
    body = b"".join(
        number.to_bytes(2, "little") + b"\x04\0\x01\0\0\0" + value.to_bytes(4, "little")
        for number, value in tags
    )
    head = b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + body + bytes(4)
    return head.ljust(134, b"\0") + data


@pytest.mark.parametrize(
    ("bits", "kind", "samples"), [(8, "u1", 1), (16, "<u2", 1), (32, "<u4", 1), (32, "<f4", 3)]
)
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_with_white_at_zero_and_of_any_depth(tmp_path, bits, kind, samples, photometric):
    most = 1.0 if samples == 3 else 2**bits - 1
    values = (np.linspace(0, most, 6).reshape(2, 3)).astype(kind)
    path = tmp_path / "grey.tif"
    path.write_bytes(tiff(bits, values, photometric, samples))
    if (bits, samples, photometric) == (32, 1, 0):  # Pillow knows none of these
        with pytest.raises(ArgumentError, match="an image that is whole"):
            read_image(path)
        return
    shown = np.asarray(read_image(path))[..., 0].astype(int)
    wanted = np.linspace(0, 255, 6).reshape(2, 3)
    wanted = 255 - wanted if photometric == 0 else wanted
    assert np.abs(shown - wanted).max() <= 1


def test_profiles_are_followed_where_they_fit(tmp_path):
    """Colours of a profile that is not sRGB's are moved; one of other colours is passed over."""
    image = Image.new("RGB", (16, 16), (200, 60, 60))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    swapped = _swapped_profile()
    for profile, wanted in ((swapped, (60, 200, 60)), (lab, (200, 60, 60)), (b"x", (200, 60, 60))):
        path = tmp_path / "profile.png"
        image.save(path, icc_profile=profile)
        shown = read_image(path)
        assert np.abs(np.subtract(shown.getpixel((3, 3)), wanted)).max() <= 3
        assert "icc_profile" not in shown.info
        assert read_image(shown) is shown  # not followed twice
    grey = Image.new("L", (16, 16), 90)
    grey.save(tmp_path / "grey.png", icc_profile=swapped)
    assert read_image(tmp_path / "grey.png").getpixel((0, 0)) == pytest.approx((90,) * 3, abs=3)


def _swapped_profile() -> bytes:
    """Return sRGB's profile with red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    places = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_a_damaged_exif_is_passed_over():
    image = Image.new("RGB", (8, 4), (1, 2, 3))
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
    assert as_viewed(image).size == (8, 4)


def test_pages_and_second_pictures_are_no_frames(tmp_path):
    pages = [Image.new("RGB", (32, 24), (80 * number, 9, 9)) for number in range(3)]
    for name in ("pages.tif", "phone.mpo"):
        path = tmp_path / name
        pages[0].save(path, save_all=True, append_images=pages[1:])
        assert Image.open(path).n_frames == 3
        assert not is_clip(path)
        assert np.abs(np.subtract(read_image(path).getpixel((4, 4)), (0, 9, 9))).max() < 6
        with pytest.raises(ArgumentError, match="more than one frame"):
            load_clip(path)


MOVING = {
    "GIF": {"disposal": 2},
    "WEBP": {"lossless": True},
    "PNG": {"disposal": 1},
    "AVIF": {"quality": 95},
}


@pytest.mark.parametrize("format", [one for one in MOVING if one in Image.SAVE_ALL])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_animations_are_shown_frame_by_frame(tmp_path_factory, format, data):
    alpha = format in ("WEBP", "PNG") and data.draw(st.booleans())
    shape = (2, 3, 4 if alpha else 3)
    count = data.draw(st.integers(2, 4))
    cells = data.draw(arrays.arrays(np.int64, (count, *shape), elements=st.integers(0, 255)))
    cells[:, 0, 0, 0] = np.arange(count) * 60  # of frames that are the same, writers make one
    if alpha:  # what is black where it is seen, and else clear, libwebp writes as all black
        cells[:, 0, 0, 3], cells[:, 1, 1] = 255, (200, 100, 50, 128)
    mode = "RGBA" if alpha else "RGB"
    orientation = data.draw(st.integers(1, 8)) if format in ("WEBP", "PNG") else 1
    frames = [Drawn(mode, one, orientation) for one in cells]
    times = data.draw(st.lists(st.integers(2, 9), min_size=count, max_size=count))
    path = tmp_path_factory.getbasetemp() / f"moving.{format.lower()}"
    first, *rest = [one.image() for one in frames]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = MOVING[format] | ({"exif": exif} if orientation != 1 else {})
    options["duration"] = [100 * time for time in times]
    first.save(path, format, save_all=True, append_images=rest, **options)
    assert is_clip(path)
    clip = load_clip(path, frames=9)
    assert len(clip.frames) == count
    assert clip.times == pytest.approx([sum(times[:number]) / 10 for number in range(count)])
    for shown, drawn in zip(clip.frames, frames, strict=True):
        check(shown, drawn, {"GIF": 3, "AVIF": 14}.get(format, 1.6))


def test_a_png_with_another_picture_for_who_cannot_move_it(tmp_path):
    path = tmp_path / "default.png"
    colours = [(9, 9, 9), (250, 0, 0), (0, 250, 0)]
    still, *frames = [Image.new("RGB", (8, 8), colour) for colour in colours]
    still.save(path, save_all=True, append_images=frames, default_image=True, duration=100)
    clip = load_clip(path)
    assert [one.getpixel((0, 0)) for one in clip.frames] == colours[1:]


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    import sys

    path = tmp_path / "photo.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for look in (read_image, look_at_image):
        with pytest.raises(MissingExtraError, match=r"pip install pillow-heif .*'heic'"):
            look(path)
    assert not is_clip(path)


def test_heic_is_read_with_it(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs lftr[heic]")
    image = Image.new("RGB", (64, 48), (200, 40, 40))
    image.paste((20, 40, 200), (0, 0, 32, 48))
    heif.from_pillow(image).save(tmp_path / "photo.heic", quality=90)
    shown = read_image(tmp_path / "photo.heic")
    assert shown.size == (64, 48)
    assert np.abs(np.subtract(shown.getpixel((8, 8)), (20, 40, 200))).max() < 14
    assert not is_clip(tmp_path / "photo.heic")


def test_what_a_caller_opened_is_upright_in_a_prompt_and_in_a_drawing():
    from lftr.drawing import processed_part
    from lftr.media import Clip
    from lftr.prompting import batch_inputs, chat_inputs

    given: list[Image.Image] = []

    class Keeping:
        chat_template = "there is one"

        def apply_chat_template(self, conversations, **_):
            given.extend(part["image"] for part in conversations[0][0]["content"][:-1])

    class Bare:
        image_token = "<i>"

        def __call__(self, images, **_):
            given.extend(images[0])

    with Image.open(DATA / "exif6.jpg") as opened:
        batch_inputs(Keeping(), [([opened], "?")])
        batch_inputs(Keeping(), [([Clip((opened, opened), (0.0, 1.0))], "?")])
        batch_inputs(Bare(), [([opened], "?")])
        content = [{"type": "image", "image": opened}, {"type": "text", "text": "?"}]
        chat_inputs(Keeping(), [[{"role": "user", "content": content}]])
        given.append(processed_part(object(), opened))
    assert [one.size for one in given] == [(200, 300)] * 6
    assert {one.mode for one in given} == {"RGB"}
