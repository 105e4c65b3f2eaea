"""FlowCut inside the encoder, against the tower that the original program changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import cases, close, load
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from zoo.parts import IMAGE, llama

import lftr


def llava_of(case: Any) -> Any:
    """LLaVA with the tower of a golden case."""
    params = case.params
    vision = CLIPVisionConfig(
        hidden_size=params["hidden_size"],
        num_attention_heads=params["heads"],
        intermediate_size=params["intermediate_size"],
        num_hidden_layers=params["layers"],
        image_size=4 * params["side"],
        patch_size=4,
    )
    total = params["side"] ** 2
    config = LlavaConfig(
        vision_config=vision, text_config=llama(), image_token_index=IMAGE, image_seq_length=total
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    weights = {
        name.removeprefix("weights.vision_model."): value
        for name, value in case.inputs.items()
        if name.startswith("weights.")
    }
    tower = model.base_model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    left_out = tower.load_state_dict(weights, strict=False)
    assert not left_out.unexpected_keys
    assert not [key for key in left_out.missing_keys if "position_ids" not in key]
    return model.double()  # as the original ran


def run(model: Any, pixels: Tensor, encoder: Any) -> tuple[list[Any], list[Tensor], list[int]]:
    """What was kept of each image, its tokens before the projector, and each layer's tokens."""
    total = model.config.image_seq_length
    ids = torch.tensor([[1, *[IMAGE] * total, 5]]).expand(len(pixels), -1)
    entering: list[int] = []  # without the class token
    handles = [
        layer.register_forward_pre_hook(lambda _, args: entering.append(args[0].shape[1] - 1))
        for layer in model.base_model.vision_tower.encoder.layers
    ]
    features: list[Tensor] = []
    project = model.base_model.multi_modal_projector
    handles.append(project.register_forward_pre_hook(lambda _, args: features.append(args[0])))
    with torch.no_grad(), lftr.reduce(model, "uniform", keep=1.0, encoder=encoder) as reduction:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.double())
    for handle in handles:
        handle.remove()
    return reduction.report.items, list(features[0]), entering


@pytest.mark.parametrize("file", cases("encoder_flowcut"))
def test_as_the_original(file: Any) -> None:
    """The same tokens with the same values, from as many tokens in every layer."""
    case = load(file)
    model, encoder = llava_of(case), lftr.EncoderFlowCut(keep=case.params["K"])
    for image, numbers in enumerate(case.notes["tokens_entering_each_layer"]):
        pixels = case.inputs["pixel_values"][image : image + 1]
        (item,), (features,), entering = run(model, pixels, encoder)
        assert list(item.positions) == case.expected["index"][image].tolist()
        close(features.float(), case.expected["tokens"][image])
        assert entering == numbers[:-1]


@pytest.mark.parametrize("file", cases("encoder_flowcut"))
def test_a_batch_is_its_images(file: Any) -> None:
    """Images that lose unequal numbers of tokens are filled up, which changes none of them."""
    case = load(file)
    encoder = lftr.EncoderFlowCut(keep=case.params["K"])
    items, features, entering = run(llava_of(case), case.inputs["pixel_values"], encoder)
    for image, item in enumerate(items):
        assert list(item.positions) == case.expected["index"][image].tolist()
        close(features[image].float(), case.expected["tokens"][image])
    numbers = [*zip(*case.notes["tokens_entering_each_layer"], strict=True)][:-1]
    assert entering == [max(pair) for pair in numbers]
    assert any(left != right for left, right in numbers)
