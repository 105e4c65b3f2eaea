"""The search for a budget: a race of methods on some images, a test of its result on others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...methods.base import Method
from ...methods.encoder.merges import EncoderMerge
from ...values.budget import Keep, spell
from ...values.errors import ArgumentError
from ..asking.settings import Setting
from .batches import ImageBatch
from .betting import Bets

BudgetVerdict = Literal["holds", "fails", "open"]
_BOLDER = 2  # budgets below the race's result that are tested too, since the race may err


@dataclass(frozen=True)
class Goal:
    """The agreement that a budget must reach, and the confidence.

    Attributes
    ----------
    agreement : float
        Share of answers that equal the full model's, on average over images.
    confidence : float
        Least probability that the resulting budget reaches it.

    Raises
    ------
    ArgumentError
        If one of them is not in (0, 1).
    """

    agreement: float = 0.95
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 < value < 1.0:
                raise ArgumentError.of(name, value, "a number between 0 and 1, without them")

    @property
    def alpha(self) -> float:
        """Largest probability of error."""
        return 1.0 - self.confidence


@dataclass
class Trial:
    """The results of a setting so far.

    Attributes
    ----------
    shares : list of float
        For each image the share of answers that equal the full model's.
    tokens, kept : int, float
        Visual tokens of all its questions, before and after.
    questions : int
        Number of questions.
    """

    setting: Setting
    shares: list[float] = field(default_factory=list)
    tokens: int = 0
    kept: float = 0.0
    questions: int = 0

    def add(self, batch: ImageBatch) -> list[float]:
        """Ask the questions of a batch, and return the share of each image."""
        shares, answers = batch.agreements(self.setting)
        self.shares += shares
        self.tokens += sum(answer.tokens for answer in answers)
        self.kept += sum(answer.kept for answer in answers)
        self.questions += sum(not answer.failed for answer in answers)
        return shares

    @property
    def mean(self) -> float:
        """Mean share, 0 before the first image."""
        return sum(self.shares) / max(len(self.shares), 1)

    @property
    def kept_each(self) -> float:
        """Mean number of visual tokens that stay, per question."""
        return self.kept / max(self.questions, 1)


def grid(
    methods: Sequence[Method],
    budgets: Sequence[Keep],
    positions: str | None = None,
    encoder: EncoderMerge | None = None,
    weights: str | float | None = None,
) -> list[list[Setting]]:
    """Return for each budget the settings of all methods."""
    return [
        [
            Setting(f"{method} {spell(keep)}", method, keep, positions, encoder, weights)
            for method in methods
        ]
        for keep in budgets
    ]


class Race:
    """A race of methods, which looks for the smallest budget with enough agreement.

    With each batch of images the budgets are bisected. If some methods have agreed often enough at
    a budget so far, they continue with smaller budgets, and the others stop for this batch. If none
    has, all of them continue with larger budgets. A method that can no longer reach the agreement
    at a budget, whatever the remaining answers, is not tried there again. The race need not be
    exact, since its result is tested on other images.

    Parameters
    ----------
    levels : sequence of sequence of Setting
        From `grid`: for each budget, from the largest to the smallest, the settings of all methods.
        Of equally good methods the earlier wins.
    images : int
        Number of images of the race.
    barred : collection of str
        Labels of settings that are skipped because the method does not support the budget. Every
        method has at least one setting that is not barred.
    """

    def __init__(
        self,
        levels: Sequence[Sequence[Setting]],
        goal: Goal,
        images: int,
        barred: Collection[str] = (),
    ) -> None:
        self._goal = goal
        self._spare = (1.0 - goal.agreement) * images  # images that may disagree in all
        self._barred = barred
        self.trials = [[Trial(setting) for setting in level] for level in levels]

    def run(self, batch: ImageBatch) -> None:
        """Bisect the budgets for some images."""

        def passes(trial: Trial) -> bool:
            if self._open(trial) and len(trial.shares) - sum(trial.shares) <= self._spare:
                trial.add(batch)
            return self._looks_good(trial)

        self._bisect(passes)

    def chain(self) -> list[Setting]:
        """Return the settings to test, from large to small budgets of the winning method.

        Large budgets cost little, since their tests end early, and give a result if the race, with
        few images, was too optimistic about small ones.
        """
        place, racing = self._bisect(self._looks_good)
        level = self.trials[max(place, 0)]
        best = max(racing, key=lambda lane: (self._open(level[lane]), level[lane].mean))
        reached = self.trials[: place + 1 + _BOLDER]
        chain = [one[best].setting for one in reached if self._open(one[best])]
        return chain or [next(one[best].setting for one in self.trials if self._open(one[best]))]

    def _open(self, trial: Trial) -> bool:
        return trial.setting.label not in self._barred

    def _looks_good(self, trial: Trial) -> bool:
        return bool(trial.shares) and trial.mean >= self._goal.agreement

    def _bisect(self, passes: Callable[[Trial], bool]) -> tuple[int, Sequence[int]]:
        """Return the index of the smallest budget that methods pass (or -1), and the methods."""
        low, high = 0, len(self.trials)
        racing: Sequence[int] = range(len(self.trials[0]))
        while low < high:
            middle = (low + high) // 2
            passing = [lane for lane in racing if passes(self.trials[middle][lane])]
            if passing:
                low, racing = middle + 1, passing
            else:
                high = middle
        return low - 1, racing


class Proof:
    """The test of a setting, image by image, with the earliest possible decision."""

    def __init__(self, setting: Setting, goal: Goal) -> None:
        self.trial = Trial(setting)
        self.verdict: BudgetVerdict = "open"
        self._alpha = goal.alpha
        self._above, self._below = Bets(goal.agreement), Bets(1.0 - goal.agreement)

    def run(self, batch: ImageBatch) -> None:
        """Test with images until the verdict is decided."""
        for share in self.trial.add(batch):
            self._above.add(share)
            self._below.add(1.0 - share)
            if self.verdict == "open" and self._above.beyond(self._alpha):
                self.verdict = "holds"
            elif self.verdict == "open" and self._below.beyond(self._alpha):
                self.verdict = "fails"

    def can_hold(self, left: int) -> bool:
        """Whether ``left`` more images could still show the goal."""
        return self.verdict == "holds" or (
            self.verdict == "open" and self._above.within_reach(self._alpha, left)
        )


def prove(
    proofs: Sequence[Proof], batches: Iterator[tuple[int, ImageBatch | None]], images: int
) -> int:
    """Test settings in a fixed order, each at the full level; return how many hold.

    Only settings before the first that does not hold count. An error happens only if the test
    accepts the first setting that does not reach the goal, so the probability of any error is that
    of one test (fixed-sequence testing). The tests may share images and their answers may be
    dependent; only the order must be fixed beforehand.

    Parameters
    ----------
    proofs : sequence of Proof
        From the largest budget to the smallest.
    batches : iterator
        Images that were not part of the race.
    images : int
        Number of images in the batches.
    """
    left, alive = images, len(proofs)
    for taken, batch in batches:
        left -= taken
        for place, proof in enumerate(proofs[:alive]):
            if batch is not None and proof.verdict == "open":
                proof.run(batch)
            if not proof.can_hold(left):
                alive = place
                break
        if all(proof.verdict == "holds" for proof in proofs[:alive]):
            break
    failed = (place for place, proof in enumerate(proofs) if proof.verdict != "holds")
    return next(failed, len(proofs))
