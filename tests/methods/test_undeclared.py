"""A method that reads what it does not declare is told what to declare."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from every import item
from hosts.support import Prompt
from zoo import FAMILIES

import lftr
from lftr.methods import Adaptive, Merge, MergeInside
from lftr.methods.undeclared import call_declared

HALF = lftr.schedules.Step(1, 0.5)
FEATURES = lftr.VisualTokens(torch.randn(12, 4))


@dataclass(frozen=True)
class Reading(lftr.Method):
    """Reads a field in one of several ways, and declares another one."""

    field: str = "cls_attention"
    how: str = "attribute"

    @property
    def evidence(self):
        return (("keys", "features"),)

    def choose(self, tokens, keep):
        return lftr.Selection.top(READERS[self.field, self.how](tokens), keep)


READERS = {
    ("cls_attention", "attribute"): lambda tokens: tokens.cls_attention.mean(dim=1),
    ("text_embeds", "attribute"): lambda tokens: tokens.text_embeds.mean(dim=1),
    ("keys", "attribute"): lambda tokens: tokens.keys.mean(dim=2),
    ("cls_attention", "torch"): lambda tokens: torch.mean(tokens.cls_attention, dim=1),
    ("text_embeds", "torch"): lambda tokens: torch.mean(tokens.text_embeds, dim=1),
    ("cls_attention", "operator"): lambda tokens: tokens.cls_attention @ tokens.features,
    ("text_embeds", "operator"): lambda tokens: tokens.text_embeds @ tokens.features,
    ("cls_attention", "index"): lambda tokens: tokens.cls_attention[:, 0],
    ("text_embeds", "index"): lambda tokens: tokens.text_embeds[:, 0],
    ("cls_attention", "later"): lambda tokens: _first(tokens.cls_attention),
    ("text_embeds", "later"): lambda tokens: _first(tokens.text_embeds),
    **{
        (field, "evidence"): lambda tokens, field=field: tokens.evidence(field)[1].mean(dim=1)
        for field in ("cls_attention", "text_embeds", "keys")
    },
}


def _first(rows):
    return rows[:, 0]


@dataclass(frozen=True)
class ReadingAlone(Reading):
    """Overrides `select`."""

    def select(self, tokens, keep):
        return self.choose(tokens.as_batch(), int(keep)).item(0)


@dataclass(frozen=True)
class Guarded(Reading):
    """Does without the field, and fails on something else that is None."""

    table: tuple[int, ...] | None = None

    def choose(self, tokens, keep):
        if tokens.cls_attention is None:
            return lftr.Selection(torch.tensor([[self.table[0]]]))
        return super().choose(tokens, keep)


@dataclass(frozen=True)
class Counting(lftr.Method):
    """Reads a field where it counts."""

    def auto_count(self, tokens):
        return [int(tokens.text_token_embeds.shape[1])]


@dataclass(frozen=True)
class Inside(lftr.LayerMethod):
    """Reads attention or passages that it does not declare."""

    how: str = "received"
    schedule: lftr.schedules.Schedule = HALF

    def select(self, view, keep):
        return lftr.Selection.top(VIEWERS[self.how](view), keep)


VIEWERS = {
    "received": lambda view: view.received(view.asking),
    "heads": lambda view: view.heads.attention(view.last)[0, 0, view.visual],
    "passages": lambda view: view.passages[1].left[view.visual].norm(dim=-1),
    "values": lambda view: view.read.values.norm(dim=-1).mean(dim=0)[view.visual],
}


@dataclass(frozen=True)
class Observing(Inside):
    """Reads it where it looks."""

    reads = "own"

    def observe(self, view):
        view.memory["passed"] = view.passed


@pytest.mark.parametrize("how", ["attribute", "torch", "operator", "index", "evidence", "later"])
@pytest.mark.parametrize("field", ["cls_attention", "text_embeds"])
def test_the_field_and_the_declaration_are_named(field, how):
    reads = "reads" if how == "evidence" else r"failed \(.*NoneType.*\); its code uses"
    expected = (
        rf"Reading.choose {reads} {field}, which .*the method does not declare.* return "
        rf"\(\('keys', 'features'\), \('{field}',\)\); {field} is provided by .*CLIP"
    )
    with pytest.raises(lftr.LftrError, match=expected):
        Reading(field, how).select(FEATURES, 3)


def test_a_field_that_is_none_is_a_supposition():
    expected = (
        r"Guarded.choose failed \(TypeError: 'NoneType' object is not subscriptable\); "
        "its code uses cls_attention, which is None since the method does not declare it: if that "
        "is the cause, "
    )
    with pytest.raises(lftr.LftrError, match=expected) as caught:
        Guarded().select(FEATURES, 3)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("wrap", [Merge, Adaptive])
def test_inside_a_wrapper_the_inner_method_is_named(wrap):
    for method in (Reading(), ReadingAlone()):
        with pytest.raises(lftr.LftrError, match=rf"^{type(method).__name__}\.(choose|select) "):
            wrap(method).select(FEATURES, 3)


def test_where_it_counts():
    with pytest.raises(
        lftr.LftrError, match=r"Counting.auto_count failed .* its code uses text_token_embeds"
    ):
        Counting().select(FEATURES, "auto")


def test_on_a_model():
    prompt = Prompt(FAMILIES["llava"])
    for method in (Reading(), ReadingAlone()):
        with (
            lftr.reduce(prompt.model, method, tokens=4),
            pytest.raises(lftr.LftrError, match=r"uses cls_attention, .*not declare"),
        ):
            prompt.forward()


def test_what_is_declared_works_as_before():
    declared = dataclasses.replace(item(1, (1, 3, 4)), keys=None)
    assert Reading("features", "attribute").evidence == (("keys", "features"),)
    with pytest.raises(AttributeError, match=r"NoneType"):
        Reading("keys").select(declared, 3)  # an alternative of its own: the method's own error
    with pytest.raises(lftr.MissingEvidenceError, match=r"this method needs keys"):
        Reading("keys", "evidence").select(declared, 3)
    assert Reading().select(item(1, (1, 3, 4)), 3).count == 3  # the caller gave it


def test_other_errors_stay():
    def fails(tokens):
        assert tokens.cls_attention is None
        raise TypeError("of another kind")

    with pytest.raises(TypeError, match=r"of another kind"):
        call_declared(Reading(), fails, FEATURES)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Inside("received"), r"Inside.select reads heads, .*add reads = 'previous'.*'own text'"),
        (Inside("heads"), "Inside.select failed .* its code uses heads, .*add reads = 'previous'"),
        (
            Inside("passages"),
            "Inside.select failed .* uses passages, .*add follows = True",
        ),
        (Observing("values"), "Observing.observe reads passages, .*add follows = True"),
        (MergeInside(Inside("heads")), "^Inside.select failed .* its code uses heads"),
        (lftr.methods.Coordinates(Inside("received")), "^Inside.select reads heads"),
    ],
)
def test_inside_the_language_model(method, words):
    prompt = Prompt(FAMILIES["llava"])
    with lftr.reduce(prompt.model, method), pytest.raises(lftr.LftrError, match=words):
        prompt.forward()


def test_values_that_are_not_read():
    @dataclass(frozen=True)
    class Own(Inside):
        reads = "own"

    prompt = Prompt(FAMILIES["llava"])
    words = r"Own.select failed .* its code uses values, .*reads = 'previous'"
    with lftr.reduce(prompt.model, Own("values")), pytest.raises(lftr.LftrError, match=words):
        prompt.forward()
