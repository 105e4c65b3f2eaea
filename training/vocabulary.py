"""The tokenizer: byte-level BPE in which every word of the suite is one token.

Nothing is trained. The merges spell each word from its first byte on, shorter beginnings first, so
that known words come out whole and anything else falls apart into bytes without being lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from lftr.lab.suites.clip_questions import TIMES, WAYS
from lftr.lab.suites.layout import COLOURS, KINDS
from lftr.lab.suites.questions import CELLS, COUNTS, DIGITS, SIDES, YES_NO

# CLIP's text model reads an end-of-text id of 2 as "the largest id of the row": 2 is not the end.
SPECIAL = ("<pad>", "<s>", "<image>", "</s>", "<user>", "<assistant>")
PAD, BOS, IMAGE, EOS, USER, ASSISTANT = range(len(SPECIAL))

_SENTENCES = (
    "Is there an a? What colour shape is the object?",
    "How many objects are there? Where is the shape? On which side of the is the?",
    "Which is bigger, smaller, the biggest or the smallest?",
    "a picture of and nothing, this image shows",
)
_CLIP_SENTENCES = (
    "Which way did the move? How many times did the flash? What came first, the or the?",
    "Which digit flashed? What colour did the become? What appeared at the end?",
    "Did the vanish?",
)
_PIECE = r" ?[A-Za-z]+(?:-[A-Za-z]+)*| ?[0-9]| ?[^\sA-Za-z0-9]|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user>' if message.role == 'user' else '<assistant>' }}"
    "{% if message.content is string %}{{ ' ' + message.content | trim }}{% else %}"
    "{% for part in message.content if part.type == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ ' ' + part.text | trim }}"
    "{% endfor %}{% endif %}{% if message.role != 'user' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

# Frames are numbered, so that a token's frame can be read beside it.
CLIP_CHAT_TEMPLATE = CHAT_TEMPLATE.replace("{{ '<image>' }}", "{{ ' ' ~ loop.index ~ '<image>' }}")


def words() -> list[str]:
    """Every word that the scenes can ask or answer with, after a space."""
    found = set(re.findall(_PIECE, " ".join(_SENTENCES)))
    plain = [*COLOURS, *KINDS, *sum(CELLS, ()), *COUNTS, *DIGITS, *SIDES, *YES_NO]
    plain += [f"{kind}es" if kind == "cross" else f"{kind}s" for kind in KINDS]
    return sorted({f" {word.strip()}" for word in (*found, *plain)})


def clip_words() -> list[str]:
    """Every word of the scenes, and those that the clips need besides."""
    found = {*re.findall(_PIECE, " ".join(_CLIP_SENTENCES)), *WAYS, *TIMES}
    return sorted({*words(), *(f" {word.strip()}" for word in found)})


def _spelling(known: Iterable[str]) -> Iterator[tuple[str, str]]:
    chains = [word.replace(" ", "Ġ") for word in known]
    for length in range(1, max(map(len, chains))):
        yield from sorted({(c[:length], c[length]) for c in chains if len(c) > length})


def tokenizer(closed: bool = False, known: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """Build the tokenizer.

    Parameters
    ----------
    closed : bool
        For CLIP's text tower: begin every text with a space, as words inside a sentence do, and
        end it with ``</s>``.
    known : iterable of str
        The words that are one token each; `words` by default.
    """
    merges = list(_spelling(words() if known is None else known))
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    if closed:
        core.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Prepend(" ")])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if closed else "<s> $A",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right" if closed else "left",
        model_max_length=77 if closed else 2048,
        extra_special_tokens={} if closed else {"image_token": "<image>"},
    )
