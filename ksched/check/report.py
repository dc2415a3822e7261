"""The report that `ksched.check_model` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Finding", "LevelFigures", "Mistake", "ModelReport"]


Mistake: TypeAlias = Literal[
    "raises", "output", "not_finite", "prediction", "sign", "scale", "input", "timestep", "table", "process", "unknown"
]


class Finding(NamedTuple):
    """One mistake.

    Attributes
    ----------
    kind : str
        "raises" or "output" (not a tensor, or of another shape), "not_finite", "prediction", "sign", "scale" (of the
        output), "input" (its scaling), "timestep", "table" (of betas), "process" (more than one of these), or
        "unknown".
    message : str
        What is wrong and what to do.
    """

    kind: Mistake
    message: str


class LevelFigures(NamedTuple):
    """Errors of the model at one noise level.

    Attributes
    ----------
    sigma : float
        Contract sigma.
    told : float
        Timestep or sigma that the model was called with.
    error : float
        Root mean square error of the x0 prediction.
    linear : float
        Root mean square error of the best linear prediction, which uses only mean and variance of the data.
    """

    sigma: float
    told: float
    error: float
    linear: float


@dataclass(frozen=True)
class ModelReport:
    """The result of `check_model`; ``print`` it.

    Attributes
    ----------
    claim : str
        What the model was believed to be.
    findings : tuple of Finding
        Mistakes, the most likely explanation first; empty if the claim is right.
    notes : tuple of str
        Remarks that are not mistakes, and questions that the data cannot answer.
    levels : tuple of LevelFigures
        Errors of the model, called as claimed, at every noise level.
    calls : int
        Number of calls of the model.
    """

    claim: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    levels: tuple[LevelFigures, ...]
    calls: int

    @property
    def ok(self) -> bool:
        """Whether no mistake was found."""
        return not self.findings

    @property
    def kinds(self) -> tuple[Mistake, ...]:
        """The kinds of the mistakes."""
        return tuple(finding.kind for finding in self.findings)

    def raise_if_wrong(self) -> None:
        """Raise a ValueError with this report's text if a mistake was found."""
        if not self.ok:
            raise ValueError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.claim}: {'nothing wrong' if self.ok else 'wrong'} ({self.calls} calls)"]
        lines += [f"- {finding.message}" for finding in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        if self.levels:
            lines.append(f"{'sigma':>10}{'told':>10}{'x0 error':>12}{'linear':>10}")
            lines += [f"{a:>10.4g}{b:>10.4g}{c:>12.4g}{d:>10.4g}" for a, b, c, d in self.levels]
        return "\n".join(lines)
