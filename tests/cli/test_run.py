"""`lftr run`: answers, reports, and every kind of bad input."""

from __future__ import annotations

import pytest
import torch

import lftr as library
from lftr import bundled
from lftr.media import read_image
from lftr.prompting import batch_inputs, inputs_of

QUESTION = "What colour is the square?"


def test_prints_the_answer_and_what_was_dropped(lftr, picture):
    result = lftr("run", picture, QUESTION)
    assert result.exit_code == 0
    assert "576 -> 36 visual tokens" in result.stdout


def test_answers_as_the_library_does(reads, picture):
    told = reads("run", picture, QUESTION, "--method", "divprune", "--tokens", "72")
    model, processor = bundled.load()
    inputs = inputs_of(processor, [read_image(picture)], QUESTION)
    with library.reduce(model, "divprune", tokens=72), torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)
    new = ids[:, inputs["input_ids"].shape[1] :]
    assert told["answer"] == processor.batch_decode(new, skip_special_tokens=True)[0].strip()
    assert told["report"]["kept"] == 72
    assert told["model"] == "bundled"


def test_takes_a_long_question(lftr, picture):
    """Longer than a file's name can be."""
    assert lftr("run", picture, "a " * 200 + "?", "--max-new-tokens", "1").exit_code == 0


def test_takes_several_images(reads, picture):
    told = reads("run", picture, picture, QUESTION, "--keep", "1/8", "--max-new-tokens", "2")
    assert [item["kept"] for item in told["report"]["items"]] == [72, 72]
    assert told["images"] == [str(picture)] * 2


def test_loads_a_folder_through_transformers(reads, picture):
    told = reads(
        "run", picture, QUESTION, "--model", bundled.path(), "--dtype", "float32", "--device", "cpu"
    )
    assert told["answer"] == reads("run", picture, QUESTION)["answer"]


def test_gives_text_guided_methods_the_question(reads, picture):
    told = reads("run", picture, QUESTION, "--method", "trim", "--max-new-tokens", "1")
    assert told["report"]["kept"] == 36
    assert not told["report"]["notes"]  # CLIP's own text tower, no stand-in


def test_options_reach_the_method_with_their_types(reads, picture):
    words = ["--option", "seed=7", "--method", "random", "--max-new-tokens", "1"]
    assert "seed=7" in reads("run", picture, QUESTION, *words)["report"]["method"]


def test_several_methods_compose(reads, picture):
    words = ("--method", "divprune", "--method", "fastv", "--option", "fastv.layer=1")
    report = reads("run", picture, "What?", *words, "--keep", "1/4")["report"]
    assert report["method"].startswith("divprune + fastv(")
    assert report["kept"] == 144
    assert "active" in str(report["layers"])


def test_a_count_above_all_tokens_keeps_all_and_says_so(reads, picture):
    told = reads("run", picture, QUESTION, "--tokens", "5000", "--max-new-tokens", "1")
    assert told["report"]["kept"] == 576
    assert "all stay" in told["report"]["notes"][0]


def test_a_count_as_keep_brings_a_note(lftr, picture):
    words = ("run", picture, QUESTION, "--max-new-tokens", "1")
    for keep, count in (("36", 36), ("1", 1)):
        result = lftr(*words, "--keep", keep)
        assert f"576 -> {count} visual tokens" in result.stdout
        assert f"write --tokens {count} " in " ".join(result.stderr.split())
    for budget in (("--tokens", "36"), ("--keep", "1/16"), ("--keep", "1.0")):
        assert "write --tokens" not in lftr(*words, *budget).stderr


def test_keep_and_tokens_exclude_each_other(fails, picture):
    line = fails("run", picture, QUESTION, "--keep", "1/4", "--tokens", "36")
    assert "tokens = 36; allowed: one of keep and tokens; keep = 1/4" in line


