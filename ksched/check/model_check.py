"""A check on clean data and known noise: whether a model is the kind of network that it is taken for.

The check knows data x0 and noise eps, so it knows what every kind of network should answer to ``x0 + rho * eps``: a
*target* ``p * x0 + q * eps``, with the p and q of its prediction type. No network can hit a target, but one that was
trained for it comes nearer than the best linear function of the state does; that, not zero, is the yardstick. One that
was trained for something else misses by the size of the target itself, at most levels. A *reading* is a way to show
states to the network (scale and timestep) and a way to take its answer (prediction type and sign). If the claimed
reading misses, the others say what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ksched.check.readings import (
    Base,
    Hypothesis,
    InputScaling,
    OutputType,
    TimestepConvention,
    input_scaling_of,
    target_weights,
    timesteps_of,
)
from ksched.check.report import Finding, LevelFigures, ModelReport
from ksched.check.words import type_name
from ksched.denoisers.calling import ask, is_denoiser, tensor_of, time_name
from ksched.denoisers.denoiser import Denoiser, Prediction
from ksched.processes import EDM, VE, VP, AngleV, Flow, FlowVE, Process
from ksched.processes.agreement import process_of_model
from ksched.types import Array

__all__ = ["check_model"]


#: How far above the linear yardstick, in units of the target's power, a network may be that still counts as trained
#: for that target: noise of 0.3 times the target. What was trained for another one is off by 0.5 to 4 at most levels.
_SLACK = 0.1


#: how far above the yardstick a reading may be to be looked no further from, and chance may put one above another
_CLOSE = 0.03


#: how many standard errors better a reading must be, of two that both fit, to be called the right one
_SURE = 5.0


#: and by how much less its error must be: of one table against another, and of anything else
_BETTER_TABLE, _BETTER = 0.001, 0.003


#: relative difference of two errors that is none
_EQUAL = 0.01


#: x0 error, over the linear one, of a network that surely knows its data
_KNOWS = 0.95


#: smallest number of noised states at every level; and of values in them where two readings are nearly as good, which
#: takes more than one call of the model at most so often
_ROWS, _VALUES, _REPEATS = 16, 2**14, 64


def check_model(
    model: Callable[..., Any],
    process: Process | None = None,
    *,
    data: Any,
    prediction: Prediction | None = None,
    noise: Any = None,
    levels: int = 8,
    seed: int = 0,
) -> ModelReport:
    """Whether a model is what it is taken for, found on clean data and known noise.

    Parameters
    ----------
    model : a `Denoiser`; or a network ``(scaled x, timestep) -> output`` with its ``prediction``; or, without, a
        denoiser ``(x, sigma) -> denoised``, such as a k-diffusion wrapper
    process : what the model was trained on; None is the model's own, if it knows one as a `Denoiser` does
    data : clean items, tensor ``(batch, *shape)``, on the model's device and in its dtype: what it was trained on,
        scaled as in training. The model is called on batches of this length, with what conditioning is bound to it
        (`Denoiser.given`). Eight pictures, or some hundred rows of a table, are plenty
    prediction : what the network is claimed to predict, as for `Denoiser`
    noise : unit noise like ``data``, for pairs of one's own; None draws it from ``seed``, 16 states a level or more
    levels : how many noise levels, 3 or more, besides the ends of the process's range
    seed : of the noise

    Returns
    -------
    `ModelReport`: ``ok``, ``findings`` in words, and figures. A model may do anything and nothing is raised; see
    `ModelReport.raise_if_wrong`

    Raises
    ------
    TypeError, ValueError : arguments that are no such thing: no process, data that is constant or not finite, a
        prediction that the process cannot have

    Notes
    -----
    Some things cannot be told from data: see the how-to page. A model in training mode is left in it.

    Examples
    --------
    >>> import ksched, torch
    >>> truth = ksched.exact.digits()
    >>> data = torch.tensor(truth.sample(32, seed=0)).float()
    >>> print(ksched.check_model(truth, ksched.VP(), data=data, levels=3))
    denoiser of VP(<1000 betas, sigma 0.02917 to 14.6146>): nothing wrong ...
    >>> def network(scaled, timestep):  # predicts x0
    ...     sigma = ksched.VP().sigma(timestep)
    ...     return truth(scaled * (1 + sigma[:, None] ** 2) ** 0.5, sigma)
    >>> ksched.check_model(network, ksched.VP(), prediction="epsilon", data=data).kinds
    ('prediction',)
    """
    trial = _Trial(model, process, data, prediction, noise, levels, seed)
    return trial.report()


class _Trial:
    """One check: the noised states, the model's answers to them, and what these mean."""

    def __init__(
        self,
        model: Callable[..., Any],
        process: Process | None,
        data: Any,
        prediction: Prediction | None,
        noise: Any,
        levels: int,
        seed: int,
        rows: int = _ROWS,
    ) -> None:
        self.arguments = model, process, data, prediction, noise, levels, seed
        if isinstance(model, Denoiser):
            if process not in (None, model.process) or prediction not in (None, model.prediction):
                raise ValueError("a Denoiser has a process and a prediction already; got others beside it")
            denoiser = model
            model, process, prediction = denoiser.network, denoiser.process, denoiser.prediction
        if not callable(model):
            raise TypeError(f"model must be callable; got {type(model).__name__}")
        process = process_of_model(model) if process is None else process
        if not isinstance(process, Process):
            raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
        if is_denoiser(model):
            if prediction is not None:
                raise ValueError(f"{type(model).__name__} is a denoiser already; leave the prediction out")
        elif prediction is not None:
            Denoiser(model, process, prediction)  # refuses what the process cannot have
        self.model, self.process = model, process
        self.prediction: Prediction | None = prediction
        self.name = time_name(model) if prediction is not None else None
        self.data = _checked("data", data)
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 3:
            raise ValueError(f"levels must be a whole number, at least 3; got {levels!r}")
        self.calls = 0
        self.count = len(self.data)
        repeats = max(1, math.ceil(rows / self.count)) if noise is None else 1
        # In units of the noise: the model is shown states of the process's own scale, and its answer is brought back.
        self.scale = process.noise_scale
        self.x0 = self.data.detach().cpu().double().repeat(repeats, *[1] * (self.data.ndim - 1)) / self.scale
        values = self.x0[: self.count]
        self.mean, self.variance = float(values.mean()), float(values.var(correction=0))
        if not self.variance > 0:
            raise ValueError("data must not be constant: nothing can be told from it")
        self.ratios = self._ratios(levels)
        generator = torch.Generator().manual_seed(seed)
        if noise is None:
            shape = (len(self.ratios), *self.x0.shape)
            self.noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            eps = _checked("noise", noise, like=self.data).detach().cpu().double()
            self.noise = eps.expand(len(self.ratios), *eps.shape)
        self._seen: dict[tuple[str, str], Array | None] = {}

    def _ratios(self, levels: int) -> Array:
        """Noise over signal at every level: around the size of the data, and at the ends of the process's range."""
        ends = [self._ratio(self.process, sigma) for sigma in (self.process.sigma_min, self.process.sigma_max)]
        std = math.sqrt(self.variance)
        low, high = max(ends[0], 0.03 * std), min(ends[1], 30 * std)
        if not low < high:
            low, high = ends
        grid = np.geomspace(low, high, levels)
        return np.array([*ends[: ends[0] < low / 2], *grid, *ends[1 : 1 + (ends[1] > 2 * high)]])

    @staticmethod
    def _ratio(process: Process, sigma: float) -> float:
        """Noise over signal at a contract sigma; a flow's at the last level with a signal."""
        return math.exp(-process.level(min(sigma, 0.999) if process.is_flow else sigma).lam)

    def _sigma(self, rho: float) -> float:
        """Contract sigma of a ratio."""
        return self.process.level_at(-math.log(rho)).label

    # What was claimed

    @cached_property
    def shown(self) -> InputScaling:
        """How the claim has the state shown."""
        if self.prediction is None:
            return InputScaling("the state", lambda rho: 1 / self.process.alpha(self._sigma(rho)))
        return input_scaling_of(self.process)

    @cached_property
    def told(self) -> TimestepConvention:
        """What the claim has the model told."""
        if self.prediction is None:
            return TimestepConvention("timestep", "sigma", self._sigma)
        return TimestepConvention("timestep", "its timesteps", timesteps_of(self.process))

    @cached_property
    def kind(self) -> OutputType:
        """What the claim takes the answer for."""
        if self.prediction is None:
            return OutputType("denoised")
        if self.prediction == "edm":  # v with the opposite sign
            return OutputType("v_prediction", -1)
        return OutputType(self.prediction)

    # Asking the model

    def ask(self, shown: torch.Tensor, told: float) -> Any:
        """One call, as it answers."""
        self.calls += 1
        dtype = torch.promote_types(self.data.dtype, torch.float32)
        value = torch.full((self.count,), told, dtype=dtype, device=self.data.device)
        with torch.no_grad():
            if self.prediction is None:
                answer = self.model(shown, value)
                return answer[0] if isinstance(answer, tuple) and len(answer) == 2 else answer
            return tensor_of(ask(self.model, self.name, shown, value, {}), shown)

    def states(self, level: int, shown: InputScaling) -> Iterator[torch.Tensor]:
        """The states of a level as the model is shown them, a batch at a time."""
        rho = float(self.ratios[level])
        scaled = (self.x0 + rho * self.noise[level]) * (self.scale / shown.divisor(rho))
        for part in torch.split(scaled, self.count):
            yield part.to(self.data.device, self.data.dtype)

    def answers(self, shown: InputScaling, told: TimestepConvention) -> Iterator[tuple[int, int, Any]]:
        """(level, first row, answer) of every call."""
        for level, rho in enumerate(self.ratios):
            value = told.told(float(rho))
            for i, state in enumerate(self.states(level, shown)):
                yield level, i * self.count, self.ask(state, value)

    def observe(self, shown: InputScaling, told: TimestepConvention) -> Array | None:
        """Inner products of (answer, x0, eps, 1), of every level and row: (levels, rows, 4, 4).

        All that any reading asks of the answers is in them. None if the model cannot be asked that way.
        """
        key = (shown.says, told.says)
        if key not in self._seen:
            try:
                answers = self.answers(shown, told)
                found = [(level, row, self._products(level, row, answer)) for level, row, answer in answers]
            except Exception:  # of a model asked what it was not made for
                self._seen[key] = None
            else:
                whole = np.empty((len(self.ratios), len(self.x0), 4, 4))
                for level, row, part in found:
                    whole[level, row : row + self.count] = part
                self._seen[key] = whole if np.isfinite(whole).all() else None
        return self._seen[key]

    def _products(self, level: int, row: int, answer: torch.Tensor) -> Array:
        rows = slice(row, row + self.count)
        output = answer.detach().cpu().double().reshape(self.count, -1) / self.scale
        x0, eps = (part[rows].reshape(self.count, -1) for part in (self.x0, self.noise[level]))
        vectors = torch.stack([output, x0, eps, torch.ones_like(x0)], dim=1)
        products: Array = (vectors @ vectors.mT / x0.shape[1]).numpy()
        return products

    # Reading the answers

    def read(self, shown: InputScaling, told: TimestepConvention, kind: OutputType, cost: float) -> Hypothesis | None:
        """How well a reading goes."""
        products = self.observe(shown, told)
        if products is None:
            return None
        excess, errors = [], []
        for rho, here in zip(self.ratios.tolist(), products, strict=True):
            p, q = target_weights(kind, rho, shown.data)
            target = np.array([-kind.sign, p, q, 0.0])
            if kind.skip:  # the answer carried over a part of the scaled state, and should have of the state
                part = 1.0 if kind.skip == "all" else shown.data**2 / (shown.data**2 + rho**2)
                missing = part * (1 - 1 / shown.divisor(rho))
                target -= kind.sign * np.array([0.0, missing, missing * rho, 0.0])
            error = _squares(target, here)
            of_x0 = (p - q / rho) ** 2  # target - answer is the root of that times the error of x0
            power = p * p * self.variance + q * q
            if kind.base == "denoised":  # made of a network that has an error of its own, in unknown units
                power = max(power, rho * rho)
            excess.append((error.mean() - of_x0 * self._linear(rho, here)) / power)
            errors.append(error / of_x0)
        return Hypothesis(shown, told, kind, np.array(excess), np.array(errors), cost)

    def _linear(self, rho: float, products: Array) -> float:
        """Mean squared error of the best linear x0 prediction."""
        gain = self.variance / (self.variance + rho * rho)
        miss = np.array([0.0, 1 - gain, -gain * rho, -self.mean * (1 - gain)])
        return float(_squares(miss, products).mean())

    @cached_property
    def slack(self) -> float:
        """Largest excess that fits: `_SLACK`, and more where the data is too little to know its variance."""
        power = ((self.x0[: self.count] - self.mean) ** 2).flatten(1).mean(1)
        spread = float(power.std()) / math.sqrt(self.count) if self.count > 1 else math.sqrt(2 / power.numel())
        return _SLACK + min(0.3, 3 * spread / self.variance)

    def fits(self, reading: Hypothesis | None) -> bool:
        """Whether the model is as good under this reading as one that was trained for it."""
        return reading is not None and bool((reading.excess <= self.slack).all())

    def kinds(self, shown: InputScaling, told: TimestepConvention) -> list[OutputType]:
        """The kinds an answer could be, the claimed one first if it is asked as claimed."""
        bases: tuple[Base, ...] = ("epsilon", "sample", "v_prediction", "flow")
        plain = [OutputType(base, sign) for sign in (1, -1) for base in bases]
        if self.prediction is not None:
            return sorted(plain, key=lambda kind: kind != self.kind)
        plain = [kind for kind in plain if kind.base != "sample"] + [OutputType("denoised", -1)]
        if shown is not self.shown and told is self.told:
            return [OutputType("denoised", 1, "all"), OutputType("denoised", 1, "v"), OutputType("denoised")]
        return [OutputType("denoised"), *plain]

    def readings(self, shown: InputScaling, told: TimestepConvention, cost: float) -> Iterator[Hypothesis]:
        """Every reading of the answers to one way of asking."""
        for kind in self.kinds(shown, told):
            same = kind.base == self.kind.base
            extra = kind.sign != self.kind.sign if same else 1 + (kind.sign < 0)  # a sign is claimed of a base
            reading = self.read(shown, told, kind, cost + extra)
            if reading is not None:
                yield reading

    # Other ways to ask

    @cached_property
    def inputs(self) -> list[InputScaling]:
        """Ways to show the state, the claimed one first."""
        ours, data = self.shown, self.shown.data
        ways = [
            ours,
            InputScaling("unscaled", lambda rho: 1.0, data),
            InputScaling("twice", lambda rho: ours.divisor(rho) ** 2, data),
            InputScaling("sqrt(1 + sigma ** 2)", lambda rho: math.hypot(1, rho)),
            InputScaling("sqrt(0.25 + sigma ** 2)", lambda rho: math.hypot(0.5, rho), 0.5),
            InputScaling("1 + sigma", lambda rho: 1 + rho),
        ]
        if self.prediction is None:
            ways += [InputScaling("the inverse", lambda rho: ours.divisor(rho) / math.hypot(1, rho))]
        return self._distinct(ways, lambda way: way.divisor)

    @cached_property
    def tables(self) -> list[TimestepConvention]:
        """Timesteps of other tables of betas."""
        process = self.process
        if self.prediction is None or not isinstance(process, VP) or process.log_sigma_timesteps:
            return []
        how: dict[str, Any] = {"snr_shift": process.snr_shift, "every": process.every}
        zero, n = process.zero_terminal_snr, len(process.betas)
        others = {
            f"table {'without' if zero else 'with'} zero terminal SNR": VP(
                process.betas, zero_terminal_snr=not zero, **how
            )
        }
        if n % process.every == 0:
            for name, make in {"scaled_linear": VP.scaled_linear, "linear": VP.linear, "cosine": VP.cosine}.items():
                for is_zero in (False, True):
                    others[f"{name} table{' with zero terminal SNR' * is_zero}"] = make(
                        steps=n, zero_terminal_snr=is_zero, **how
                    )
        ways = [
            self.told,
            *(TimestepConvention("table", name, timesteps_of(other), other) for name, other in others.items()),
        ]
        return self._distinct(ways, lambda way: way.told)[1:]

    @cached_property
    def times(self) -> list[TimestepConvention]:
        """Other things to tell the model than claimed, those of a range that may be unsafe for it included."""
        ours = self.told.told
        top = max(ours(float(rho)) for rho in self.ratios)
        ways = [self.told]

        def add(says: str, told: Callable[[float], float]) -> None:
            ways.append(TimestepConvention("timestep", says, told))

        if self.prediction is None:
            add("the timestep of the level", timesteps_of(self.process))
            add("the noise over the signal", lambda rho: rho)
        elif top > 10:
            add("timesteps from 0 to 1, a thousandth of those", lambda rho: ours(rho) / 1000)
            limit = 1000.0 if self.process.is_flow else round(top)
            add(f"{limit:g} minus the timestep", lambda rho: limit - ours(rho))
            add("1 minus a thousandth of the timestep", lambda rho: 1 - ours(rho) / 1000)
        else:
            add("timesteps from 0 to 1000, a thousand times those", lambda rho: ours(rho) * 1000)
            add("1 minus the timestep", lambda rho: 1 - ours(rho))
            add("1000 minus a thousand times the timestep", lambda rho: 1000 * (1 - ours(rho)))
        add("sigma itself", lambda rho: rho)
        add("log(sigma)", math.log)
        add("log(sigma) / 4", lambda rho: math.log(rho) / 4)
        add("sigma / (1 + sigma)", lambda rho: rho / (1 + rho))
        add("1000 * sigma / (1 + sigma)", lambda rho: 1000 * rho / (1 + rho))
        add("the angle atan(sigma) * 2 / pi", lambda rho: math.atan(rho) * 2 / math.pi)
        return self._distinct(ways, lambda way: way.told)[1:]

    def _distinct(self, ways: Sequence[Any], curve: Callable[[Any], Callable[[float], float]]) -> list[Any]:
        """Those whose curves over the levels are not the same as an earlier one's."""
        kept: list[Any] = []
        curves: list[Array] = []
        for way in ways:
            values = np.array([curve(way)(float(rho)) for rho in self.ratios])
            if not any(np.allclose(values, other, rtol=1e-6, atol=1e-6) for other in curves):
                kept.append(way)
                curves.append(values)
        return kept

    @cached_property
    def processes(self) -> list[tuple[str, Process]]:
        """Other processes that networks are commonly trained on."""
        named: list[tuple[str, Process]] = [
            ("VP()", VP()),
            ("VP(zero_terminal_snr=True)", VP(zero_terminal_snr=True)),
            ("VP.linear()", VP.linear()),
            ("VP.cosine()", VP.cosine()),
            ("EDM()", EDM()),
            ("EDM(sigma_data=1.0)", EDM(sigma_data=1.0)),
            ("AngleV()", AngleV()),
            ("Flow()", Flow()),
            ("Flow(timestep_scale=1.0)", Flow(timestep_scale=1.0)),
            ("VE()", VE()),
            ("FlowVE()", FlowVE()),
        ]
        return [(name, process) for name, process in named if process != self.process]

    # The verdict

    def report(self) -> ModelReport:
        """Ask, read, and say."""
        early = self._first_answers()
        if early:
            return ModelReport(self.claim, (early,), (), (), self.calls)
        claimed = self.read(self.shown, self.told, self.kind, 0)
        assert claimed is not None
        notes = list(self._notes())
        found = list(self._narrow())
        best = self._best(claimed, found)
        knows = bool((self._relative(claimed) < _KNOWS).any())  # more of the data than their variance
        if best is not claimed or not knows:
            found += self._wide()
            best = self._best(claimed, found)
            if best is None or best.excess.max() > _CLOSE:
                found += self._anything()
                best = self._best(claimed, found)
        if best is claimed:
            notes += self._untold(claimed, found)
        findings = [self._unknown(claimed)] if best is None else [] if best is claimed else list(self._explain(best))
        return ModelReport(self.claim, tuple(findings), tuple(notes), self._figures(claimed), self.calls)

    @property
    def claim(self) -> str:
        what = "denoiser" if self.prediction is None else f"{self.prediction} network"
        return f"{what} of {self.process!r}"

    def _first_answers(self) -> Finding | None:
        """What is wrong with the answers before anything is made of them; else they are kept."""
        bad: list[float] = []
        shape = tuple(self.data.shape)
        whole = np.empty((len(self.ratios), len(self.x0), 4, 4))
        answers = self.answers(self.shown, self.told)
        while True:
            try:
                level, row, answer = next(answers, (-1, 0, None))
            except Exception as error:  # whatever a model raises is what is wrong with it
                told = "(x, sigma)" if self.prediction is None else "(x, timestep)"
                what = f"it raises {type(error).__name__} when called {told}, x of shape {shape}: {error}"
                return Finding("raises", what)
            if level < 0:
                break
            if not isinstance(answer, torch.Tensor):
                return Finding(
                    "output", f"it must return a tensor, or an object that holds one; got {type_name(answer)}"
                )
            if tuple(answer.shape) != shape:
                what = f"it must return the shape it is shown, {shape}; got {tuple(answer.shape)}"
                if answer.ndim == len(shape) and answer.shape[2:] == shape[2:]:
                    what += ". If it has more channels than the state, keep those of the prediction"
                return Finding("output", what)
            if not bool(answer.isfinite().all()):
                bad.append(float(self.ratios[level]))
            else:
                whole[level, row : row + self.count] = self._products(level, row, answer)
        if bad:
            where = ", ".join(f"{self._sigma(rho):.4g}" for rho in dict.fromkeys(bad))
            extent = "every level" if len(set(bad)) == len(self.ratios) else f"sigma {where}"
            what = f"its output is not finite at {extent}. "
            if self.data.dtype in (torch.float16, torch.bfloat16):
                what += f"Does it overflow in {self.data.dtype}? Try float32; else look "
            else:
                what += "Look "
            return Finding("not_finite", what + "for a division by a scale that vanishes there, or for broken weights")
        self._seen[self.shown.says, self.told.says] = whole
        return None

    def _notes(self) -> Iterator[str]:
        """What is no mistake but good to know."""
        middle = len(self.ratios) // 2
        state = next(self.states(middle, self.shown))
        told = self.told.told(float(self.ratios[middle]))
        first, second = self.ask(state, told).detach().clone(), self.ask(state, told)
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
            mode = " It is in training mode: call eval()." if getattr(self.model, "training", False) else ""
            yield f"two calls with the same arguments gave different answers.{mode}"

    def _narrow(self) -> Iterator[Hypothesis]:
        """The claim and its neighbours: what can be tried on any model without harm."""
        yield from self.readings(self.shown, self.told, 0)
        for shown in self.inputs[1:]:
            yield from self.readings(shown, self.told, 1)
        for told in self.tables:
            yield from self.readings(self.shown, told, 1)
        yield from self._scaled()

    def _wide(self) -> Iterator[Hypothesis]:
        """What a model may never have been told, for one that is not what is claimed."""
        for told in self.times:
            yield from self.readings(self.shown, told, 1)
        if self.prediction is None:  # a network given raw
            yield from self.readings(input_scaling_of(self.process), self.times[0], 1)
        for name, process in self.processes:
            shown, told = input_scaling_of(process), TimestepConvention("process", name, timesteps_of(process), process)
            yield from self.readings(shown, told, 2)

    def _anything(self) -> Iterator[Hypothesis]:
        for shown in self.inputs[1:]:
            for told in self.times:
                yield from self.readings(shown, told, 2)

    def _best(self, claimed: Hypothesis, found: Iterable[Hypothesis]) -> Hypothesis | None:
        """The simplest reading of those that fit and are as good as the best; None if none fits."""
        fitting = [reading for reading in found if self.fits(reading)]
        if not fitting:
            return None
        best = min(fitting, key=self._loss)
        near = [reading for reading in fitting if self._as_good(reading, best)]
        least = min(reading.cost for reading in near)
        if least:
            return min((reading for reading in near if reading.cost == least), key=self._loss)
        return self._better(claimed, [reading for reading in fitting if reading.kind == claimed.kind])

    def _better(self, claimed: Hypothesis, others: Iterable[Hypothesis]) -> Hypothesis:
        """One of the readings of the same kind that is better, if only by little, or else the claimed one.

        Errors of one kind can be compared level by level, which shows smaller differences.
        """
        gains = [(*self._gain(claimed, other), other) for other in others if other.cost == 1]
        if any(_may_be(gain, sure, other) and not _is(gain, sure, other) for gain, sure, other in gains):
            rows = min(math.ceil(_VALUES / self.data[0].numel()), _REPEATS * self.count)
            if rows > len(self.x0) and self.arguments[4] is None:
                finer = _Trial(*self.arguments, rows=rows)
                again = finer.read(self.shown, self.told, self.kind, 0)
                doubtful = [other for gain, sure, other in gains if _may_be(gain, sure, other)]
                gains = []
                for other in doubtful:
                    same = finer.read(other.shown, other.told, other.kind, 1)
                    if again is not None and same is not None:
                        gains.append((*finer._gain(again, same), other))
                self.calls += finer.calls
        sure = [(gain, other) for gain, sure, other in gains if _is(gain, sure, other)]
        return max(sure, key=lambda pair: pair[0], default=(0.0, claimed))[1]

    @cached_property
    def _weight(self) -> Array:
        """Weight of the levels' x0 errors, (levels, 1).

        The noise of a network's own is in units of the data or of eps, depending on its kind; at these weights both are
        small.
        """
        return (1 / np.maximum(self.variance, self.ratios**2))[:, None] / len(self.ratios)

    def _loss(self, reading: Hypothesis) -> float:
        return float((self._weight * reading.errors).sum(0).mean())

    def _as_good(self, reading: Hypothesis, best: Hypothesis) -> bool:
        """Whether a reading is worse than the best by nothing but chance, or next to nothing."""
        each = (self._weight * (reading.errors - best.errors)).sum(0)
        chance = 4 * float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 7 else math.inf
        return float(each.mean()) <= max(_EQUAL * self._loss(best), min(chance, _CLOSE))

    def _relative(self, reading: Hypothesis) -> Array:
        """Squared x0 error over that of the best linear prediction, at every level."""
        products = self.observe(self.shown, self.told)
        assert products is not None
        linear = [self._linear(rho, here) for rho, here in zip(self.ratios.tolist(), products, strict=True)]
        relative: Array = reading.errors.mean(1) / np.array(linear)
        return relative

    def _gain(self, claimed: Hypothesis, other: Hypothesis) -> tuple[float, float]:
        """How much smaller the error of another reading of the same kind is: relative, and in standard errors.

        Surely not at all if it is larger at some level by more than chance.
        """
        rows = len(self.x0)
        if rows < 8 or other.told.kind == "scale":
            return 0.0, 0.0
        here = np.ones(len(self.ratios), dtype=bool)
        if other.told.process is not None:  # what lies outside the other's range says nothing
            trained = other.told.process
            low, high = self._ratio(trained, trained.sigma_min), self._ratio(trained, trained.sigma_max)
            here = (self.ratios > 0.99 * low) & (self.ratios < 1.01 * high)
        size = np.maximum(other.errors[here].mean(1, keepdims=True), 1e-12 * self.variance)  # points are hit exactly
        share = (claimed.errors - other.errors)[here] / size
        each = share.mean(0)
        gain, spread = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(rows)
        worse = share.mean(1) < -4 * share.std(1, ddof=1) / math.sqrt(rows) - 1e-9
        return (gain, gain / spread if spread else 0.0) if not worse.any() else (gain, -math.inf)

    def _untold(self, claimed: Hypothesis, found: Iterable[Hypothesis]) -> Iterator[str]:
        """Other kinds that fit as well."""
        same = [
            reading.kind
            for reading in found
            if reading.shown is self.shown and reading.told is self.told and reading.kind != claimed.kind
            if self.fits(reading) and self._as_good(reading, claimed) and self._as_good(claimed, reading)
            if np.abs(reading.excess - claimed.excess).max() < _CLOSE
        ]
        if same:
            names = " and ".join(self._named(kind) for kind in same)
            yield f"{names} would fit these data as well: they cannot tell"

    def _scaled(self) -> Iterator[Hypothesis]:
        """The claimed reading with the output times a number, which its ``told.says`` is."""
        products = self.observe(self.shown, self.told)
        assert products is not None
        inner = outer = 0.0
        for rho, here in zip(self.ratios.tolist(), products.mean(1), strict=True):
            p, q = target_weights(self.kind, rho, self.shown.data)
            power = p * p * self.variance + q * q
            inner += self.kind.sign * (p * here[0, 1] + q * here[0, 2]) / power
            outer += here[0, 0] / power
        factor = inner / outer if outer else 0.0
        if not 0.02 < factor < 50 or 0.8 < factor < 1.25:
            return
        scaled = products.copy()
        scaled[:, :, 0, :] *= factor
        scaled[:, :, :, 0] *= factor
        told = self.told._replace(kind="scale", says=f"{factor:.6g}")
        self._seen[self.shown.says, told.says] = scaled
        reading = self.read(self.shown, told, self.kind, 1)
        if reading is not None:
            yield reading

    # In words

    def _named(self, kind: OutputType) -> str:
        """A kind of answer as people call it."""
        if kind == OutputType("v_prediction", -1) and (self.prediction == "edm" or "edm" in self._allowed):
            return "edm"
        return f"the negative of {kind.base}" if kind.sign < 0 else kind.base

    @property
    def _allowed(self) -> tuple[str, ...]:
        return self.process.predictions

    def _explain(self, best: Hypothesis) -> Iterator[Finding]:
        """What is wrong with the claim if this reading is right."""
        if best.told.kind == "process":
            yield self._another_process(best)
            return
        if best.told.kind == "scale":
            factor = float(best.told.says)
            what = f"its output must be multiplied by {factor:.4g}: it is that of a {self._named(self.kind)} network "
            yield Finding("scale", what + f"times {1 / factor:.4g}")
            return
        if self.prediction is None and best.told.says == "the timestep of the level":
            yield self._raw(best)
            return
        if best.shown is not self.shown:
            yield self._input(best)
        if best.told is not self.told:
            yield self._time(best)
        kind = best.kind
        if (kind.base, kind.sign) != (self.kind.base, self.kind.sign):
            yield self._answer(kind)

    def _answer(self, kind: OutputType) -> Finding:
        """Another prediction type or sign."""
        found = self._named(kind)
        if kind.base == self.kind.base:
            what = "its output has the wrong sign: negate it"
            if kind.base == "v_prediction" and "edm" in self._allowed:
                what += f', or take prediction="{found}", which is the negative of {self.prediction}'
            elif kind.base == "flow":
                what += ". Its velocity points from noise to data, and is taken as eps - x0"
            return Finding("sign", what)
        if self.prediction is None:
            what = f"it returns {found}, and must return x0 as it predicts it"
            if kind.base == "epsilon" and kind.sign > 0:
                what += ": denoised = x - sigma * eps for states x0 + sigma * eps"
            return Finding("prediction", what + ". A network that predicts something else goes into a Denoiser")
        what = f"it predicts {found}, not {self.prediction}: "
        if kind.sign < 0 and found != "edm":
            return Finding("prediction", what + f'negate its output and take prediction="{kind.base}"')
        if kind.base not in self._allowed and found != "edm":
            return Finding("prediction", what + f"a {type(self.process).__name__} network does not; see to its process")
        what += f'Denoiser(network, process, prediction="{found}")'
        if kind.base == "epsilon" and self.process.zero_terminal_snr:
            what += ", and a process without zero terminal SNR, which epsilon cannot have"
        return Finding("prediction", what)

    def _input(self, best: Hypothesis) -> Finding:
        """Another scale of the input."""
        shown, ours = best.shown, self.shown
        if self.prediction is None:
            if shown.says == "unscaled":
                return Finding("input", "it wants states x0 + sigma * eps, and is given those of a flow")
            if shown.says == "the inverse":
                return Finding(
                    "input", "it scales the state for its network by sqrt(1 + sigma ** 2) twice: once is right"
                )
            what = f"it does not scale the state for its network: the network must see x / ({shown.says})"
            return Finding("input", what)
        if shown.says == "unscaled":
            what = (
                f"its input is scaled twice: it wants x0 + sigma * eps as it is, and is shown that {ours.says}. It "
                "scales it itself; give the network without that, or a process without scaling"
            )
        elif shown.says == "twice":
            what = (
                f"its input is not scaled: it wants the state {ours.says} once more than it is shown it. Something "
                "undoes the scaling"
            )
        else:
            what = (
                f"its input is scaled wrongly: it wants x0 + sigma * eps over {shown.says}, and is shown it {ours.says}"
            )
        return Finding("input", what)

    def _time(self, best: Hypothesis) -> Finding:
        """Another thing that the network is told."""
        told, ours = best.told, self.told
        if told.kind == "table":
            what = f"it was trained on another table of betas: the {told.says} fits better, {told.process!r}"
            return Finding("table", what)
        ends = [way.told(float(rho)) for way in (told, ours) for rho in self.ratios[[0, -1]]]
        what = (
            f"it is told the wrong timesteps: it wants {told.says} ({ends[0]:.4g} to {ends[1]:.4g}), and is told "
            f"{ours.says} ({ends[2]:.4g} to {ends[3]:.4g})"
        )
        if self.process.is_flow:
            scale = {True: "Flow(timestep_scale=1.0)", False: "Flow(timestep_scale=1000.0)"}
            if told.says.startswith("timesteps from"):
                what += f": {scale[told.told(999.0) < 10]}"
        return Finding("timestep", what)

    def _another_process(self, best: Hypothesis) -> Finding:
        """More is wrong than one thing, and a common process is right."""
        edm = best.kind == OutputType("v_prediction", -1) and isinstance(best.told.process, EDM)
        found = "edm" if edm else self._named(best.kind)
        what = f"it is a network of another process: {best.told.says}, of which it predicts {found}"
        if best.kind.sign > 0 or edm:
            what += f': Denoiser(network, ksched.{best.told.says}, "{found}")'
        return Finding("process", what)

    def _raw(self, best: Hypothesis) -> Finding:
        """A network where a denoiser should be."""
        found = self._named(best.kind)
        what = f"it is told sigma and wants the timestep: a raw network that predicts {found}. Put it into a Denoiser"
        return Finding("timestep", what)

    def _unknown(self, claimed: Hypothesis) -> Finding:
        """No reading fits."""
        worst = [f"{self._sigma(rho):.4g}" for rho in self.ratios[claimed.excess > self.slack]]
        where = "at every level" if len(worst) == len(self.ratios) else f"at sigma {', '.join(worst)}"
        low, high = float(self.data.min()), float(self.data.max())
        mean, std = self.mean * self.scale, math.sqrt(self.variance) * self.scale
        what = (
            f"it is worse than a linear prediction {where}, and no other prediction type, sign, scale, timestep or "
            "process explains it. Is it trained, does it have its condition, and are these its data? They have mean "
            f"{mean:.3g}, std {std:.3g}, and lie between {low:.3g} and {high:.3g}"
        )
        return Finding("unknown", what)

    def _figures(self, claimed: Hypothesis) -> tuple[LevelFigures, ...]:
        products = self.observe(self.shown, self.told)
        assert products is not None
        rows = []
        for rho, here, errors in zip(self.ratios.tolist(), products, claimed.errors, strict=True):
            error, linear = math.sqrt(max(0.0, float(errors.mean()))), math.sqrt(self._linear(rho, here))
            figures = error * self.scale, linear * self.scale
            rows.append(LevelFigures(self._sigma(rho), self.told.told(rho), *figures))
        return tuple(rows)


def _is(gain: float, sure: float, other: Hypothesis) -> bool:
    """Whether another reading is better than the claimed one."""
    return sure > _SURE and gain > (_BETTER_TABLE if other.told.kind == "table" else _BETTER)


def _may_be(gain: float, sure: float, other: Hypothesis) -> bool:
    """Whether it may be, were more known."""
    return other.told.kind != "scale" and sure > -3


def _squares(vector: Array, products: Array) -> Array:
    """Mean square of a combination of (answer, x0, eps, 1), of every row."""
    values: Array = np.einsum("a,rab,b->r", vector, products, vector)
    return values


def _checked(name: str, value: Any, like: torch.Tensor | None = None) -> torch.Tensor:
    """A floating-point tensor with a batch axis, finite."""
    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    if not tensor.is_floating_point() or tensor.ndim < 1 or not tensor.numel():
        raise TypeError(
            f"{name} must be a floating-point tensor with a batch axis; got {tensor.dtype}, {tensor.ndim}-D"
        )
    if like is not None and tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of data, {tuple(like.shape)}; got {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite")
    return tensor
