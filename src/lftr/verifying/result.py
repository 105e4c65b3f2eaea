"""The result of a verification: each check with its measurements, and the versions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]
# a verification succeeds only if these two checks passed
ESSENTIAL = ("everything kept", "reduced")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name : str
        The name of the check; docs/verify.md describes it.
    verdict : {"passed", "failed", "skipped"}
        "skipped" if the model or the method does not support it, or if it is inconclusive.
    deviation : float, optional
        The largest difference between a logit with the reduction and the reference.
    plain : float, optional
        The same difference for the plain model and its own reference.
    allowed : float, optional
        The deviation up to which the check passes.
    wrong : float, optional
        The smallest deviation of results known to be wrong (full prompt, compact positions).
    reason : str
        Why the check was skipped or failed, or a remark if it passed.
    """

    name: str
    verdict: Verdict
    deviation: float | None = None
    plain: float | None = None
    allowed: float | None = None
    wrong: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as values for JSON; numbers that are not finite become None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Verification:
    """The results of all checks.

    Attributes
    ----------
    checks : sequence of Check
        The checks in the order in which they ran.
    model, model_type : str
        The model's class, and its type in transformers.
    method : str
        The methods, with the options that are not at their defaults.
    keep : str
        What the method before the language model keeps, as the command line spells it.
    dtype, device, attention : str
        The dtype, devices and attention implementation of the language model.
    versions : dict
        Versions of lftr, torch and transformers.
    essential : sequence of str
        The checks that must have passed; if one of them was skipped, nothing is proved.
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
            return f"NOT PROVED: these necessary checks were skipped: {names}."
        skipped = sum(check.verdict == "skipped" for check in self.checks)
        rest = f", {skipped} skipped" if skipped else ""
        return f"PASSED: {len(self.checks) - skipped} checks{rest}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON."""
        rest = {name: value for name, value in vars(self).items() if name != "checks"}
        checks = [check.to_dict() for check in self.checks]
        return {"ok": self.ok, "conclusion": self.conclusion, **rest, "checks": checks}

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        budget = f"{'tokens' if self.keep.isdecimal() else 'keep'}={self.keep}"
        heads = ["check", "verdict", "deviation", "plain model", "allowed", "a wrong one"]
        rows = [
            [check.name, check.verdict, *map(_figure, _figures(check))] for check in self.checks
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            f"{self.model} ({self.model_type}), {self.dtype} on {self.device}, {self.attention}",
            f"{self.method}, {budget}; {versions}",
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