@pytest.mark.parametrize("keep", ["0", "-1", "1.5", "nan", "1/0", "many"])
def test_bad_keep(fails, picture, keep):
    line = fails("run", picture, QUESTION, f"--keep={keep}")
    assert "keep = " in line
    assert "allowed: a ratio in (0, 1]" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "divprun"], "did you mean 'divprune'"),
        (["--method", "random", "--option", "sed=1"], "did you mean 'seed'"),
        (["--method", "random", "--option", "seed=x"], "seed = 'x'; allowed: a whole number"),
        (["--method", "random", "--option", "seed"], "--option = 'seed'; allowed: name=value"),
        (["--option", "relevance=nothing"], "relevance = 'nothing'; allowed: 'frame'"),
        (["--option", "diversity=2"], "diversity = 2.0; allowed: a number in [0.0, 1.0]"),
        (["--dtype", "int3"], "--dtype = 'int3'; allowed: auto, float32"),
        (["--device", "abacus"], "--device = 'abacus'; allowed: a device"),
        (["--positions", "middle"], "--positions = 'middle'; allowed: original or compact"),
    ],
)
def test_bad_options_say_what_is_allowed(fails, picture, words, said):
    assert said in fails("run", picture, QUESTION, *words)


def test_a_preset_says_method_budget_and_positions(lftr, reads, picture, tmp_path):
    path = tmp_path / "preset.json"
    method = library.methods.Merge("divprune")
    library.Preset(method, 1 / 8, "compact", model="bundled").save(path)
    told = reads("run", picture, QUESTION, "--preset", path, "--max-new-tokens", "1")
    assert told["report"]["kept"] == 72
    assert told["report"]["method"] == str(method)
    assert told["note"] is None
    library.Preset(method, 1 / 8, model="org/other").save(path)
    result = lftr("run", picture, QUESTION, "--preset", path, "--max-new-tokens", "1")
    assert "note: the preset was found on org/other, and is used on bundled" in result.stderr


@pytest.mark.parametrize(
    "words",
    [["--tokens", "4"], ["--method", "pool"], ["--option", "a=1"], ["--positions", "compact"]],
    ids=["keep", "method", "option", "positions"],
)
def test_beside_a_preset_nothing_is_said_by_hand(fails, picture, tmp_path, words):
    library.Preset(library.get_method("lftr"), tokens=4).save(tmp_path / "preset.json")
    line = fails("run", picture, QUESTION, "--preset", tmp_path / "preset.json", *words)
    assert f"{words[0]} = " in line
    assert "no such option beside --preset" in line


def test_a_preset_that_is_none_is_named(fails, picture, tmp_path):
    assert "a file to read" in fails("run", picture, QUESTION, "--preset", tmp_path / "absent")
    (tmp_path / "preset.json").write_text('{"format": 9}')
    line = fails("run", picture, QUESTION, "--preset", tmp_path / "preset.json")
    assert "format = 9; allowed: 1" in line


def test_missing_and_corrupt_images_are_named(fails, picture, tmp_path):
    absent, text, cut = tmp_path / "absent.png", tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("no image")
    cut.write_bytes(picture.read_bytes()[:200])
    assert f"image = '{absent}'; allowed: a file that exists" in fails("run", absent, QUESTION)
    for path in (text, cut):
        assert f"image = '{path}'; allowed: " in fails("run", path, QUESTION)


def test_a_model_that_is_not_there_is_named(fails, picture, tmp_path):
    line = fails("run", picture, QUESTION, "--model", tmp_path)
    assert f"--model = '{tmp_path}'; allowed: a Hugging Face id or folder" in line


def test_a_question_without_an_image_and_images_without_a_question(fails, picture):
    assert "IMAGE" in fails("run", QUESTION)
    assert "IMAGE" in fails("run", picture, picture)


def test_wrong_usage_exits_with_2(lftr, picture):
    assert lftr("run").exit_code == 2
    assert lftr("run", picture, QUESTION, "--no-such-option").exit_code == 2
    assert lftr("run", picture, QUESTION, "--max-new-tokens", "0").exit_code == 2


def test_without_a_chat_template_the_image_tokens_come_first(picture):
    _, processor = bundled.load()
    processor.chat_template = None
    image = read_image(picture)
    inputs = batch_inputs(processor, [([image, image], "What?"), ([image], "What is it?")])
    placeholders = (inputs["input_ids"] == processor.image_token_id).sum(dim=1)
    assert placeholders.tolist() == [2 * 576, 576]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]  # padded on the left


def test_a_processor_that_places_the_image_itself_is_given_the_question_alone(picture):
    class Querying:
        """As BLIP-2's: no template, and the queries are put in front by the processor."""

        image_token = "<image>"
        num_query_tokens = 32

        def __call__(self, images, text, **_):
            return text

    assert inputs_of(Querying(), [read_image(picture)], "What?") == ["What?"]
