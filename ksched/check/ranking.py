"""How well hypotheses fit the answers of a model, and which one explains them best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from ksched.check.alternatives import Usage, output_types
from ksched.check.probe import Probe, mean_squares
from ksched.check.readings import (
    Hypothesis,
    InputScaling,
    OutputType,
    TimestepConvention,
    noise_to_signal,
    target_weights,
)
from ksched.types import Array

__all__ = ["CLOSE", "Ranking"]


#: How far above the linear yardstick, in units of the target's power, a network may be and still count as trained for
#: that target: noise of 0.3 times the target. A network trained for another target is off by 0.5 to 4 at most levels.
_TOLERANCE = 0.1


#: excess over the yardstick below which a reading needs no further search; also the effect of chance on a comparison
CLOSE = 0.03


#: standard errors by which the better of two fitting readings must be better to be called right
_SURE = 5.0


#: and how much lower its error must be: for a table against another one, and for anything else
_BETTER_TABLE, _BETTER = 0.001, 0.003


#: relative difference below which two errors count as equal
_EQUAL = 0.01


#: ratio of the x0 error to the linear one below which a network surely knows its data
_KNOWS = 0.95


#: if two readings are nearly equally good: least number of values in the noised states of a level, and the largest
#: number of model calls to get them
_VALUES, _REPEATS = 2**14, 64


class Ranking:
    """Hypotheses about the model of one probe, fitted to its answers and compared."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.claim = probe.claim

    # Fitting

    def hypotheses(self, ways: Iterable[Usage]) -> Iterator[Hypothesis]:
        """Every reading of the answers to some ways of calling."""
        claimed = self.claim.output
        for scaling, timesteps, cost in ways:
            for output in output_types(self.claim, scaling, timesteps):
                same = output.base == claimed.base
                extra = output.sign != claimed.sign if same else 1 + (output.sign < 0)  # the claim includes a sign
                reading = self.fit(scaling, timesteps, output, cost + extra)
                if reading is not None:
                    yield reading

    def fit(
        self, scaling: InputScaling, timesteps: TimestepConvention, output: OutputType, cost: float
    ) -> Hypothesis | None:
        """The fit of one reading; None if the model cannot be called that way."""
        probe = self.probe
        products = probe.products(scaling, timesteps)
        if products is None:
            return None
        excess, errors = [], []
        for rho, here in zip(probe.ratios.tolist(), products, strict=True):
            p, q = target_weights(output, rho, scaling)
            target = np.array([-output.sign, p, q, 0.0])
            if output.skip:  # the answer passed through a part of the scaled state instead of the state
                data_power = scaling.data_std**2
                part = 1.0 if output.skip == "all" else data_power / (data_power + rho**2)
                missing = part * (1 - 1 / scaling.divisor(rho))
                target -= output.sign * np.array([0.0, missing, missing * rho, 0.0])
            error = mean_squares(target, here)
            of_x0 = (p - q / rho) ** 2  # target - answer is the root of this times the error of x0
            power = p * p * probe.variance + q * q
            if output.base == "denoised":  # computed from a network that has an error of its own, in unknown units
                power = max(power, rho * rho)
            excess.append((error.mean() - of_x0 * probe.linear_error(rho, here)) / power)
            errors.append(error / of_x0)
        return Hypothesis(scaling, timesteps, output, np.array(excess), np.array(errors), cost)

    def claimed(self) -> Hypothesis:
        """The claim itself."""
        claim = self.claim
        reading = self.fit(claim.scaling, claim.timesteps, claim.output, 0)
        assert reading is not None
        return reading

    def rescaled(self) -> Iterator[Hypothesis]:
        """The claimed reading with the output times a factor, stored in its ``timesteps.description``."""
        claim, probe = self.claim, self.probe
        products = probe.claimed_products
        inner = outer = 0.0
        for rho, here in zip(probe.ratios.tolist(), products.mean(1), strict=True):
            p, q = target_weights(claim.output, rho, claim.scaling)
            power = p * p * probe.variance + q * q
            inner += claim.output.sign * (p * here[0, 1] + q * here[0, 2]) / power
            outer += here[0, 0] / power
        factor = inner / outer if outer else 0.0
        if not 0.02 < factor < 50 or 0.8 < factor < 1.25:
            return
        scaled = products.copy()
        scaled[:, :, 0, :] *= factor
        scaled[:, :, :, 0] *= factor
        timesteps = claim.timesteps._replace(kind="scale", description=f"{factor:.6g}")
        probe.hold(claim.scaling, timesteps, scaled)
        reading = self.fit(claim.scaling, timesteps, claim.output, 1)
        if reading is not None:
            yield reading

    @cached_property
    def tolerance(self) -> float:
        """Largest excess that still fits: `_TOLERANCE`, and more if there is too little data to know its variance."""
        probe = self.probe
        power = ((probe.x0[: probe.count] - probe.mean) ** 2).flatten(1).mean(1)
        spread = float(power.std()) / math.sqrt(probe.count) if probe.count > 1 else math.sqrt(2 / power.numel())
        return _TOLERANCE + min(0.3, 3 * spread / probe.variance)

    def fits(self, reading: Hypothesis) -> bool:
        """Whether the model is as good under this reading as a model trained for it."""
        return bool((reading.excess <= self.tolerance).all())

    def knows_data(self, claimed: Hypothesis) -> bool:
        """Whether, at some level, the claimed reading knows more about the data than its mean and variance."""
        return bool((claimed.errors.mean(1) / self.linear_errors < _KNOWS).any())

    @cached_property
    def linear_errors(self) -> Array:
        """Mean squared error of the best linear x0 prediction, (levels,)."""
        probe = self.probe
        pairs = zip(probe.ratios.tolist(), probe.claimed_products, strict=True)
        return np.array([probe.linear_error(rho, here) for rho, here in pairs])

    # Comparing

    def best(self, claimed: Hypothesis, readings: Iterable[Hypothesis]) -> Hypothesis | None:
        """The simplest of the readings that fit and are about as good as the best; None if none fits."""
        fitting = [reading for reading in readings if self.fits(reading)]
        if not fitting:
            return None
        best = min(fitting, key=self._loss)
        near = [reading for reading in fitting if self._as_good(reading, best)]
        least = min(reading.cost for reading in near)
        if least:
            return min((reading for reading in near if reading.cost == least), key=self._loss)
        return self._better(claimed, [reading for reading in fitting if reading.output == claimed.output])

    def equally_good_outputs(self, claimed: Hypothesis, readings: Iterable[Hypothesis]) -> list[OutputType]:
        """Other output types that fit the claimed way of calling as well."""
        return [
            reading.output
            for reading in readings
            if reading.scaling is self.claim.scaling and reading.timesteps is self.claim.timesteps
            if reading.output != claimed.output and self.fits(reading)
            if self._as_good(reading, claimed) and self._as_good(claimed, reading)
            if np.abs(reading.excess - claimed.excess).max() < CLOSE
        ]

    def _better(self, claimed: Hypothesis, others: Iterable[Hypothesis]) -> Hypothesis:
        """A reading of the same output type that is better, even if only by little; otherwise the claimed one.

        Errors of the same output type can be compared level by level, which shows smaller differences.
        """
        gains = [(*self._gain(claimed, other), other) for other in others if other.cost == 1]
        if any(_may_be_better(*each) and not _is_better(*each) for each in gains):
            rows = min(math.ceil(_VALUES / self.probe.data[0].numel()), _REPEATS * self.probe.count)
            finer = self.probe.finer(rows)
            if finer is not None:
                gains = Ranking(finer)._gains_again([each[2] for each in gains if _may_be_better(*each)])
                self.probe.calls += finer.calls
        sure = [(gain, other) for gain, errors, other in gains if _is_better(gain, errors, other)]
        return max(sure, key=lambda pair: pair[0], default=(0.0, claimed))[1]

    def _gains_again(self, doubtful: Sequence[Hypothesis]) -> list[tuple[float, float, Hypothesis]]:
        """Gains over the claimed reading, recomputed for another probe's readings with the answers to this probe."""
        claim = self.claim
        claimed = self.fit(claim.scaling, claim.timesteps, claim.output, 0)
        gains = []
        for other in doubtful:
            again = self.fit(other.scaling, other.timesteps, other.output, 1)
            if claimed is not None and again is not None:
                gains.append((*self._gain(claimed, again), other))
        return gains

    def _gain(self, claimed: Hypothesis, other: Hypothesis) -> tuple[float, float]:
        """How much smaller the error of another reading of the same output is, relative and in standard errors.

        The second is -inf if the error is larger at some level by more than chance.
        """
        ratios, rows = self.probe.ratios, len(self.probe.x0)
        if rows < 8 or other.timesteps.kind == "scale":
            return 0.0, 0.0
        here = np.ones(len(ratios), dtype=bool)
        if other.timesteps.process is not None:  # levels outside the other process's range say nothing
            trained = other.timesteps.process
            low, high = (noise_to_signal(trained, sigma) for sigma in (trained.sigma_min, trained.sigma_max))
            here = (ratios > 0.99 * low) & (ratios < 1.01 * high)
        size = other.errors[here].mean(1, keepdims=True)
        size = np.maximum(size, 1e-12 * self.probe.variance)  # finite data sets may be predicted exactly
        share = (claimed.errors - other.errors)[here] / size
        each = share.mean(0)
        gain, spread = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(rows)
        worse = share.mean(1) < -4 * share.std(1, ddof=1) / math.sqrt(rows) - 1e-9
        return (gain, gain / spread if spread else 0.0) if not worse.any() else (gain, -math.inf)

    @cached_property
    def _weight(self) -> Array:
        """Weight of the levels' x0 errors, (levels, 1).

        A network's own noise is in units of the data or of eps, depending on its output. With these weights both are
        small.
        """
        ratios = self.probe.ratios
        weight: Array = (1 / np.maximum(self.probe.variance, ratios**2))[:, None] / len(ratios)
        return weight

    def _loss(self, reading: Hypothesis) -> float:
        return float((self._weight * reading.errors).sum(0).mean())

    def _as_good(self, reading: Hypothesis, best: Hypothesis) -> bool:
        """Whether a reading is no worse than the best, up to chance or a negligible difference."""
        each = (self._weight * (reading.errors - best.errors)).sum(0)
        chance = 4 * float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 7 else math.inf
        return float(each.mean()) <= max(_EQUAL * self._loss(best), min(chance, CLOSE))


def _is_better(gain: float, standard_errors: float, other: Hypothesis) -> bool:
    """Whether another reading is better than the claimed one."""
    return standard_errors > _SURE and gain > (_BETTER_TABLE if other.timesteps.kind == "table" else _BETTER)


def _may_be_better(gain: float, standard_errors: float, other: Hypothesis) -> bool:
    """Whether it may turn out to be better with more noised states."""
    return other.timesteps.kind != "scale" and standard_errors > -3
