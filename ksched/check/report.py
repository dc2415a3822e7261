"""What `ksched.check_model` reports."""

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
    kind : "raises" or "output" (no tensor, or of another shape), "not_finite", "prediction", "sign", "scale" (of the
        output), "input" (its scaling), "timestep", "table" (of betas), "process" (more than one of these), or "unknown"
    message : what is wrong and what to do
    """

    kind: Mistake
    message: str


class LevelFigures(NamedTuple):
    """What was found at one noise level.

    Attributes
    ----------
    sigma : contract sigma
    told : what the model was told, timestep or sigma
    error : root mean square error of the x0 prediction
    linear : that of the best linear prediction, which knows no more of the data than mean and variance
    """

    sigma: float
    told: float
    error: float
    linear: float


@dataclass(frozen=True)
class ModelReport:
    """What `check_model` found; ``print`` it.

    Attributes
    ----------
    claim : what the model was taken for
    findings : mistakes, the most likely explanation first; empty for a model that is what it was taken for
    notes : what is no mistake but good to know, and what the data cannot tell
    levels : figures of the claimed reading at every noise level
    calls : how often the model was called
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
