"""How a candidate plan is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ksched.plan.plan import Plan

__all__ = ["Trial", "objection", "typical"]


_GROUP = 64  # the worst error is reported for groups of this many items


_LEAST_GAIN = 0.92  # ratio of errors; a smaller gain may be chance


#: Errors below this share of the best pair's are clearly better. The worst item, which often ends in another mode by
#: chance, may then be worse by the second factor.
_CLEAR, _WORST = 0.7, 1.5


#: Factor on the error of a shipped plan. Shipped plans are known to be safe under guidance, where one run in fifty may
#: explode; the items that plans are compared on may not show that.
_SHIPPED = 0.85


@dataclass
class Trial:
    """A plan with its errors on the items used to choose and on those held out."""

    name: str
    plan: Plan
    chosen_on: torch.Tensor
    held_out: torch.Tensor
    shipped: bool = False
    why_not: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """Mean, 90th percentile and worst error of the held-out items; of more than 64, the worst of 64 on average."""
        return _figures(self.held_out)

    @property
    def score(self) -> float:
        """The number by which tuned plans are ranked."""
        return typical(self.chosen_on) * (_SHIPPED if self.shipped else 1)

    @property
    def typical(self) -> float:
        """Typical error over all items; the plan was fitted to none of them."""
        return typical(torch.cat([self.chosen_on, self.held_out]))


def typical(errors: torch.Tensor) -> float:
    """Mean error, in which no item counts for more than three times the 90th percentile.

    A few items end in another mode. Their errors are as large as the data and would otherwise decide by chance between
    equally good methods.
    """
    return errors.clamp(max=3 * errors.quantile(0.9).item()).mean().item()


def _figures(errors: torch.Tensor) -> dict[str, float]:
    """Mean, 90th percentile and worst error. The worst of many items is one that ends in another mode by chance."""
    groups = errors[: len(errors) // _GROUP * _GROUP].view(-1, _GROUP) if len(errors) >= _GROUP else errors[None]
    found = {"mean": errors.mean(), "p90": errors.quantile(0.9), "worst": groups.amax(1).mean()}
    return {name: float(f"{value.item():.5g}") for name, value in found.items()}


def objection(trial: Trial, best: Trial) -> str:
    """The reason why a tuned plan is not accepted; empty if it is."""
    ours, theirs = trial.figures, best.figures
    clear = all(ours[name] < _CLEAR * theirs[name] for name in ("mean", "p90"))
    if clear and ours["worst"] < _WORST * theirs["worst"]:
        return ""
    for name, words in (("mean", "mean"), ("p90", "90th percentile"), ("worst", "worst item")):
        if not ours[name] < theirs[name]:
            return f"its {words} error on the held-out items is {ours[name]:.4g}; {best.name} has {theirs[name]:.4g}"
    if trial.typical > _LEAST_GAIN * best.typical:
        return f"it is better than {best.name} by less than {1 - _LEAST_GAIN:.0%}, which may be chance"
    return ""
