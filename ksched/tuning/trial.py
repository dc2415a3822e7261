"""How a candidate plan is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ksched.plan.plan import Plan

__all__ = ["Trial", "objection", "typical"]


_GROUP = 64  # items whose worst is taken


_LEAST_GAIN = 0.92  # of an error: what is gained with less may be chance


#: What the error of a shipped plan counts: it is known to be safe under guidance, where one run in fifty may explode,
#: which those that plans are compared on need not show.
_SHIPPED = 0.85


@dataclass
class Trial:
    """A plan and its errors on the items that it is chosen on, and on those that were held out."""

    name: str
    plan: Plan
    chosen_on: torch.Tensor
    held_out: torch.Tensor
    shipped: bool = False
    why_not: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """Mean, 90th percentile and worst of the held out, the worst of 64 where they are more."""
        return _figures(self.held_out)

    @property
    def score(self) -> float:
        """What tuned plans are chosen by."""
        return typical(self.chosen_on) * (_SHIPPED if self.shipped else 1)

    @property
    def typical(self) -> float:
        """Of all items, none of which a plan was fitted to."""
        return typical(torch.cat([self.chosen_on, self.held_out]))


def typical(errors: torch.Tensor) -> float:
    """Mean, in which no item counts for more than thrice the 90th percentile.

    Some few end in another mode, and their errors, as large as the data, would choose by chance among methods that are
    equally good.
    """
    return errors.clamp(max=3 * errors.quantile(0.9).item()).mean().item()


def _figures(errors: torch.Tensor) -> dict[str, float]:
    """Of many items the worst is one that ends in another mode, with any method, by chance; of some 64 it says more."""
    groups = errors[: len(errors) // _GROUP * _GROUP].view(-1, _GROUP) if len(errors) >= _GROUP else errors[None]
    found = {"mean": errors.mean(), "p90": errors.quantile(0.9), "worst": groups.amax(1).mean()}
    return {name: float(f"{value.item():.5g}") for name, value in found.items()}


def objection(trial: Trial, best: Trial) -> str:
    """Why a tuned plan is not accepted; nothing if it is."""
    ours, theirs = trial.figures, best.figures
    for name, words in (("mean", "mean"), ("p90", "90th percentile"), ("worst", "worst item")):
        if not ours[name] < theirs[name]:
            return f"its {words} on the held-out items is {ours[name]:.4g}, that of {best.name} {theirs[name]:.4g}"
    if trial.typical > _LEAST_GAIN * best.typical:
        return f"it gains less than {1 - _LEAST_GAIN:.0%} on {best.name}, which may be chance"
    return ""
