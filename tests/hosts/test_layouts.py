"""Which token is made of which patch, and where it stands: told by the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import Corner

from lftr.evidence.attention import attention_modules
from lftr.hosts.transformers.encoder.encode import _parent, encoder_arguments
from lftr.hosts.transformers.families import family_of

from .support import IMAGES, VIDEOS, Image, Prompt, Videos, ZooEntry, reduced

ROWS = [[3, Image("wide"), 4], [2, Image("tall", 1), 3], [2, Image("square", 2), 3]]


class Bench:
    """A family's encoder, and how to disturb it."""

    def __init__(self, entry: ZooEntry) -> None:
        self.prompt = Prompt(entry, list(ROWS))
        self.model = self.prompt.model
        self.family = family_of(self.model)
        clips = isinstance(entry, Videos)
        self.medium: Any = self.family.video if clips else self.family
        self.arguments = encoder_arguments(self.medium, self.model, self.prompt.inputs())

    def features(self, arguments: dict[str, Any]) -> Any:
        output = self.medium.encoder(self.model)(**arguments, return_dict=True)
        return self.medium.features(output)

    def tokens(self, arguments: dict[str, Any] | None = None) -> Tensor:
        """Every visual token of the prompt, `(total, C)`."""
        values = self.features(arguments or self.arguments)
        return torch.cat([value.reshape(-1, value.shape[-1]) for value in values])

    def sizes(self) -> list[int]:
        sizes: list[int] = self.medium.entries(
            self.model, self.arguments, self.features(self.arguments)
        )
        return sizes

    def layer(self) -> Any:
        """The encoder layer that makes the features."""
        tower = self.medium.module(self.model, self.medium.tower)
        layers = attention_modules(tower)
        module = layers[self.medium.attention_layer(self.model, len(layers))]
        return _parent(tower, module)

    @contextmanager
    def disturbed(self, tile: int, patch: int) -> Iterator[None]:
        """Add to one patch of the layer's output, in place, the class token not counted."""

        def change(_: Any, args: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            tiles = values if values.ndim == 3 else values.unsqueeze(0)
            place = self.medium.cls_place(self.model)
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(values.shape[-1], generator=generator)
            tiles[tile, patch + (place == 0)] += noise

        handle = self.layer().register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()

    def patches(self) -> tuple[int, int]:
        """Tiles and patches of the layer's output."""
        seen: list[Tensor] = []
        handle = self.layer().register_forward_hook(
            lambda _, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        self.tokens()
        handle.remove()
        values = seen[0] if seen[0].ndim == 3 else seen[0].unsqueeze(0)
        return values.shape[0], values.shape[1] - (self.medium.cls_place(self.model) is not None)


SHOWN = [*IMAGES, *VIDEOS.values()]
# tokens made of patches that a layer with attention gives
MAPPED = [entry for entry in SHOWN if entry.traits.reads == "attention"]
# the others' layouts are told apart in test_codes.py, but for those that have crops of their own
LOCAL = ("step3p7", "unlimited_ocr")
PLACED = [e for e in SHOWN if e.traits.reads != "features" or e.name in LOCAL]
placed = pytest.mark.parametrize("entry", PLACED, ids=str)


@pytest.fixture(params=MAPPED, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family that is shown images, or clips."""
    value: ZooEntry = request.param
    return value


@pytest.fixture
def bench(entry: ZooEntry) -> Bench:
    if entry.traits.unit == "token":
        pytest.skip(f"nothing tells the shape of an image of {entry}")
    return Bench(entry)


def test_to_tokens_is_exact(bench: Bench) -> None:
    """A change of one patch changes exactly the tokens that the map says it is part of."""
    tiles, count = bench.patches()
    plain = bench.tokens()
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(tiles * count, generator=generator)[:16].tolist()
    touched = 0
    for place in places:
        mark = torch.zeros(tiles * count, 1)
        mark[place] = 1.0
        told = bench.medium.to_tokens(
            bench.model, bench.arguments, mark.reshape(tiles, count, 1)
        ).squeeze(1)
        assert told.shape == (len(plain),)
        with bench.disturbed(*divmod(place, count)):
            changed = (bench.tokens() - plain).abs().amax(dim=1) > 0
        assert changed.nonzero().tolist() == (told > 1e-6).nonzero().tolist(), place
        touched += int(changed.any())
    assert touched >= 4


def test_to_tokens_is_a_mean(bench: Bench) -> None:
    """Tokens whose patches are all one are one; separators are zero."""
    tiles, count = bench.patches()
    ones = torch.ones(tiles, count, 1)
    told = bench.medium.to_tokens(bench.model, bench.arguments, ones).squeeze(1)
    layouts = bench.medium.layouts(bench.model, bench.arguments, bench.sizes())
    marks = [
        torch.zeros(size, dtype=torch.bool) if layout.separator is None else layout.separator
        for layout, size in zip(layouts, bench.sizes(), strict=True)
    ]
    assert torch.allclose(told, (~torch.cat(marks)).float(), atol=1e-5)


def test_separators_are_the_newlines(bench: Bench) -> None:
    parts = bench.model.base_model.named_parameters()
    learned = ("image_newline", "image_begin", "image_end", "view_separator")
    newlines = [part for name, part in parts if name.rpartition(".")[2] in learned]
    if bench.medium.tower == "video_tower":
        pytest.skip("its separators are class tokens")
    layouts = bench.medium.layouts(bench.model, bench.arguments, bench.sizes())
    if not newlines or all(layout.separator is None for layout in layouts):
        assert not newlines or bench.model.config.model_type == "llava_next_video"
        assert all(layout.separator is None for layout in layouts)
        return
    plain = bench.tokens()
    before = [newline.data.clone() for newline in newlines]
    for newline in newlines:
        newline.data += torch.arange(len(newline))
    try:
        changed = (bench.tokens() - plain).abs().amax(dim=1) > 0
    finally:
        for newline, value in zip(newlines, before, strict=True):
            newline.data = value
    told = torch.cat([layout.separator for layout in layouts if layout.separator is not None])
    assert torch.equal(changed, told)
    assert changed.any()


CORNERS: dict[str, Corner] = {
    "top left": (0, 0, 0),
    "top right": (0, 0, -1),
    "bottom left": (0, -1, 0),
    "last frame": (-1, 0, -1),
}


@placed
@pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS)
def test_grid_is_row_major(bench: Bench, entry: ZooEntry, corner: Corner) -> None:
    """The token that a corner's pixels change most is the corner of its grid, square or not."""
    if corner[0] and not isinstance(entry, Videos):
        pytest.skip("an image has one frame")
    with reduced(bench.model, "random", 0.4) as run:
        bench.prompt.generate(1)
    first = run.method.tokens[0].without_separators()
    frames, high, wide = first.blocks[0]
    if entry.traits.ragged and not entry.traits.tiles and entry.name != "molmo2":
        assert high != wide  # a frame of a clip of Molmo 2 is a square crop
    plain = bench.tokens()[: run.method.tokens[0].count]
    changed = bench.tokens(entry.painted(bench.arguments, corner))[: len(plain)]
    change = (changed - plain).norm(dim=1)
    separator = run.method.tokens[0].separator
    most = int(
        change.masked_fill(separator, 0.0).argmax() if separator is not None else change.argmax()
    )
    place = run.method.tokens[0]._patch_coordinates()[most].tolist()
    assert place == [corner[0] % frames, corner[1] % high, corner[2] % wide]


@placed
def test_grids_fill_the_items(bench: Bench) -> None:
    with reduced(bench.model, "random", 0.4) as run:
        bench.prompt.generate(1)
    for tokens in run.method.tokens:
        bare = tokens.without_separators()
        assert sum(t * h * w for t, h, w in bare.blocks) == bare.count
