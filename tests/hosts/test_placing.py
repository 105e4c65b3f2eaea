"""What places a prompt's tokens beside its ids: sounds, seconds, the images of other rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lftr

from .oracle import true_logits
from .support import FAMILIES, Image, Prompt, ZooEntry, assert_close, conversation, reduced

FRAMES = 40  # of sound
STEPS = 3
thinkers = pytest.mark.parametrize("name", [name for name in FAMILIES if name.endswith("_thinker")])


def heard(entry: ZooEntry, *, with_clip: bool) -> dict[str, Any]:
    """A prompt with a sound and an image after it, or with a clip whose sound is interleaved."""
    from zoo.parts import END, START, VIDEO
    from zoo.qwen import AUDIO, AUDIO_END, AUDIO_START

    model: Any = entry.model()
    sound = {
        "input_features": torch.randn(1, 8, FRAMES),
        "feature_attention_mask": torch.ones(1, FRAMES, dtype=torch.long),
    }
    features = model.base_model.get_audio_features(**sound, return_dict=True).last_hidden_state
    sounds = [AUDIO] * len(features)
    shown = Image("wide")
    if not with_clip:
        ids = [11, AUDIO_START, *sounds, AUDIO_END, 13, *entry.image_ids(model, shown), 14, 15]
        return entry.batch(model, [ids], [[shown]]) | sound
    clip = entry.clip_inputs(model, [[shown]])  # type: ignore[attr-defined]
    frames, high, wide = clip["video_grid_thw"][0].tolist()
    second = float(clip["video_second_per_grid"][0]) * model.config.position_id_per_seconds
    times = [(frame * second, VIDEO) for frame in range(frames) for _ in range(high * wide // 4)]
    times += [(float(place), AUDIO) for place in range(len(sounds))]
    if hasattr(model.config, "seconds_per_chunk"):  # a chunk's frames before its sounds
        chunk = model.config.seconds_per_chunk * model.config.position_id_per_seconds
        times = [(time // chunk, token) for time, token in times]
    mixed = [token for _, token in sorted(times, key=lambda one: one[0])]
    ids = [11, START, AUDIO_START, *mixed, AUDIO_END, END, 14, 15]
    return entry.batch(model, [ids], [[]]) | clip | sound | {"use_audio_in_video": True}


@pytest.mark.parametrize("with_clip", [False, True], ids=["before an image", "in a clip"])
@thinkers
def test_sounds_stay_and_are_counted(name: str, with_clip: bool) -> None:
    check_sounds(name, with_clip=with_clip)


def check_sounds(name: str, *, with_clip: bool) -> None:
    """Ask a model about what it heard and saw, and compare every step with the truth."""
    entry = FAMILIES[name]
    model: Any = entry.model()
    inputs = heard(entry, with_clip=with_clip)
    ids = inputs["input_ids"][0]
    token = model.config.video_token_id if with_clip else model.config.image_token_id
    with reduced(model, keep=0.4) as run:
        output = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        choices = run.choices()
    assert run.report.kept < run.report.tokens == int((ids == token).sum())
    new = output.sequences[0, -STEPS:].tolist()
    truth = true_logits(model, inputs, ids == token, choices, new[:-1])
    assert_close(entry, torch.cat(list(output.logits)), truth)


@thinkers
def test_sounds_in_a_later_turn_are_refused(name: str) -> None:
    """Which of them were heard before is not known, and positions depend on it."""
    entry = FAMILIES[name]
    model: Any = entry.model()
    inputs = heard(entry, with_clip=False)
    with lftr.reduce(model, "random", keep=0.4):
        output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
        ids = torch.cat([output.sequences, torch.tensor([[20, 21]])], dim=1)
        later = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        del later["input_features"]
        with pytest.raises(lftr.LftrError, match="feature_attention_mask in a later turn"):
            model.generate(**later, past_key_values=output.past_key_values, max_new_tokens=1)


def test_images_numbered_over_a_batch_are_not_continued() -> None:
    """A new image in one row would renumber those of the rows after it."""
    entry = FAMILIES["hunyuan_vl"]
    new = Image("tall", 2)
    prompt = Prompt(entry, [[3, Image("small"), 2], [3, Image("small", 1), 2]])
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.generate(1)
        rows = [
            [*row, *entry.image_ids(prompt.model, new), 21] for row in output.sequences.tolist()
        ]
        later = entry.batch(prompt.model, rows, [[new], [new]])
        with pytest.raises(lftr.LftrError, match="continue each row in a call of its own"):
            prompt.model.generate(**later, past_key_values=output.past_key_values, max_new_tokens=1)


def test_the_first_axis_places_where_there_are_four() -> None:
    """Four axes of RoPE leave none to count columns: all keep their places."""
    entry = FAMILIES["hunyuan_vl"]
    model: Any = entry.model()
    ids = entry.row_ids(model, [3, Image("wide"), 2])
    inputs = conversation(entry, model, ids, [Image("wide")])
    full = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
    with reduced(model, keep=0.4) as run:
        given = run.reduction.prepare(**inputs)
    left = given["position_ids"]
    assert left.shape[0] == 4
    assert left.shape[-1] < full.shape[-1]
    assert left[0, 0].tolist() != list(range(left.shape[-1]))
    columns = {tuple(column) for column in full[:, 0].T.tolist()}
    assert {tuple(column) for column in left[:, 0].T.tolist()} < columns
