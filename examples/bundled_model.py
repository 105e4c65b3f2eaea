"""One line on the model inside the package: the same question from a sixteenth of the tokens.

Run: python examples/bundled_model.py
"""

import torch

import lftr
from lftr import suites
from lftr.prompting import inputs_of

model, processor = lftr.bundled.load()
example = suites.load("scenes", split="test", n=1)[0]
inputs = inputs_of(processor, [example.image], example.question)


def answer() -> str:
    """Ask the model as one always does."""
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=8)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return str(processor.decode(new, skip_special_tokens=True)).strip()


print(f"{example.question}  (right: {example.answer})")
print("all tokens:      ", answer())
with lftr.reduce(model, "lftr", keep=1 / 16) as reduction:
    print("a sixteenth:     ", answer())
print(reduction.report)
