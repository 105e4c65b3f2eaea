"""A decoding loop of one's own: `lftr.prepare` returns the shortened inputs.

No argument of a model can pass on that merged tokens count as several. Use a method that drops
tokens, or ``weights="none"``; or call the model itself while the reduction is active.

Run: python examples/own_loop.py
"""

import torch

import lftr
from lftr import suites
from lftr.prompting import inputs_of

model, processor = lftr.bundled.load()
example = suites.load("scenes", split="test", n=1)[0]
inputs = inputs_of(processor, [example.image], example.question)

with lftr.reduce(model, "divprune", tokens=64) as reduction, torch.inference_mode():
    prepared = lftr.prepare(model, **inputs)  # ids, mask, positions, the encoded image
    print(f"prompt: {inputs['input_ids'].shape[1]} -> {prepared['input_ids'].shape[1]} columns")
    out = model(**prepared, use_cache=True)
    mask, position = prepared["attention_mask"], prepared["position_ids"][:, -1:]
    answer = []
    for _ in range(8):
        token = out.logits[:, -1].argmax(dim=-1, keepdim=True)
        if token.item() == model.generation_config.eos_token_id:
            break
        answer.append(token.item())
        mask, position = torch.cat([mask, torch.ones_like(token)], dim=1), position + 1
        out = model(
            input_ids=token,
            attention_mask=mask,
            position_ids=position,
            past_key_values=out.past_key_values,
        )
print(example.question, processor.decode(answer, skip_special_tokens=True))
