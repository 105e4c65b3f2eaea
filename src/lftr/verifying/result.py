"""What a verification found: each check with its figures, and the versions it ran on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]
# without these two nothing was proved
ESSENTIAL = ("everything kept", "reduced")


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
        What was compared; docs/verify.md says how.
    verdict : {"passed", "failed", "skipped"}
        Skipped where the model or the method does not take it, or where it could tell nothing.
    deviation : float, optional
        The largest difference between a logit under the reduction and the truth.
    plain : float, optional
        The same of the plain model, its own way of computing against its own truth.
    allowed : float, optional
        The deviation up to which the check passes.
    wrong : float, optional
        The smallest deviation of what is known to be wrong: the full prompt, compact positions.
    reason : str
        Why it was skipped or failed; notes where it passed.
    """

    name: str
    verdict: Verdict
    deviation: float | None = None
    plain: float | None = None
    allowed: float | None = None
    wrong: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain values for JSON; what is not finite as None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Verification:
    """The proof, or what is missing of it.

    Attributes
    ----------
    checks : sequence of Check
        In the order in which they ran.
    model, model_type : str
        The model's class, and its type in transformers.
    method : str
        The methods, with the options that are not at their defaults.
    keep : str
        How many tokens stayed.
    dtype, device, attention : str
        What the language model computes in, on and with.
    versions : dict
        Of lftr, torch and transformers.
    essential : sequence of str
        The checks that must have passed: a skipped one of these leaves the rest unproved.
    """

    checks: Sequence[Check]
    model: str
    model_type: str
    method: str
    keep: str
    dtype: str
    device: str
    attention: str
    versions: dict[str, str]
    essential: Sequence[str] = ESSENTIAL

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.verdict == "failed"]

    @property
    def ok(self) -> bool:
        """Whether no check failed, and the essential ones passed."""
        passed = {check.name for check in self.checks if check.verdict == "passed"}
        return not self.failed and passed.issuperset(self.essential)

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence."""
        if self.failed:
            names = ", ".join(check.name for check in self.failed)
            return (
                f"FAILED: {names}. Do not rely on lftr with this model in these versions; "
                "docs/verify.md says what to do."
            )
        if not self.ok:
            proved = {check.name for check in self.checks if check.verdict == "passed"}
            names = ", ".join(name for name in self.essential if name not in proved)
            return f"NOT PROVED: the checks without which nothing is were skipped: {names}."
        skipped = sum(check.verdict == "skipped" for check in self.checks)
        rest = f", {skipped} skipped" if skipped else ""
        return f"PASSED: {len(self.checks) - skipped} checks{rest}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        rest = {name: value for name, value in vars(self).items() if name != "checks"}
        checks = [check.to_dict() for check in self.checks]
        return {"ok": self.ok, "conclusion": self.conclusion, **rest, "checks": checks}

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        heads = ["check", "verdict", "deviation", "plain model", "allowed", "a wrong one"]
        rows = [
            [check.name, check.verdict, *map(_figure, _figures(check))] for check in self.checks
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            f"{self.model} ({self.model_type}), {self.dtype} on {self.device}, {self.attention}",
            f"{self.method}, keep={self.keep}; {versions}",
            "",
        ]
        for check, row in zip([None, *self.checks], [heads, *rows], strict=True):
            left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(left + right))
            if check is not None and check.reason:
                lines.append(f"    {check.reason}")
        return "\n".join([*lines, "", self.conclusion])


def _figures(check: Check) -> tuple[float | None, ...]:
    return check.deviation, check.plain, check.allowed, check.wrong


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
